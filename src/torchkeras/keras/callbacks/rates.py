"""Callbacks that move the learning rate."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from torchkeras.core.errors import bad_type, bad_value, kind_of, whole_number
from torchkeras.core.screen import Plain
from torchkeras.keras.callbacks.base import Callback, Logs, MonitorCallback, finite


class ReduceLROnPlateau(MonitorCallback):
    """Lowers the learning rate when a number no longer improves, as Keras's does.

    The rate at the end of each epoch goes into the logs as ``learning_rate``.

    Args:
        monitor: the number that is followed.
        factor: what the rate is multiplied by, below 1.
        patience: epochs without improvement after which it is lowered.
        verbose: 1 prints each change.
        mode: "min", "max" or "auto".
        min_delta: the least change that counts as an improvement.
        cooldown: epochs after a change that are not counted.
        min_lr: the lowest rate.

    Raises:
        ValueError: ``factor`` is not between 0 and 1, or another argument is out of range.

    Example:
        >>> ReduceLROnPlateau("val_loss", factor=0.5, patience=2).min_delta
        0.0001
    """

    state = ("best", "wait", "cooldown_counter")
    best: float | None

    def __init__(self, monitor: str = "val_loss", factor: float = 0.1, patience: int = 10,
                 verbose: int = 0, mode: str = "auto", min_delta: float = 1e-4, cooldown: int = 0,
                 min_lr: float = 0.0) -> None:
        super().__init__(monitor, mode, min_delta)
        finite("factor", factor)
        finite("min_lr", min_lr, least=0)
        if not 0 < factor < 1:
            raise bad_value("factor", received=factor, expected="a number between 0 and 1")
        whole_number("patience", patience, least=0)
        whole_number("cooldown", cooldown, least=0)
        self.factor, self.patience, self.verbose = factor, patience, verbose
        self.cooldown, self.min_lr = cooldown, min_lr
        self.on_train_begin()

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Forget an earlier run."""
        self.best = None
        self.wait = self.cooldown_counter = 0

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Judge the epoch; lower the rate when patience is over."""
        log_rate(logs, self.model.learning_rate)
        value = self.current(logs)
        if value is None:
            return
        if self.cooldown_counter:
            self.cooldown_counter -= 1
            self.wait = 0
        if self.improves(value, self.best):
            self.best, self.wait = value, 0
        elif not self.cooldown_counter:
            self.wait += 1
            if self.wait >= self.patience:
                self.lower(epoch)

    def lower(self, epoch: int) -> None:
        """Lower the rate, unless it is at its lowest."""
        before = self.model.learning_rate
        if before <= self.min_lr:
            return
        self.model.learning_rate = max(before * self.factor, self.min_lr)
        self.cooldown_counter, self.wait = self.cooldown, 0
        if self.verbose:
            Plain().line(f"Epoch {epoch + 1}: learning rate lowered to {self.model.learning_rate}")


class LearningRateScheduler(Callback):
    """Sets the learning rate at the start of each epoch by a function, as Keras's does.

    The rate goes into the logs as ``learning_rate``.

    Args:
        schedule: takes the epoch, counted from 0, and the rate so far (or the epoch alone); returns
            the rate.
        verbose: 1 prints each rate.

    Raises:
        TypeError: ``schedule`` is not a function, or does not return a number.
        ValueError: it returns a rate that is negative or not finite.

    Example:
        >>> callback = LearningRateScheduler(lambda epoch, rate: rate * 0.9)
    """

    def __init__(self, schedule: Callable[..., float], verbose: int = 0) -> None:
        if not callable(schedule):
            raise bad_type("schedule", received=kind_of(schedule), expected="a function")
        self.schedule, self.verbose = schedule, verbose

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Set the rate of the epoch."""
        given = (epoch, self.model.learning_rate)
        rate = self.schedule(*given[:1 + takes_two(self.schedule)])
        if isinstance(rate, bool) or not hasattr(rate, "__float__"):
            raise bad_type("schedule", received=f"a function that returned {kind_of(rate)}",
                           expected="one that returns the learning rate")
        finite("schedule", float(rate), least=0)
        self.model.learning_rate = rate
        if self.verbose:
            Plain().line(f"Epoch {epoch + 1}: learning rate set to {self.model.learning_rate}")

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Log the rate of the epoch."""
        log_rate(logs, self.model.learning_rate)


def takes_two(function: Callable[..., float]) -> bool:
    """Return whether a schedule takes the epoch and the rate, not the epoch alone."""
    try:
        inspect.signature(function).bind(0, 0.0)
    except TypeError:
        return False
    except ValueError:  # compiled code that hides its signature
        return True
    return True


def log_rate(logs: Logs | None, rate: float) -> None:
    """Add the learning rate to the logs of an epoch, for the history and later callbacks."""
    if isinstance(logs, dict):
        logs["learning_rate"] = rate
