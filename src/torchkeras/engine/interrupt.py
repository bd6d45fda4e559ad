"""Ctrl-C: the first press ends the run in good order, the second at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from torchkeras.engine.run import Run


@contextmanager
def ctrl_c(run: Run) -> Iterator[None]:
    """Listen for Ctrl-C during a run; afterwards the old handler is back.

    Python delivers signals to the main thread alone: elsewhere nothing is installed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pressed(number: int, frame: FrameType | None) -> None:
        if run.interrupted:
            raise KeyboardInterrupt
        run.interrupted = True
        run.stop("interrupted by Ctrl-C")

    before = signal.signal(signal.SIGINT, pressed)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before if before is not None else signal.default_int_handler)
