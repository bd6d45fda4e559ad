"""The base of the callbacks, and those that only record or pass on."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torchkeras.core.errors import (
    bad_type,
    bad_value,
    check_str,
    did_you_mean,
    is_real,
    kind_of,
    one_of,
)
from torchkeras.core.tracebacks import level_of_caller
from torchkeras.core.types import Value
from torchkeras.training.arguments import direction

Logs = Mapping[str, float]  # numbers by name


def finite(argument: str, value: object, least: float = -math.inf) -> None:
    """Raise for a value that is not a finite number of at least ``least``."""
    expected = "a finite number" + ("" if least == -math.inf else f" of at least {least:g}")
    if not is_real(value):
        raise bad_type(argument, received=kind_of(value), expected=expected)
    if not math.isfinite(float(value)) or float(value) < least:  # type: ignore[arg-type]
        raise bad_value(argument, received=value, expected=expected)


class Callback:
    """Subclass this to hear of a run in Keras's words; each method does nothing by itself.

    Attributes:
        model: the :class:`torchkeras.Model` that is trained.
        params: what was asked of the run: ``epochs``, ``steps`` and ``verbose``.

    Example:
        >>> class Halve(Callback):
        ...     def on_epoch_begin(self, epoch, logs=None):
        ...         if epoch == 10:
        ...             self.model.optimizer.learning_rate /= 2
    """

    model: Any = None
    params: Mapping[str, Any] = {}

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Store what was asked of the run."""
        self.params = params

    def set_model(self, model: Any) -> None:
        """Store the model."""
        self.model = model

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Act before the first epoch."""

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Act after the last epoch."""

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Act at the start of an epoch; epochs count from 0."""

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Act at the end of an epoch, after its validation."""

    def on_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Act before a training batch; an older name."""

    def on_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Act after a training batch; an older name."""

    def on_train_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Act before a training batch; batches count from 0 in each epoch."""
        self.on_batch_begin(batch, logs=logs)

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Act after a training batch and its update; logs are the means of the epoch so far."""
        self.on_batch_end(batch, logs=logs)

    def on_test_begin(self, logs: Logs | None = None) -> None:
        """Act before a validation."""

    def on_test_end(self, logs: Logs | None = None) -> None:
        """Act after a validation."""

    def on_test_batch_begin(self, batch: int, logs: Logs | None = None) -> None:
        """Act before a batch of the validation."""

    def on_test_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Act after a batch of the validation."""


class MonitorCallback(Callback):
    """The base of callbacks that follow one number over the epochs.

    Args:
        monitor: its name in the logs, such as ``"val_loss"``.
        mode: "min", "max", or "auto": as the metric says, else by its name.
        min_delta: the least change that counts as an improvement.

    Raises:
        TypeError: the monitor is not a text, or ``min_delta`` not a number.
        ValueError: the mode is unknown, or ``min_delta`` not finite.
    """

    state: tuple[str, ...] = ("best",)  # the attributes that a resumed run goes on with

    def __init__(self, monitor: str = "val_loss", mode: str = "auto",
                 min_delta: float = 0.0) -> None:
        check_str("monitor", monitor, "val_loss")
        one_of("mode", mode, ("auto", "min", "max"))
        finite("min_delta", min_delta)
        self.monitor, self.mode, self.min_delta = monitor, mode, abs(min_delta)
        self.best: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on with."""
        return {name: getattr(self, name) for name in self.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what a stopped run had."""
        for name in self.state:
            setattr(self, name, state[name])

    def current(self, logs: Logs | None) -> float | None:
        """Return the followed number; warn and return None where it was not measured."""
        found = dict(logs or {})
        if self.monitor not in found:
            warnings.warn(
                f"{type(self).__name__}: {self.monitor!r} was not measured in this epoch, only "
                f"{', '.join(found)}", stacklevel=level_of_caller())
        value = found.get(self.monitor)
        return None if value is None else float(value)

    def improves(self, value: float, other: float | None) -> bool:
        """Tell whether a value is better than another by more than ``min_delta``."""
        if other is None:
            return True
        column = self.monitor if self.monitor.startswith("val_") else f"train_{self.monitor}"
        engine = self.model.engine
        mode, _ = direction(column, self.mode, engine.higher_is_better(column))
        return value - self.min_delta > other if mode == "max" else value + self.min_delta < other


class History(Callback):
    """Records the numbers of every epoch; ``fit`` returns such a record by itself.

    Attributes:
        history: a list of numbers for each name.
        epoch: the epochs, counted from 0.
    """

    def __init__(self) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Forget the epochs of an earlier run."""
        self.epoch = []

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Record an epoch."""
        self.epoch.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(value)


class LambdaCallback(Callback):
    """Calls functions at the moments of a run.

    Args:
        **functions: a function for each moment, such as ``on_epoch_end=lambda epoch, logs: ...``.

    Raises:
        TypeError: there is no such moment, or something cannot be called.

    Example:
        >>> seen = []
        >>> callback = LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(epoch))
        >>> callback.on_epoch_end(0, {})
        >>> seen
        [0]
    """

    def __init__(self, **functions: Callable[..., Value] | None) -> None:
        known = [name for name in dir(Callback) if name.startswith("on_")]
        for name, function in functions.items():
            if name not in known:
                raise bad_type(f"LambdaCallback({name}=...)", received="an unknown moment",
                               expected="one of " + ", ".join(known), fix=did_you_mean(name, known))
            if function is not None:
                if not callable(function):
                    raise bad_type(name, received=type(function).__name__, expected="a function")
                setattr(self, name, function)
