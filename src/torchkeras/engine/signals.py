"""Ctrl-C and SIGTERM: the first ends the run in good order, a second Ctrl-C at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from torchkeras.core.stop import PassEnded, Request
from torchkeras.engine.run import Run


@contextmanager
def signals(run: Run) -> Iterator[None]:
    """Listen for Ctrl-C and SIGTERM during a run; afterwards the old handlers are back.

    Python delivers signals to the main thread alone: elsewhere nothing is installed. A signal that is ignored stays so:
    a shell ignores Ctrl-C for what it runs in the background, and nohup and supervisors do so on purpose.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pressed(number: int, frame: FrameType | None) -> None:
        if run.interrupted:
            raise KeyboardInterrupt
        run.interrupted = True
        run.stop("interrupted by Ctrl-C")

    def terminated(number: int, frame: FrameType | None) -> None:
        run.ask(Request("terminated by SIGTERM", exit_code=128 + number))  # what a shell reports of such an end

    before = {number: signal.signal(number, handler)
              for number, handler in ((signal.SIGINT, pressed), (signal.SIGTERM, terminated))
              if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextmanager
def workers_interrupted(run: Run) -> Iterator[None]:
    """Ctrl-C reaches the workers of a DataLoader too, and they leave at once: that ends the pass as any other."""
    try:
        yield
    except RuntimeError as error:
        if run.interrupted and "DataLoader worker" in str(error):
            raise (PassEnded if run.together.world == 1 else KeyboardInterrupt) from error
        raise
