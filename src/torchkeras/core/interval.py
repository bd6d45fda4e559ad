"""When a run's state is written: every so many steps, every so often, or as epochs end."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from torchkeras.core.errors import bad_value, whole_number

UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0}
EXPECTED = 'a number of steps, a time such as "10min", "30s" or "2h", or "epoch"'


def parse(save_every: Any) -> tuple[int | None, float | None]:
    """``(steps, seconds)``, one of them or none: then it is at the end of epochs.

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


class When:
    """Says when it is time.

    Args:
        save_every: as :func:`parse` takes it.
        trained: training steps that the run has done.
        clock: gives seconds; for tests.
    """

    def __init__(self, save_every: Any, trained: int, clock: Callable[[], float] = time.perf_counter) -> None:
        self.steps, self.seconds = parse(save_every)
        self.clock = clock
        self.done(trained)

    def done(self, trained: int) -> None:
        """The state has just been written."""
        self.trained, self.at = trained, self.clock()

    def due(self, trained: int) -> bool:
        """Whether it is time, in the middle of an epoch."""
        if self.steps is not None:
            return trained - self.trained >= self.steps
        return self.seconds is not None and self.clock() - self.at >= self.seconds

    @property
    def each_epoch(self) -> bool:
        """Whether every end of an epoch is a time."""
        return self.steps is None and self.seconds is None
