"""Call Keras's callbacks: the same methods, in the same order, with the same numbers."""

from __future__ import annotations

import functools
from collections import UserDict
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torchkeras.core.errors import bad_type
from torchkeras.core.moments import MOMENTS, call_all
from torchkeras.core.types import Batch
from torchkeras.engine.callback import Callback, CheckedCallbacks, check_callbacks
from torchkeras.engine.epoch import EpochRunner
from torchkeras.keras.epochs import FitHistory, keras_names, newest

if TYPE_CHECKING:
    from torchkeras.engine.trainable import Trainable
    from torchkeras.keras.model import Model

KERAS_MOMENTS = ("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end",
                 "on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end",
                 "on_test_begin", "on_test_end", "on_test_batch_begin", "on_test_batch_end")
IN_PREDICT = ("on_predict_begin", "on_predict_end", "on_predict_batch_begin",
              "on_predict_batch_end")  # Keras's too


class BatchLogs(UserDict[str, float]):
    """The numbers so far, computed on first access because that waits for the device."""

    def __init__(self, count: Callable[[], dict[str, float]]) -> None:
        self.count = count

    @cached_property
    def data(self) -> dict[str, float]:  # type: ignore[override]  # UserDict has an attribute
        """Return the numbers."""
        return self.count()


class KerasMoments(Callback):
    """Calls Keras's callbacks, then adds their logs, which they may extend, to the history.

    Args:
        keras_model: the model that they get.
        callbacks: objects with some of the methods of Keras's callbacks.
        history: takes the numbers of every epoch.
    """

    def __init__(self, keras_model: Model, callbacks: list[Any], history: FitHistory) -> None:
        self.keras_model, self.callbacks, self.history = keras_model, callbacks, history

    def on_fit_start(self, model: Trainable) -> None:
        """Pass parameters and model to the callbacks, then call ``on_train_begin``."""
        self.keras_model.stop_training = False
        for one in self.callbacks:
            if hasattr(one, "set_params"):
                one.set_params(self.history.params)
            if hasattr(one, "set_model"):
                one.set_model(self.keras_model)
            else:
                one.model = self.keras_model
        self.call("on_train_begin", {})

    def on_epoch_start(self, model: Trainable) -> None:
        """Call ``on_epoch_begin``; Keras counts epochs from 0."""
        self.call("on_epoch_begin", model.run.epoch - 1, {})

    def on_validation_epoch_end(self, model: Trainable) -> None:
        """Call ``on_epoch_end``, record the epoch, and stop if a callback requested it."""
        logs, epoch = newest(model.run), model.run.epoch - 1
        self.call("on_epoch_end", epoch, logs)
        self.history.add(epoch, logs)
        if self.keras_model.stop_training:
            model.run.stop("stop_training was set")

    def on_fit_end(self, model: Trainable) -> None:
        """Call ``on_train_end`` on all, even if one fails."""
        self.history.stop_reason = model.run.stop_reason
        logs = {name: column[-1] for name, column in self.history.history.items()}
        call_all((functools.partial(self.call_one, one, "on_train_end", logs)
                  for one in self.callbacks),
                 "on_train_end")

    def call(self, moment: str, *given: object) -> None:
        """Call a method of each callback that has it."""
        for one in self.callbacks:
            self.call_one(one, moment, *given)

    def call_one(self, one: object, moment: str, *given: object) -> None:
        """Call a method of a callback, if it has it."""
        hook = getattr(one, moment, None)
        if hook is None and "_train_batch_" in moment:
            hook = getattr(one, moment.replace("_train", ""), None)  # their older name
        if hook is not None:
            hook(*given)
            check_rate(self.keras_model.optimizer)


def with_batch_events(moments: KerasMoments) -> type[EpochRunner]:
    """Return an epoch runner that calls the batch methods and obeys ``stop_training``."""

    class BatchEvents(EpochRunner):
        """Yields each batch between the two calls for it."""

        def around_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
            """Yield the batches, and tell of each before and after."""
            kind = "test" if self.stage == "val" else "train"
            numbers = self.running if self.counting.process_strategy.divides_batches else self.row
            if kind == "test":
                moments.call("on_test_begin", {})
            for batch, found in enumerate(batches):
                moments.call(f"on_{kind}_batch_begin", batch, {})
                yield found
                logs = BatchLogs(lambda: keras_names(numbers(), self.stage))
                moments.call(f"on_{kind}_batch_end", batch, logs)
                logs.count = dict  # later its numbers would be those of another batch
                if kind == "train" and moments.keras_model.stop_training and self.may_end_here:
                    break
            if kind == "test":
                moments.call("on_test_end", keras_names(numbers(), self.stage))

        @property
        def may_end_here(self) -> bool:
            """Return False inside an accumulation window, and with several processes."""
            return not self.counting.process_strategy.divides_batches and (
                bool(self.accelerator.sync_gradients))

    return BatchEvents


def split_callbacks(callbacks: object) -> tuple[list[Any], list[Any]]:
    """Split callbacks into this library's and Keras's; one with methods of both is in both."""
    found = check_callbacks(callbacks, (*KERAS_MOMENTS, *IN_PREDICT))
    own = CheckedCallbacks(one for one in found if any(hasattr(one, moment) for moment in MOMENTS))
    return own, [one for one in found if any(hasattr(one, moment) for moment in KERAS_MOMENTS)]


def check_rate(optimizer: object) -> None:
    """Raise if a learning rate was set as an attribute, which torch does not read."""
    for name in ("learning_rate", "lr"):
        if name in getattr(optimizer, "__dict__", {}):
            delattr(optimizer, name)
            raise bad_type(f"model.optimizer.{name}",
                           received="a new value, which torch's optimizers do not read",
                           expected="it in param_groups", fix="Set model.learning_rate instead.")
