"""Data that goes on from epoch to epoch where ``steps_per_epoch`` is less than all of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from typing import Any

from torchkeras.core.tracebacks import level_of_caller


class Onward:
    """Yields the next batches of a loader in each pass, and begins it anew at its end, as in Keras.

    A pass in which the loader ends is shorter, with a warning.

    Args:
        loader: yields all batches.
        steps: batches of a pass.
        length: batches of the loader, None when not known.

    Example:
        >>> data = Onward([1, 2, 3, 4], steps=2, length=4)
        >>> [list(data) for _ in range(3)]
        [[1, 2], [3, 4], [1, 2]]
    """

    def __init__(self, loader: Iterable[Any], steps: int, length: int | None) -> None:
        self.loader, self.steps, self.length = loader, steps, length
        self.rest: Iterator[Any] | None = None
        self.seen = 0  # batches of the loader since it began

    def __iter__(self) -> Iterator[Any]:
        for step in range(self.steps):
            if self.rest is None:
                self.rest, self.seen = iter(self.loader), 0
            try:
                batch = next(self.rest)
            except StopIteration:
                self.rest = None
                if step or not self.seen:
                    warn_of_end(step, self.steps)
                    return
                self.rest, self.seen = iter(self.loader), 0  # it ended with the last pass
                batch = next(self.rest)
            self.seen += 1
            if self.seen == self.length and step + 1 == self.steps:
                self.rest = None
            yield batch

    @property
    def dataset(self) -> Any:
        """Return the dataset of the loader, if it has one."""
        return getattr(self.loader, "dataset", None)


def warn_of_end(step: int, steps: int) -> None:
    """Warn that an epoch is shorter than was asked."""
    warnings.warn(f"fit: the data ended after {step} of {steps} batches of this epoch; the next "
                  "epoch begins it anew", RuntimeWarning, stacklevel=level_of_caller())
