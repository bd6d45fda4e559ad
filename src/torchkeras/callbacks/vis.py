"""Show a run under the class names of older versions."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torchkeras.callbacks.logger import warn_on_failure
from torchkeras.core.errors import bad_type, whole_number
from torchkeras.core.screen import detect
from torchkeras.display.figures import plot_history
from torchkeras.display.progress import Progress
from torchkeras.display.protocols import HasRun
from torchkeras.display.targets import target
from torchkeras.engine.callback import Callback

if TYPE_CHECKING:
    from torchkeras.engine.trainable import Trainable


class VisProgress(Progress):
    """Shows the progress of a run and the table of its epochs, without curves.

    Example:
        >>> model.fit(train, callbacks=[VisProgress()])  # doctest: +SKIP
    """

    def __init__(self) -> None:
        super().__init__(plot=False)


class VisMetric(Progress):
    """Shows a run with its curves, and saves a picture of them if asked.

    Args:
        figsize: width and height of one curve in the picture, in inches.
        save_path: the picture file, such as "history.png", written when the run ends; None writes
            none.

    Raises:
        TypeError: ``save_path`` is not a path.
        ValueError: it cannot be written.

    Example:
        >>> model.fit(train, callbacks=[VisMetric(save_path="history.png")])  # doctest: +SKIP
    """

    def __init__(self, figsize: tuple[float, float] = (6, 4),
                 save_path: str | os.PathLike[str] | None = None) -> None:
        super().__init__(plot=True)
        self.figsize = figsize
        self.save_path = None if save_path is None else target("save_path", save_path)

    def on_fit_end(self, model: HasRun) -> None:
        """Show the last view and save the picture."""
        super().on_fit_end(model)
        if self.save_path is not None:
            with warn_on_failure(model.run, "the picture of the curves", str(self.save_path)):
                plot_history(model.run.history, self.save_path,
                             best_epoch=model.run.monitor.best_epoch, figsize=self.figsize)


class VisDisplay(Callback):
    """Shows output of your own as a net learns: pictures it draws, sentences it writes.

    Args:
        display_fn: called with the model. What it returns, if anything, is shown in one place of a
            notebook and replaces the output before.
        model: called with this instead of the model that is trained.
        init_display: call it before the first epoch too.
        dis_period: call it every ``dis_period`` epochs.

    Raises:
        TypeError: ``display_fn`` cannot be called, or ``dis_period`` is not an int.
        ValueError: ``dis_period`` is below 1.

    Example:
        >>> show = VisDisplay(lambda model: print(model.run.epoch))
        >>> model.fit(train, callbacks=[show])  # doctest: +SKIP
    """

    main_only = True

    def __init__(self, display_fn: Callable[[Any], Any], model: object = None,
                 init_display: bool = True, dis_period: int = 1) -> None:
        if not callable(display_fn):
            raise bad_type("display_fn", received=type(display_fn).__name__,
                           expected="a function of the model")
        whole_number("dis_period", dis_period, least=1)
        self.display_fn, self.model = display_fn, model
        self.init_display, self.dis_period = init_display, dis_period
        self.handle: Any = None

    def on_fit_start(self, model: Trainable) -> None:
        """Show it before the first epoch, if asked."""
        self.handle = None
        if self.init_display:
            self.show(model)

    def on_validation_epoch_end(self, model: Trainable) -> None:
        """Show it when it is due."""
        if model.run.epoch % self.dis_period == 0:
            self.show(model)

    def show(self, model: Trainable) -> None:
        """Call the function; what it returns replaces the last output in a notebook."""
        found = self.display_fn(model if self.model is None else self.model)
        if found is None or detect() != "notebook":
            return
        from IPython.display import display

        show: Callable[..., Any] = display
        if self.handle is None:
            self.handle = show(found, display_id=True)
        else:
            self.handle.update(found)
