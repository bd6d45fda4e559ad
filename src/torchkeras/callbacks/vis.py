"""The display under its older names."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torchkeras.callbacks.logger import told_of
from torchkeras.core.errors import bad_type, whole_number
from torchkeras.core.screen import detect
from torchkeras.display.figures import plot_history
from torchkeras.display.progress import Progress
from torchkeras.display.targets import target
from torchkeras.engine.callback import Callback


class VisProgress(Progress):
    """Shows how far a run is, with the table of its epochs and without curves.

    Example:
        >>> model.fit(train, callbacks=[VisProgress()])  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__(plot=False)


class VisMetric(Progress):
    """Shows a run with its curves, and keeps a picture of them when asked.

    Args:
        figsize: width and height of one curve in the picture, in inches.
        save_path: the picture file, such as "history.png", written when the run ends; None writes none.

    Raises:
        TypeError: ``save_path`` is no path.
        ValueError: it cannot be written.

    Example:
        >>> model.fit(train, callbacks=[VisMetric(save_path="history.png")])  # doctest: +SKIP
    """

    def __init__(self, figsize: tuple[float, float] = (6, 4), save_path: str | os.PathLike[str] | None = None) -> None:
        super().__init__(plot=True)
        self.figsize = figsize
        self.save_path = None if save_path is None else target("save_path", save_path)

    def on_fit_end(self, model: Any) -> None:
        """The last view, and the picture."""
        super().on_fit_end(model)
        if self.save_path is not None:
            with told_of(model.run, "the picture of the curves", str(self.save_path)):
                plot_history(model.run.history, self.save_path, best_epoch=model.run.monitor.best_epoch,
                             figsize=self.figsize)


class VisDisplay(Callback):
    """Shows something of your own as a net learns: pictures it draws, sentences it writes.

    Args:
        display_fn: called with the model. What it returns, if anything, is shown in one place of a notebook, each time
            instead of the time before.
        model: what to call it with in place of the model that is trained.
        init_display: call it before the first epoch too.
        dis_period: call it each so many epochs.

    Raises:
        TypeError: ``display_fn`` cannot be called, or ``dis_period`` is no int.
        ValueError: ``dis_period`` is below 1.

    Example:
        >>> model.fit(train, callbacks=[VisDisplay(lambda model: print(model.run.epoch))])  # doctest: +SKIP
    """

    main_only = True

    def __init__(self, display_fn: Callable[[Any], Any], model: Any = None, init_display: bool = True,
                 dis_period: int = 1) -> None:
        if not callable(display_fn):
            raise bad_type("display_fn", received=type(display_fn).__name__, expected="a function of the model")
        whole_number("dis_period", dis_period, least=1)
        self.display_fn, self.model, self.init_display, self.dis_period = display_fn, model, init_display, dis_period
        self.handle: Any = None

    def on_fit_start(self, model: Any) -> None:
        """The first time."""
        self.handle = None
        if self.init_display:
            self.show(model)

    def on_validation_epoch_end(self, model: Any) -> None:
        """Now and then."""
        if model.run.epoch % self.dis_period == 0:
            self.show(model)

    def show(self, model: Any) -> None:
        """Call the function; put what it returns where the last one was."""
        found = self.display_fn(model if self.model is None else self.model)
        if found is None or detect() != "notebook":
            return
        from IPython.display import display

        if self.handle is None:
            self.handle = display(found, display_id=True)
        else:
            self.handle.update(found)
