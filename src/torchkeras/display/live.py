"""Show a run in a terminal or a log while it goes on."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from torchkeras.core import text
from torchkeras.core.screen import open_screen
from torchkeras.display import plot
from torchkeras.display.protocols import HasRun, RunView
from torchkeras.engine.callback import Callback

REDRAW_EVERY = 0.1  # seconds, in a terminal
IDLE = 200  # pause in units of the time a line took to draw: at most 0.5 % of the run
HEARTBEAT_EVERY = 60.0  # seconds, in a log
HEAD_EVERY = 20  # rows of the table between two header lines


class LiveProgress(Callback):
    """Shows a run: in a terminal a live line under a growing table, elsewhere one line an epoch.

    Args:
        plot: in a terminal, draw the curves when the run is over.
        write: takes each line in place of standard output.
        clock: gives seconds; for tests.

    Example:
        >>> lines = []
        >>> display = LiveProgress(write=lines.append)
        >>> model.fit(train, quiet=True, callbacks=[display])  # doctest: +SKIP
    """

    main_only = allows_multi_step = True

    def __init__(self, plot: bool = True, write: Callable[[str], object] | None = None,
                 clock: Callable[[], float] = time.perf_counter) -> None:
        self.plot, self.write, self.clock = plot, write, clock
        self.rows = 0
        self.columns: list[str] = []  # of the table's last header line
        self.next_draw = 0.0

    def on_fit_start(self, model: HasRun) -> None:
        """Print the device and the notes of the run."""
        self.screen = open_screen(self.write)
        self.every = REDRAW_EVERY if self.screen.live else HEARTBEAT_EVERY
        self.rows, self.began = 0, self.clock()
        self.noted = 0
        if model.run.device:
            self.screen.line(text.device_line(model.run.device))
        self.print_notes(model.run)

    def print_notes(self, run: RunView) -> None:
        """Print the notes that are new since the last call."""
        for note in run.notes[self.noted:]:
            self.screen.line(note)
        self.noted = len(run.notes)

    def on_epoch_start(self, model: HasRun) -> None:
        """Start the epoch's clock."""
        self.epoch_began = self.pass_began = self.clock()
        self.next_draw = self.epoch_began + self.every

    def on_step_end(self, model: HasRun) -> None:
        """Draw when it is time."""
        now = self.clock()
        if now >= self.next_draw:
            self.draw(model, now)
            self.next_draw = now + self.every
            if self.screen.live:
                self.next_draw = max(self.next_draw, now + IDLE * (self.clock() - now))

    def on_train_epoch_end(self, model: HasRun) -> None:
        """Start the clock of the validation pass."""
        self.pass_began = self.clock()

    def draw(self, model: HasRun, now: float) -> None:
        """Draw the live line, or print a heartbeat in a log."""
        run = model.run
        numbers = run.current_metrics()
        state: dict[str, Any] = {
            "epoch": run.epoch, "epochs": run.config.epochs, "stage": run.stage, "step": run.step,
            "steps": run.steps, "elapsed": now - self.pass_began,
            "left": time_left(run, now - self.began), "numbers": numbers}
        if self.screen.live:
            best = "" if run.monitor.best is None else text.number(run.monitor.best)
            self.screen.redraw(text.progress_line(**state, best=best, width=self.screen.width))
        else:
            self.screen.line(text.rate_line(stamp(), **state))

    def on_validation_epoch_end(self, model: HasRun) -> None:
        """Print the epoch's row, and whether it is the best."""
        run, now = model.run, self.clock()
        row = {name: column[-1] for name, column in run.history.items()}
        self.screen.close()
        self.print_notes(run)
        if self.screen.live:
            names = text.columns(list(row), self.screen.width, run.monitor.name)
            if self.rows % HEAD_EVERY == 0 or names != self.columns:
                self.columns = names
                self.screen.line(text.header(names))
            self.screen.line(text.table_row(row, names, star=run.monitor.improved))
        else:
            self.screen.line(text.plain_line(stamp(), row, run.config.epochs,
                                             now - self.epoch_began))
        if run.monitor.improved and run.monitor.best is not None:
            self.screen.line(text.best_line(run.monitor.name, run.monitor.best))
        self.rows += 1

    def on_fit_end(self, model: HasRun) -> None:
        """Print how the run ended, the curves, the best epoch and the time it took."""
        run = model.run
        self.screen.close(keep=True)  # a line is left only if the run ended in mid-epoch
        if run.stop_reason is not None:
            self.screen.line(text.stop_line(run.stop_reason))
        if self.plot and self.screen.live:
            for quantity in dict.fromkeys([run.monitor.name.split("_", 1)[-1], "loss"]):
                drawn = plot.curves(run.history, quantity, min(self.screen.width, 100),
                                    colour=self.screen.colour, best_epoch=run.monitor.best_epoch)
                if drawn:
                    self.screen.line(drawn)
        self.print_notes(run)
        self.screen.line(text.last_line(run.monitor.name, run.monitor.best, run.monitor.best_epoch,
                                        self.clock() - self.began))

    def on_exception(self, model: HasRun) -> None:
        """Restore the cursor before the error is shown; the line stays."""
        if hasattr(self, "screen"):
            self.screen.close(keep=True)


def share_done(run: RunView, whole: bool = False) -> float:
    """Return which share of the training batches is done, 0 to 1."""
    total = run.config.epochs - run.config.initial_epoch
    in_epoch = 1.0 if whole or run.stage != "train" else run.step / run.steps if run.steps else 0.0
    return min(max(run.epoch - run.config.initial_epoch - 1 + in_epoch, 0.0) / total, 1.0)


def time_left(run: RunView, seconds: float, whole: bool = False) -> float | None:
    """Return the seconds left at the pace so far; None if the data has no length."""
    done = share_done(run, whole)
    return seconds / done * (1 - done) if run.steps and done > 0 else None


def stamp() -> str:
    """Return date and time for a log line."""
    return f"{datetime.now():%Y-%m-%d %H:%M:%S}"
