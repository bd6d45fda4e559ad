"""Where a program waits for the GPU, as torch warns of it."""

import contextlib
import traceback
import warnings
from pathlib import Path

import torch

from torchkeras import Callback


@contextlib.contextmanager
def waits():
    """Collects a line for each wait: where torch warns, and the innermost line of this package."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, category, filename, line, *_: found.append(
            f"{Path(filename).name}:{line} from {innermost()}") if (
                "called a synchronizing" in str(message)) else None
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def innermost():
    frames = [one for one in traceback.extract_stack() if "torchkeras" in one.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "-"


class Watch(Callback):
    """Collects the waits between two steps of the first epoch."""

    looks_only = True

    def __init__(self, first=5, last=60):
        self.first, self.last, self.found, self.steps = first, last, [], 0
        self.stack = contextlib.ExitStack()

    def on_step_end(self, model):
        if model.run.stage != "train" or model.run.epoch != 1:
            return
        if model.run.step == self.first:
            self.found = self.stack.enter_context(waits())
        if self.first < model.run.step <= self.last:
            self.steps += 1
        if model.run.step == self.last:
            self.stack.close()
