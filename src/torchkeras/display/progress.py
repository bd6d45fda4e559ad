"""Choose the display of a run when it begins, by where its output goes."""

from __future__ import annotations

from torchkeras.core.screen import detect
from torchkeras.core.types import Value
from torchkeras.display.live import LiveProgress
from torchkeras.display.notebook import NotebookProgress
from torchkeras.display.protocols import HasRun
from torchkeras.engine.callback import Callback


class Progress(Callback):
    """Shows a run: curves in a notebook, a live line in a terminal, plain lines in a log.

    ``fit`` adds one unless ``quiet=True``; pass your own to set its arguments.

    Args:
        plot: draw the curves: in a notebook as the run goes on, in a terminal when it is over.

    Example:
        >>> model.fit(train, callbacks=[Progress(plot=False)])  # doctest: +SKIP
    """

    main_only = allows_multi_step = True

    def __init__(self, plot: bool = True) -> None:
        self.plot = plot
        self.shown: NotebookProgress | LiveProgress | None = None

    def on_fit_start(self, model: HasRun) -> None:
        """Choose the display, new for each run, and open it."""
        kind = NotebookProgress if detect() == "notebook" else LiveProgress
        self.shown = kind(self.plot)
        self.shown.on_fit_start(model)

    def on_epoch_start(self, model: HasRun) -> None:
        """Pass the event on to the display."""
        if self.shown is not None:
            self.shown.on_epoch_start(model)

    def on_step_end(self, model: HasRun) -> None:
        """Pass the event on to the display."""
        if self.shown is not None:
            self.shown.on_step_end(model)

    def on_train_epoch_end(self, model: HasRun) -> None:
        """Pass the event on to the display."""
        if self.shown is not None:
            self.shown.on_train_epoch_end(model)

    def on_validation_epoch_end(self, model: HasRun) -> None:
        """Pass the event on to the display."""
        if self.shown is not None:
            self.shown.on_validation_epoch_end(model)

    def on_fit_end(self, model: HasRun) -> None:
        """Pass the event on to the display."""
        if self.shown is not None:
            self.shown.on_fit_end(model)

    def on_exception(self, model: HasRun) -> None:
        """Pass the event on to the display."""
        if self.shown is not None:
            self.shown.on_exception(model)


def one_display(listeners: list[Value]) -> list[Value]:
    """Return the callbacks with at most one display; of several, one with curves is kept."""
    displays = [one for one in listeners if isinstance(one, Progress)]
    kept = max(displays, key=lambda one: one.plot, default=None)
    return [one for one in listeners if one is kept or not isinstance(one, Progress)]
