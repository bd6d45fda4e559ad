"""Keep few points of each column of a history, so that a view costs the same after any epoch."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

MOST = 400  # twice as many, and every second one goes

History = Mapping[str, Sequence[float]]
Points = list[tuple[float, float]]


class Digest:
    """Follows a growing history and keeps points of its columns, evenly spaced.

    Up to 800 numbers of a column are all kept. The newest row is read when it is asked for, since
    it may still be filled, and the best one too.

    Example:
        >>> digest = Digest()
        >>> digest.lines({"epoch": [1, 2], "train_loss": [0.5, 0.25]}, 2)
        {'train_loss': [(1, 0.5), (2, 0.25)]}
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all points."""
        self.seen = 0
        self.kept: dict[str, Points] = {}
        self.apart: dict[str, int] = {}
        self.skipped: dict[str, int] = {}

    def lines(self, history: History, rows: int,
              best_epoch: float | None = None) -> dict[str, Points]:
        """Return points of each column that has any, from the first ``rows`` rows of a history.

        Args:
            history: columns of equal length, one of them ``epoch``.
            rows: how many of its rows are complete.
            best_epoch: the epoch whose point is always among those returned.
        """
        if rows <= self.seen:  # its last row was removed
            self.clear()
        names = [name for name in history if name != "epoch"]
        for row in range(self.seen, rows - 1):
            for name in names:
                self.take(name, history["epoch"][row], history[name][row])
        self.seen = max(rows - 1, 0)
        best = place_of(history.get("epoch", ()), best_epoch, rows)
        found = {name: self.points(name, history, rows, best) for name in names}
        return {name: points for name, points in found.items() if points}

    def take(self, name: str, epoch: float, value: float) -> None:
        """Keep a number, or skip it if the spacing asks for that."""
        if not math.isfinite(value):
            return
        points, apart = self.kept.setdefault(name, []), self.apart.setdefault(name, 1)
        passed = self.skipped.get(name, apart)
        if passed < apart:
            self.skipped[name] = passed + 1
            return
        points.append((epoch, value))
        self.skipped[name] = 1
        if len(points) > 2 * MOST:
            self.kept[name], self.apart[name] = points[::2], 2 * apart

    def points(self, name: str, history: History, rows: int, best: int | None) -> Points:
        """Return the points kept of a column, the best row's and the newest's among them."""
        points = list(self.kept.get(name, ()))
        for row in ([] if best is None else [best]) + ([rows - 1] if rows else []):
            point = history["epoch"][row], history[name][row]
            place = bisect_left(points, point[0], key=lambda one: one[0])
            if math.isfinite(point[1]) and (place == len(points) or points[place][0] != point[0]):
                points.insert(place, point)
        return points


def place_of(epochs: Sequence[float], epoch: float | None, rows: int) -> int | None:
    """Return the index of an epoch among the first ``rows`` rows; None if it is not there."""
    if epoch is None:
        return None
    place = bisect_left(epochs, epoch, hi=rows)
    return place if place < rows and epochs[place] == epoch else None
