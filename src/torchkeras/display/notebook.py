"""Show a run in a notebook: one view, updated in place, that stays in the saved file."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

from torchkeras.core import text
from torchkeras.display.digest import Digest
from torchkeras.display.html import Shown, places, view
from torchkeras.display.live import share_done, time_left
from torchkeras.display.protocols import HasRun, RunView
from torchkeras.display.samples import Samples
from torchkeras.engine.callback import Callback

REDRAW_EVERY = 0.25  # seconds: a front end takes a few messages a second
IDLE = 200  # pause in units of the time a view took to draw: at most 0.5 % of the run
LONGEST_WAIT, BUSY = 2.0, 100  # seconds at most, but no more than 1 % of the run is drawing
Show = Callable[[dict[str, str]], object]


class NotebookProgress(Callback):
    """Shows a run in a notebook: bar, table and curves in one place, without widgets or scripts.

    However the run ends, the last view stays and says whether it is done, stopped, interrupted or
    failed.

    Args:
        plot: draw the curves.
        show: takes each view, a dict of MIME type to text, in place of the notebook; the first one
            opens it.
        clock: gives seconds; for tests.

    Example:
        >>> views = []
        >>> display = NotebookProgress(show=views.append)
        >>> model.fit(train, quiet=True, callbacks=[display])  # doctest: +SKIP
    """

    main_only = allows_multi_step = True

    def __init__(self, plot: bool = True, show: Show | None = None,
                 clock: Callable[[], float] = time.perf_counter) -> None:
        self.plot, self.given, self.clock = plot, show, clock
        self.next_look = 0.0
        self.show: Show | None = None

    def on_fit_start(self, model: HasRun) -> None:
        """Open the view."""
        self.show = self.given or in_place()
        self.samples, self.digest = Samples(), Digest()
        self.numbers: dict[str, float] = {}
        self.batches: list[tuple[float, float]] = []
        self.began = self.pass_began = self.clock()
        self.draw(model.run, self.began)
        self.next_look, self.next_draw = 0.0, self.began + REDRAW_EVERY

    def on_epoch_start(self, model: HasRun) -> None:
        """Start the clock of the training pass."""
        self.pass_began = self.clock()

    def on_step_end(self, model: HasRun) -> None:
        """Record the batch's loss, and draw, when it is time."""
        now = self.clock()
        if now >= self.next_look:
            self.record(model.run, now)

    def on_train_epoch_end(self, model: HasRun) -> None:
        """Start the clock of the validation pass."""
        self.pass_began = self.clock()

    def record(self, run: RunView, now: float) -> None:
        """Record the batch's loss; draw unless that was done a moment ago."""
        self.samples.take(run)
        self.next_look = now + self.samples.every
        if now >= self.next_draw:
            self.draw(run, now)

    def on_validation_epoch_end(self, model: HasRun) -> None:
        """Draw the epoch's row when it is time."""
        now = self.clock()
        if now >= self.next_draw:
            self.draw(model.run, now, whole=True)

    def on_fit_end(self, model: HasRun) -> None:
        """Draw the last view."""
        run = model.run
        ended = "done" if run.stop_reason is None else "stopped"
        state = "interrupted" if run.interrupted else ended
        self.draw(run, self.clock(), state, run.stop_reason or "", whole=True)

    def on_exception(self, model: HasRun) -> None:
        """Draw the last view with the error."""
        if self.show is None or model.run is None:
            return
        error = sys.exc_info()[1]
        state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        self.draw(model.run, self.clock(), state,
                  "" if error is None else text.short(brief(error), 300))

    def draw(self, run: RunView, now: float, state: str = "running", reason: str = "",
             whole: bool = False) -> None:
        """Draw one view; the longer it took, the later the next one."""
        try:
            self.numbers = {} if whole else dict(run.current_metrics())
            self.batches = self.samples.read() if self.plot else []
        except Exception:
            if state == "running":
                raise
            self.numbers = {}  # the device may be what failed
        shown = self.shown(run, now, state, reason, whole)
        if self.show is not None:
            self.show({"text/html": view(shown), "text/plain": plain(shown)})
        end = self.clock()
        took = end - now
        self.next_draw = end + min(max(REDRAW_EVERY, IDLE * took), max(LONGEST_WAIT, BUSY * took))

    def shown(self, run: RunView, now: float, state: str, reason: str, whole: bool) -> Shown:
        """Collect what the view shows."""
        history, numbers = run.history, self.numbers
        epochs = history.get("epoch", ())
        rows = len(epochs)
        # while an epoch is validated, its row has begun
        if not whole and epochs and epochs[-1] == run.epoch:
            newest = {name: column[-1] for name, column in history.items() if name != "epoch"}
            measured = {name: value for name, value in newest.items() if not math.isnan(value)}
            numbers = measured | numbers
            rows -= 1
        lines = self.digest.lines(history, rows, run.monitor.best_epoch) if self.plot else {}
        over = whole and state != "running"
        steps = run.global_step if over else run.step
        seconds = now - (self.began if over else self.pass_began)
        return Shown(
            state=state, reason=reason, device=run.device,
            epoch=int(epochs[-1]) if over and epochs else run.epoch, epochs=run.config.epochs,
            fraction=1.0 if state == "done" else share_done(run, whole), stage=run.stage,
            step=0 if whole else run.step, steps=run.steps, seconds=now - self.began,
            left=time_left(run, now - self.began, whole),
            rate=steps / seconds if seconds > 0 else 0.0, numbers=numbers, history=history,
            rows=rows, lines=lines, monitor=run.monitor.name, best=run.monitor.best,
            best_epoch=run.monitor.best_epoch, notes=list(run.notes), batches=self.batches,
            curves=self.plot)


def brief(error: BaseException) -> str:
    """Format an error on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")


def plain(shown: Shown) -> str:
    """Return the view as text, for viewers without HTML."""
    history, names = shown.history, list(shown.history)
    rows = [] if shown.state == "running" else places(shown)
    lines, before = [text.header(names)] if rows else [], -1
    for place in rows:
        if place > before + 1:
            lines.append(f"   ... {place - before - 1:,} epochs left out ...")
        row = {name: history[name][place] for name in names}
        lines.append(text.table_row(row, names, star=row["epoch"] == shown.best_epoch))
        before = place
    last = text.last_line(shown.monitor, shown.best, shown.best_epoch, shown.seconds)
    return "\n".join([*lines, " · ".join(filter(None, (shown.state, shown.reason, last)))])


def in_place() -> Show:
    """Return a function that shows a view in the running cell in place of the one before."""
    from IPython.display import display

    in_cell: Callable[..., Any] = display
    handle: Any = None

    def show(bundle: dict[str, str]) -> None:
        nonlocal handle
        if handle is None:
            handle = in_cell(bundle, raw=True, display_id=True)
        else:
            handle.update(bundle, raw=True)

    return show
