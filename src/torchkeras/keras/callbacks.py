"""Keras's callbacks on this engine: the same moments, in the same order, with the same numbers."""

from __future__ import annotations

import functools
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

from torchkeras.core.errors import bad_type
from torchkeras.engine.callback import Callback, Checked, check_callbacks
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.moments import MOMENTS, tell_all
from torchkeras.keras.epochs import FitHistory, keras_names, newest

KERAS_MOMENTS = ("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_train_batch_begin",
                 "on_train_batch_end", "on_batch_begin", "on_batch_end", "on_test_begin", "on_test_end",
                 "on_test_batch_begin", "on_test_batch_end")
IN_PREDICT = ("on_predict_begin", "on_predict_end", "on_predict_batch_begin", "on_predict_batch_end")  # Keras's too


class BatchLogs(UserDict[str, float]):
    """The numbers so far, worked out when they are first looked at: that waits for the device."""

    def __init__(self, count: Callable[[], dict[str, float]]) -> None:
        self.count = count

    @cached_property
    def data(self) -> dict[str, float]:  # type: ignore[override]  # UserDict has an attribute
        """The numbers themselves."""
        return self.count()


class KerasMoments(Callback):
    """Tells callbacks of Keras's kind, and writes down the history after them: they may add to the logs.

    Args:
        face: the model that they know.
        callbacks: objects with some of Keras's methods.
        history: takes the numbers of every epoch.
    """

    def __init__(self, face: Any, callbacks: list[Any], history: FitHistory) -> None:
        self.face, self.callbacks, self.history = face, callbacks, history

    def on_fit_start(self, model: Any) -> None:
        """They are told what was asked, and by which model."""
        self.face.stop_training = False
        for one in self.callbacks:
            if hasattr(one, "set_params"):
                one.set_params(self.history.params)
            if hasattr(one, "set_model"):
                one.set_model(self.face)
            else:
                one.model = self.face
        self.tell("on_train_begin", {})

    def on_epoch_start(self, model: Any) -> None:
        """Keras counts epochs from 0."""
        self.tell("on_epoch_begin", model.run.epoch - 1, {})

    def on_validation_epoch_end(self, model: Any) -> None:
        """An epoch is over; if one of them wants to stop, the run is."""
        logs, epoch = newest(model.run), model.run.epoch - 1
        self.tell("on_epoch_end", epoch, logs)
        self.history.add(epoch, logs)
        if self.face.stop_training:
            model.run.stop("stop_training was set")

    def on_fit_end(self, model: Any) -> None:
        """The run is over."""
        self.history.stop_reason = model.run.stop_reason
        logs = {name: column[-1] for name, column in self.history.history.items()}
        tell_all((functools.partial(self.tell_one, one, "on_train_end", logs) for one in self.callbacks),
                 "on_train_end")

    def tell(self, moment: str, *given: Any) -> None:
        """Call the method of each callback that has one."""
        for one in self.callbacks:
            self.tell_one(one, moment, *given)

    def tell_one(self, one: Any, moment: str, *given: Any) -> None:
        """Call the method of a callback, if it has one."""
        hook = getattr(one, moment, None)
        if hook is None and "_train_batch_" in moment:
            hook = getattr(one, moment.replace("_train", ""), None)  # their older name
        if hook is not None:
            hook(*given)
            check_rate(self.face.optimizer)


def told(moments: KerasMoments) -> type[EpochRunner]:
    """The epoch runner that tells of every batch, and ends a training pass when ``stop_training`` was set."""

    class Told(EpochRunner):
        """Batches between two moments."""

        def windows(self, loader: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
            kind = "test" if self.stage == "val" else "train"
            numbers = self.row if self.together.world == 1 else self.running
            if kind == "test":
                moments.tell("on_test_begin", {})
            for batch, found in enumerate(super().windows(loader)):
                moments.tell(f"on_{kind}_batch_begin", batch, {})
                yield found
                logs = BatchLogs(lambda: keras_names(numbers(), self.stage))
                moments.tell(f"on_{kind}_batch_end", batch, logs)
                logs.count = dict  # later its numbers would be those of another batch
                if kind == "train" and moments.face.stop_training and self.may_end_here:
                    break
            if kind == "test":
                moments.tell("on_test_end", keras_names(numbers(), self.stage))

        @property
        def may_end_here(self) -> bool:
            """Not in the middle of an accumulation window; several processes end their epoch together, at its end."""
            return self.together.world == 1 and bool(self.accelerator.sync_gradients)

    return Told


def sorted_out(callbacks: Any) -> tuple[list[Any], list[Any]]:
    """Return callbacks of this library's kind, and those of Keras's; one that is of both is among both."""
    found = check_callbacks(callbacks, (*KERAS_MOMENTS, *IN_PREDICT))
    own = Checked(one for one in found if any(hasattr(one, moment) for moment in MOMENTS))
    return own, [one for one in found if any(hasattr(one, moment) for moment in KERAS_MOMENTS)]


def check_rate(optimizer: Any) -> None:
    """Refuse a learning rate that was set where torch does not look."""
    for name in ("learning_rate", "lr"):
        if name in getattr(optimizer, "__dict__", {}):
            delattr(optimizer, name)
            raise bad_type(f"model.optimizer.{name}", received="a new value, which torch's optimizers do not read",
                           expected="it in param_groups", fix="Set model.learning_rate instead.")
