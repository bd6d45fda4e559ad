"""The listener that shows a run while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from torchkeras.core import text
from torchkeras.core.screen import open_screen
from torchkeras.display import plot
from torchkeras.engine.callback import Callback

REDRAW_EVERY = 0.1  # seconds, in a terminal
IDLE = 200  # times as long as a line took to draw, nothing is drawn: half a percent of the time at most
HEARTBEAT_EVERY = 60.0  # seconds, in a log
HEAD_EVERY = 20  # rows of the table between two heads


class LiveProgress(Callback):
    """Shows a run: in a terminal a live line under a growing table, elsewhere a plain line an epoch.

    Args:
        plot: in a terminal, draw the curves when the run is over.
        write: takes each line in place of standard output.
        clock: gives seconds; for tests.

    Example:
        >>> lines = []
        >>> model.fit(train, quiet=True, callbacks=[LiveProgress(write=lines.append)])  # doctest: +SKIP
    """

    main_only = looks_only = True

    def __init__(self, plot: bool = True, write: Callable[[str], object] | None = None,
                 clock: Callable[[], float] = time.perf_counter) -> None:
        self.plot, self.write, self.clock = plot, write, clock
        self.rows = 0
        self.columns: list[str] = []  # those of the table's last head
        self.next_draw = 0.0

    def on_fit_start(self, model: Any) -> None:
        """Say where the run computes and what was decided for it."""
        self.screen = open_screen(self.write)
        self.every = REDRAW_EVERY if self.screen.live else HEARTBEAT_EVERY
        self.rows, self.began = 0, self.clock()
        self.noted = 0
        if model.run.device:
            self.screen.line(text.device_line(model.run.device))
        self.tell_notes(model.run)

    def tell_notes(self, run: Any) -> None:
        """What the run noted since the last time."""
        for note in run.notes[self.noted:]:
            self.screen.line(note)
        self.noted = len(run.notes)

    def on_epoch_start(self, model: Any) -> None:
        """An epoch's clock starts."""
        self.epoch_began = self.pass_began = self.clock()
        self.next_draw = self.epoch_began + self.every

    def on_step_end(self, model: Any) -> None:
        """Look at the clock; draw when it is time."""
        now = self.clock()
        if now >= self.next_draw:
            self.draw(model, now)
            self.next_draw = now + self.every
            if self.screen.live:
                self.next_draw = max(self.next_draw, now + IDLE * (self.clock() - now))

    def on_train_epoch_end(self, model: Any) -> None:
        """The validation pass has a clock of its own."""
        self.pass_began = self.clock()

    def draw(self, model: Any, now: float) -> None:
        """The live line, or a heartbeat in a log."""
        run = model.run
        numbers = run.numbers()
        state = {"epoch": run.epoch, "epochs": run.config.epochs, "stage": run.stage, "step": run.step,
                 "steps": run.steps, "elapsed": now - self.pass_began, "left": time_left(run, now - self.began),
                 "numbers": numbers}
        if self.screen.live:
            best = "" if run.monitor.best is None else text.number(run.monitor.best)
            self.screen.redraw(text.progress_line(**state, best=best, width=self.screen.width))
        else:
            self.screen.line(text.rate_line(stamp(), **state))

    def on_validation_epoch_end(self, model: Any) -> None:
        """The epoch's row, and whether it is the best."""
        run, now = model.run, self.clock()
        row = {name: column[-1] for name, column in run.history.items()}
        self.screen.close()
        self.tell_notes(run)
        if self.screen.live:
            names = text.columns(list(row), self.screen.width, run.monitor.name)
            if self.rows % HEAD_EVERY == 0 or names != self.columns:
                self.columns = names
                self.screen.line(text.header(names))
            self.screen.line(text.table_row(row, names, star=run.monitor.improved))
        else:
            self.screen.line(text.plain_line(stamp(), row, run.config.epochs, now - self.epoch_began))
        if run.monitor.improved:
            self.screen.line(text.best_line(run.monitor.name, run.monitor.best))
        self.rows += 1

    def on_fit_end(self, model: Any) -> None:
        """How it ended, the curves, the best epoch and the time it took."""
        run = model.run
        self.screen.close(keep=True)  # a line is still there only when the run ended in mid-epoch
        if run.stop_reason is not None:
            self.screen.line(text.stop_line(run.stop_reason))
        if self.plot and self.screen.live:
            for quantity in dict.fromkeys([run.monitor.name.split("_", 1)[-1], "loss"]):
                drawn = plot.curves(run.history, quantity, min(self.screen.width, 100), colour=self.screen.colour,
                                    best_epoch=run.monitor.best_epoch)
                if drawn:
                    self.screen.line(drawn)
        self.tell_notes(run)
        self.screen.line(text.last_line(run.monitor.name, run.monitor.best, run.monitor.best_epoch,
                                        self.clock() - self.began))

    def on_exception(self, model: Any) -> None:
        """Give the cursor back before the error is shown; the line stays as it last was."""
        if hasattr(self, "screen"):
            self.screen.close(keep=True)


def share_done(run: Any, whole: bool = False) -> float:
    """How much of a run is behind it, 0 to 1; validation counts nothing, since the next epoch's is to come too."""
    total = run.config.epochs - run.config.initial_epoch
    in_epoch = 1.0 if whole or run.stage != "train" else run.step / run.steps if run.steps else 0.0
    return min(max(run.epoch - run.config.initial_epoch - 1 + in_epoch, 0.0) / total, 1.0)


def time_left(run: Any, seconds: float, whole: bool = False) -> float | None:
    """Seconds to the last epoch, at the pace of those so far; None where the data does not tell its length."""
    done = share_done(run, whole)
    return seconds / done * (1 - done) if run.steps and done > 0 else None


def stamp() -> str:
    """The time of day for a log line."""
    return f"{datetime.now():%Y-%m-%d %H:%M:%S}"
