"""Call Keras's callbacks: the same methods, in the same order, with the same numbers."""

from __future__ import annotations

import functools
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torchkeras.core.moments import MOMENTS, call_all
from torchkeras.core.types import Batch
from torchkeras.engine.callback import Callback, CheckedCallbacks, check_callbacks
from torchkeras.engine.epoch import EpochRunner
from torchkeras.keras.backup import STOPPED
from torchkeras.keras.epochs import FitHistory, keras_names, newest, rows_of
from torchkeras.keras.foreign import prepare, refuse
from torchkeras.keras.rate import sync_rate
from torchkeras.keras.remembered import put_back, put_back_by_place, remembered
from torchkeras.keras.signatures import check_signatures
from torchkeras.training.spawn import sendable_attributes

if TYPE_CHECKING:
    from torchkeras.keras.model import Model
    from torchkeras.kerasmodel import KerasModel

KERAS_MOMENTS = ("on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end",
                 "on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end",
                 "on_test_begin", "on_test_end", "on_test_batch_begin", "on_test_batch_end")
IN_PREDICT = ("on_predict_begin", "on_predict_end", "on_predict_batch_begin",
              "on_predict_batch_end")  # Keras's too


class BatchLogs(UserDict[str, float]):
    """The numbers so far, computed on first access because that waits for the device."""

    def __init__(self, count: Callable[[], dict[str, float]],
                 recent: Callable[[], dict[str, float]] = dict) -> None:
        self.count = count
        self.recent = recent  # the same at a bounded cost, see RecentNumbers

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
        self.resumed: Mapping[str, Any] = {"rows": None, "remembered": None}
        self.is_copy = False  # in another process

    def state_dict(self) -> dict[str, Any]:
        """Return the history, and the states of the callbacks that have one."""
        return {"rows": [dict(row) for row in self.history.rows],
                "remembered": remembered(self.callbacks, self.keras_model.engine)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Store the states of a stopped run until its callbacks have begun."""
        self.resumed = state

    def on_fit_start(self, model: KerasModel) -> None:
        """Pass parameters and model to the callbacks, then call ``on_train_begin``."""
        self.keras_model.stop_training = False
        compilation = self.keras_model.compilation
        if compilation is not None and compilation.engine is not model:
            self.is_copy, compilation.engine = True, model
        if self.callbacks:
            vars(model)["EpochRunner"] = type("Events", (BatchEvents,), {"moments": self})
        prepare(self.callbacks, model)
        for row in rows_of(model.run, self.resumed["rows"]):
            self.history.add(int(row["epoch"]) - 1, keras_names(row))
        for one in self.callbacks:
            if hasattr(one, "set_params"):
                one.set_params(self.history.params)
            if hasattr(one, "set_model"):
                one.set_model(self.keras_model)
            else:
                one.model = self.keras_model
        self.call("on_train_begin", {})
        self.put_back(model)

    def put_back(self, model: KerasModel) -> None:
        """Load what the callbacks of a stopped run remembered."""
        saved = self.resumed.get("remembered")
        if saved is not None:
            found = put_back(self.callbacks, saved, model)
        else:
            found = put_back_by_place(self.callbacks, self.resumed.get("callbacks", {}))
        model.run.notes.extend(f"callbacks: {note}" for note in found)

    def on_epoch_start(self, model: KerasModel) -> None:
        """Call ``on_epoch_begin``; Keras counts epochs from 0."""
        self.call("on_epoch_begin", model.run.epoch - 1, {})

    def on_validation_epoch_end(self, model: KerasModel) -> None:
        """Call ``on_epoch_end``, record the epoch, and stop if a callback requested it."""
        logs, epoch = newest(model.run), model.run.epoch - 1
        self.call("on_epoch_end", epoch, logs)
        self.history.add(epoch, logs)
        if self.keras_model.stop_training:
            model.run.stop(STOPPED)

    def on_fit_end(self, model: KerasModel) -> None:
        """Call ``on_train_end`` on all, even if one fails."""
        self.history.stop_reason = model.run.stop_reason
        self.keras_model.history = self.history  # Keras's History puts itself there
        logs = {name: column[-1] for name, column in self.history.history.items()}
        call_all((functools.partial(self.call_one, one, "on_train_end", logs)
                  for one in self.callbacks),
                 "on_train_end")
        if self.is_copy:  # for the process that waits for them
            self.callbacks = [
                sendable_attributes(one, self.keras_model, model) for one in self.callbacks]

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
            sync_rate(self.keras_model.engine.optimizer)


class BatchEvents(EpochRunner):
    """Calls the batch methods around each batch, and obeys ``stop_training``."""

    moments: KerasMoments

    def around_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, and tell of each before and after."""
        moments, kind = self.moments, "test" if self.stage == "val" else "train"
        numbers = self.running if self.counting.process_strategy.splits_batches else self.row
        recent = RecentNumbers(self, numbers)
        if kind == "test":
            moments.call("on_test_begin", {})
        for batch, found in enumerate(batches):
            moments.call(f"on_{kind}_batch_begin", batch, {})
            yield found
            logs = BatchLogs(lambda: keras_names(numbers(), self.stage), recent)
            recent.batches = batch + 1
            moments.call(f"on_{kind}_batch_end", batch, logs)
            logs.count = logs.recent = dict  # later its numbers would be those of another batch
            if kind == "train" and moments.keras_model.stop_training and self.may_end_here:
                break
        if kind == "test":
            moments.call("on_test_end", keras_names(numbers(), self.stage))

    @property
    def may_end_here(self) -> bool:
        """Return False inside an accumulation window, and with several processes."""
        return not self.counting.process_strategy.splits_batches and (
            bool(self.accelerator.sync_gradients))


class RecentNumbers:
    """The numbers so far at a cost that does not grow with the epoch.

    What is costly to compute, since it goes through all predictions so far, is computed anew when
    the epoch has grown by a tenth; until then its last value is given.

    Args:
        runner: adds up the numbers of the pass.
        numbers: computes all of them.
    """

    def __init__(self, runner: EpochRunner, numbers: Callable[[], dict[str, float]]) -> None:
        self.runner, self.numbers = runner, numbers
        self.batches = self.due = 0
        self.last: dict[str, float] = {}

    def __call__(self) -> dict[str, float]:
        """Return the numbers by name."""
        stage = self.runner.stage
        if self.batches >= self.due:
            self.last = keras_names(self.numbers(), stage)
            self.due = self.batches + 1 + self.batches // 10
        else:
            self.last |= keras_names(self.runner.running(), stage)
        return dict(self.last)


def split_callbacks(callbacks: object) -> tuple[list[Any], list[Any]]:
    """Split callbacks into this library's and Keras's; one with methods of both is in both."""
    found = check_callbacks(callbacks, (*KERAS_MOMENTS, *IN_PREDICT))
    refuse(found)
    check_signatures(found, KERAS_MOMENTS)
    own = CheckedCallbacks(one for one in found if any(hasattr(one, moment) for moment in MOMENTS))
    return own, [one for one in found if any(hasattr(one, moment) for moment in KERAS_MOMENTS)]
