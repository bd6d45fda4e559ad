"""When a run's state is saved: after some steps, after some time, or as epochs end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from torchkeras.core.errors import bad_value, whole_number

UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
EXPECTED = 'a number of steps, a time such as "10min", "30s" or "2h", or "epoch"'


def parse(save_every: int | str | None) -> tuple[int | None, float | None]:
    """Return ``(steps, seconds)``: one of them, or none to save only as epochs end.

    Example:
        >>> parse("10min"), parse(500), parse("epoch")
        ((None, 600.0), (500, None), (None, None))
    """
    if save_every is None or save_every == "epoch":
        return None, None
    if not isinstance(save_every, str):
        whole_number("save_every", save_every, least=1)
        return int(save_every), None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]+)\s*", save_every)
    if match is None or match[2] not in UNITS or not float(match[1]):
        raise bad_value("save_every", received=repr(save_every), expected=EXPECTED)
    return None, float(match[1]) * UNITS[match[2]]


class SaveInterval:
    """Tells when the next save is due.

    Args:
        save_every: what :func:`parse` accepts.
        trained: training steps that the run has done.
        clock: returns seconds; for tests.
    """

    def __init__(self, save_every: int | str | None, trained: int,
                 clock: Callable[[], float] = time.perf_counter) -> None:
        self.steps, self.seconds = parse(save_every)
        self.clock = clock
        self.done(trained)

    def done(self, trained: int) -> None:
        """Note that the state has just been saved."""
        self.trained, self.at = trained, self.clock()

    def due(self, trained: int) -> bool:
        """Return whether a save is due in the middle of an epoch."""
        if self.steps is not None:
            return trained - self.trained >= self.steps
        return self.seconds is not None and self.clock() - self.at >= self.seconds

    @property
    def each_epoch(self) -> bool:
        """Return whether every end of an epoch is a time to save."""
        return self.steps is None and self.seconds is None


def every_or_listed(freq: object) -> int | tuple[int, ...]:
    """Return a validation frequency: a number of epochs, or the epochs of a list as a tuple.

    Raises:
        TypeError, ValueError: it is neither, or a number is below 1.
    """
    listed: list[Any] = list(freq) if isinstance(freq, (list, tuple)) else [freq]
    if not listed:
        raise bad_value("validation_freq", received="an empty list",
                        expected="a whole number, or the epochs that validate, such as [1, 5]",
                        fix="To validate never, leave the validation data out.")
    for epoch in listed:
        whole_number("validation_freq", epoch, least=1)
    found = tuple(int(epoch) for epoch in listed)
    return found if isinstance(freq, (list, tuple)) else found[0]


def is_due(epoch: int, every: int | tuple[int, ...], last: int) -> bool:
    """Tell whether an epoch validates: one of those listed, or every so many and the last."""
    return epoch in every if isinstance(every, tuple) else epoch % every == 0 or epoch == last
