"""Follow one number over the epochs: which epoch is best, and when to stop."""

from __future__ import annotations

import math

from torchkeras.core.errors import bad_value, did_you_mean


class Monitor:
    """Track the best value of one number, and the epochs without improvement.

    *Is it the best?* compares a value with all values so far, and with the one before the run
    (:meth:`begin_with`). *Does it still improve?* compares the epochs of this run only, and ignores
    improvements of at most ``min_delta``. So a small improvement counts as the best, but does not
    extend the run.

    NaN and infinity are never better. An epoch without the number (no validation in it) is not
    counted.
    """

    def __init__(self, name: str, mode: str, patience: int | None = None,
                 min_delta: float = 0.0) -> None:
        self.name, self.mode, self.patience, self.min_delta = name, mode, patience, min_delta
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.reference: float | None = None  # what patience measures improvement from
        self.improved = False
        self.num_bad_epochs = 0

    def begin_with(self, value: float) -> None:
        """Set the value before the run as that of epoch 0, which must be beaten to be best."""
        self.best, self.best_epoch = value, 0

    def update(self, epoch: int, value: float) -> bool:
        """Add the number of an epoch; return whether it is the best so far."""
        self.improved = math.isfinite(value) and (self.best is None or self.beats(value, self.best))
        if self.improved:
            self.best, self.best_epoch = value, epoch
        if math.isfinite(value) and (
                self.reference is None or self.beats(value, self.reference, self.min_delta)):
            self.reference, self.num_bad_epochs = value, 0
        else:
            self.num_bad_epochs += 1
        return self.improved

    def beats(self, value: float, other: float, by: float = 0.0) -> bool:
        """Tell whether a value is better than another by more than ``by``."""
        return value - by > other if self.mode == "max" else value + by < other

    @property
    def should_stop(self) -> bool:
        """Tell whether there were ``patience`` epochs without improvement."""
        return self.patience is not None and self.num_bad_epochs >= self.patience


def check_monitor(name: str, known: list[str]) -> None:
    """Raise if the run will not produce the monitored number."""
    if name not in known:
        unmeasured = name.startswith("val_") and not any(one.startswith("val_") for one in known)
        fix = "Pass val_data to measure on." if unmeasured else did_you_mean(name, known)
        raise bad_value("monitor", received=repr(name), expected="one of " + ", ".join(known),
                        fix=fix)
