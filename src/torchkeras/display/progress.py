"""The display of a run, chosen when the run begins by where its output goes."""

from __future__ import annotations

from typing import Any

from torchkeras.core.screen import detect
from torchkeras.display.live import LiveProgress
from torchkeras.display.notebook import NotebookProgress
from torchkeras.engine.callback import Callback


class Progress(Callback):
    """Shows a run where you are: a picture in a notebook, a live line in a terminal, plain lines in a log.

    ``fit`` uses one by itself unless ``quiet=True``; give your own to decide otherwise.

    Args:
        plot: draw the curves: in a notebook as the run goes on, in a terminal when it is over.

    Example:
        >>> model.fit(train, callbacks=[Progress(plot=False)])  # doctest: +SKIP
    """

    main_only = looks_only = True

    def __init__(self, plot: bool = True) -> None:
        self.plot = plot
        self.shown: NotebookProgress | LiveProgress | None = None

    def on_fit_start(self, model: Any) -> None:
        """Choose; each run is shown afresh."""
        self.shown = NotebookProgress(self.plot) if detect() == "notebook" else LiveProgress(self.plot)
        self.shown.on_fit_start(model)

    def on_epoch_start(self, model: Any) -> None:
        """Pass it on, as all the moments that follow."""
        if self.shown is not None:
            self.shown.on_epoch_start(model)

    def on_step_end(self, model: Any) -> None:
        """A batch is done."""
        if self.shown is not None:
            self.shown.on_step_end(model)

    def on_train_epoch_end(self, model: Any) -> None:
        """The training pass is over."""
        if self.shown is not None:
            self.shown.on_train_epoch_end(model)

    def on_validation_epoch_end(self, model: Any) -> None:
        """The epoch is over."""
        if self.shown is not None:
            self.shown.on_validation_epoch_end(model)

    def on_fit_end(self, model: Any) -> None:
        """The run is over."""
        if self.shown is not None:
            self.shown.on_fit_end(model)

    def on_exception(self, model: Any) -> None:
        """An error is on its way out."""
        if self.shown is not None:
            self.shown.on_exception(model)


def one_display(listeners: list[Any]) -> list[Any]:
    """The listeners with at most one display among them: the one with curves, where there are several."""
    displays = [one for one in listeners if isinstance(one, Progress)]
    kept = max(displays, key=lambda one: one.plot, default=None)
    return [one for one in listeners if one is kept or not isinstance(one, Progress)]
