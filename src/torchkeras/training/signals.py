"""Handle Ctrl-C and SIGTERM: the first ends the run in good order, a second Ctrl-C at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from torchkeras.core.stop import Request
from torchkeras.engine.run import Run


@contextmanager
def signals(run: Run) -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM during a run; restore the old handlers at its end.

    Python delivers signals to the main thread only: in others nothing is installed. An ignored
    signal stays ignored: a shell ignores Ctrl-C for background jobs, and nohup and supervisors do
    so on purpose.
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
        # the exit code that a shell reports for a signal
        run.request(Request("terminated by SIGTERM", exit_code=128 + number))

    before = {number: signal.signal(number, handler)
              for number, handler in ((signal.SIGINT, pressed), (signal.SIGTERM, terminated))
              if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
