"""Call the callbacks of a run at its moments."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torchkeras.core.errors import bad_type, instance_not_class
from torchkeras.core.moments import MOMENTS, call_all, check_moments

if TYPE_CHECKING:
    from torchkeras.kerasmodel import KerasModel


class Callback:
    """Listens to a run: override the methods for the moments that you need; the rest cost nothing.

    Each method gets ``model``; the state of the run is in ``model.run``, and
    ``model.run.stop("why")`` ends the run in good order. Any object with one of these methods is a
    callback, subclass or not. With several processes, each rank has its own callbacks;
    ``main_only = True`` on a class keeps only those of the main process, for what writes files or
    draws. In fast mode, small steps may be computed several at a time unless a callback has
    ``on_step_end``; with ``allows_multi_step = True`` it is called when the weights may be ahead.

    Example:
        >>> class Budget(Callback):
        ...     def on_step_end(self, model):
        ...         if model.run.global_step == 1000:
        ...             model.run.stop("1000 steps are enough")
    """

    main_only: bool = False  # called in the main process only; its run.stop counts for all

    allows_multi_step: bool = False  # on_step_end neither reads nor changes weights

    def on_fit_start(self, model: KerasModel) -> None:
        """Act before the first batch is read, when everything is checked and in place."""

    def on_epoch_start(self, model: KerasModel) -> None:
        """Act at the start of an epoch."""

    def on_step_end(self, model: KerasModel) -> None:
        """Act after a training or validation batch (``model.run.stage``), and after its update."""

    def on_train_epoch_end(self, model: KerasModel) -> None:
        """Act after the training pass, whose numbers are in ``model.history``."""

    def on_validation_epoch_end(self, model: KerasModel) -> None:
        """Act at the end of an epoch, with or without validation, when the best is kept."""

    def on_fit_end(self, model: KerasModel) -> None:
        """Act at the end of the run, for whatever reason, when the net has its best weights."""

    def on_exception(self, model: KerasModel) -> None:
        """Act before an error leaves ``fit``."""


class CallbackList:
    """Calls the callbacks of a run, in the order in which they were given."""

    def __init__(self, listeners: Iterable[Any], model: object, main: bool = True) -> None:
        self.model = model
        self.listeners = [one for one in listeners if main or not getattr(one, "main_only", False)]
        self.hooks = {moment: [hook for one in self.listeners if (hook := own_hook(one, moment))]
                      for moment in MOMENTS}

    def announce(self, moment: str) -> None:
        """Call the method of every callback that has one for this moment."""
        for hook in self.hooks[moment]:
            hook(self.model)

    def announce_end(self, moment: str) -> None:
        """Call every callback at the end of a run, even after one failed; raise the first error."""
        call_all((functools.partial(hook, self.model) for hook in self.hooks[moment]), moment)


def own_hook(listener: object, moment: str) -> Callable[..., None] | None:
    """Return the callback's method for a moment; None if it only inherits the empty one."""
    if moment not in getattr(listener, "__dict__", {}) and (
            getattr(type(listener), moment, None) is getattr(Callback, moment)):
        return None
    return getattr(listener, moment, None)


class CheckedCallbacks(list[Any]):
    """Callbacks whose methods another face has checked already, since it knows further moments."""


def check_callbacks(callbacks: object, more: Iterable[str] = ()) -> list[Any]:
    """Return the callbacks as a list; raise on a class, a single one, or an unknown moment.

    Moments in ``more``, those of another library, are known too.
    """
    if callbacks is None:
        return []
    if not isinstance(callbacks, (list, tuple)):
        raise bad_type("callbacks", received=type(callbacks).__name__,
                       expected="a list of callbacks", fix="Put it in a list: callbacks=[...].")
    if not isinstance(callbacks, CheckedCallbacks):
        for one in callbacks:
            instance_not_class("callbacks", one)
            check_moments(one, more)
    return list(callbacks)
