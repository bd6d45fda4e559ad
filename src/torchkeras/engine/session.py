"""Around a run: what is set up before it and put back after it, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torchkeras.engine import hardware, modes, preflight
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.interrupt import ctrl_c
from torchkeras.engine.run import Run
from torchkeras.engine.state import Untouched


@contextmanager
def session(model: Any, run: Run, callbacks: CallbackList, before: Untouched,
            last_batch: int | None) -> Iterator[None]:
    """Device, modes, Ctrl-C; a run that fails before its first update leaves weights and random state as they were."""
    previous, model.run, run.active = model.run, run, True
    metrics = [metric for one in run.tools.metrics.values() for metric in one.values()]
    with (ctrl_c(run), modes.training(model.net), preflight.batchnorm_watch(model.net, last_batch),
          hardware.placed(run.accelerator.device, model.net, model.loss_fn, *metrics, optimizer=model.optimizer)):
        try:
            yield
        except BaseException as error:
            tell(callbacks, error)
            if run.updates == 0:
                before.restore()
                model.run = previous
            raise
        finally:
            run.active, run.running, run.logs = False, dict, {}  # holds on to no batch, step or listener


def tell(callbacks: CallbackList, error: BaseException) -> None:
    """Tell listeners about an error; what goes wrong in them does not take its place."""
    try:
        callbacks.announce("on_exception")
    except Exception as second:
        error.add_note(f"A callback failed in on_exception too: {second!r}")
