"""Listeners, and the moments at which they hear about a run."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from torchkeras.core.errors import bad_type, instance_not_class
from torchkeras.engine.moments import MOMENTS, check_moments, tell_all


class Callback:
    """Hears about a run: override the moments you care about; the rest cost nothing.

    Each moment gets one argument, ``model``; what is happening is in ``model.run``, and ``model.run.stop("why")``
    ends the run in good order. Any object with one of these methods is a listener, subclass or not. Of several
    processes each has its listeners; ``main_only = True`` on a class leaves those in the first process alone, for what
    writes a file or draws. In fast mode small steps may be computed several at a time, unless a listener hears of each;
    ``looks_only = True`` is for those that do not mind that the weights are a few steps ahead.

    Example:
        >>> class Budget(Callback):
        ...     def on_step_end(self, model):
        ...         if model.run.trained == 1000:
        ...             model.run.stop("1000 steps are enough")
    """

    main_only: bool = False  # of several processes, only the first hears; its run.stop counts for all

    looks_only: bool = False  # neither reads nor changes weights when a step ends

    def on_fit_start(self, model: Any) -> None:
        """Everything is checked and in place; no batch has been read."""

    def on_epoch_start(self, model: Any) -> None:
        """An epoch begins."""

    def on_step_end(self, model: Any) -> None:
        """A batch is done, training or validation (``model.run.stage``); in training, after the update."""

    def on_train_epoch_end(self, model: Any) -> None:
        """The training pass is over and in ``model.history``."""

    def on_validation_epoch_end(self, model: Any) -> None:
        """The epoch is over, with or without validation: it was judged, and its weights kept if they are the best."""

    def on_fit_end(self, model: Any) -> None:
        """The run is over, for whatever reason, and the net holds its best weights."""

    def on_exception(self, model: Any) -> None:
        """An error is on its way out of ``fit``."""


class CallbackList:
    """Tells every listener about a moment, in the order in which they were given."""

    def __init__(self, listeners: Iterable[Any], model: Any, main: bool = True) -> None:
        self.model = model
        self.listeners = [one for one in listeners if main or not getattr(one, "main_only", False)]
        self.hooks = {moment: [hook for one in self.listeners if (hook := overridden(one, moment))]
                      for moment in MOMENTS}

    def announce(self, moment: str) -> None:
        """Tell everybody who listens to this moment."""
        for hook in self.hooks[moment]:
            hook(self.model)

    def announce_end(self, moment: str) -> None:
        """Tell everybody of the end of a run, even after one of them failed; then raise the first error."""
        tell_all((functools.partial(hook, self.model) for hook in self.hooks[moment]), moment)


def overridden(listener: Any, moment: str) -> Callable[..., None] | None:
    """The listener's own method for a moment; None where it only inherits the empty one."""
    if moment not in getattr(listener, "__dict__", {}) and (
            getattr(type(listener), moment, None) is getattr(Callback, moment)):
        return None
    return getattr(listener, moment, None)


class Checked(list[Any]):
    """Hold listeners whose moments a dialect has checked already, since it knows more of them."""


def check_callbacks(callbacks: Any, more: Iterable[str] = ()) -> list[Any]:
    """Return the listeners as a list; refuse a class, a lone listener, and one that waits for a moment that never is.

    Args:
        callbacks: what the user gave.
        more: further moments that they may listen to, of another library.
    """
    if callbacks is None:
        return []
    if not isinstance(callbacks, (list, tuple)):
        raise bad_type("callbacks", received=type(callbacks).__name__, expected="a list of callbacks",
                       fix="Put it in a list: callbacks=[...].")
    if not isinstance(callbacks, Checked):
        for one in callbacks:
            instance_not_class("callbacks", one)
            check_moments(one, more)
    return list(callbacks)
