"""Record the numbers of a run, one row for each epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torchkeras.core.errors import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

MISSING = float("nan")


class History(dict[str, list[float]]):
    """Columns of numbers with one row for each epoch; ``pd.DataFrame(history)`` works.

    Example:
        >>> history = History()
        >>> history.open(1)
        >>> history.record({"train_loss": 0.5})
        >>> history
        {'epoch': [1], 'train_loss': [0.5]}
    """

    def open(self, epoch: int) -> None:
        """Add the row of an epoch; columns that are not recorded in it stay NaN."""
        for column in self.values():
            column.append(MISSING)
        self.setdefault("epoch", [epoch])[-1] = epoch

    def record(self, numbers: Mapping[str, float]) -> None:
        """Set numbers in the last row; a new name becomes a column, NaN in earlier rows."""
        rows = len(self.get("epoch", ()))
        for name, number in numbers.items():
            self.setdefault(name, [MISSING] * rows)[-1] = number

    def discard(self) -> None:
        """Remove the last row, whose epoch did not finish."""
        for column in self.values():
            column.pop()

    def last(self, name: str) -> float | None:
        """Return the last number of a column; None if there is none."""
        column = self.get(name)
        return None if not column or math.isnan(column[-1]) else column[-1]

    def to_frame(self, columns: Iterable[str] = ()) -> pd.DataFrame:
        """Return the table that ``fit`` returns; one without rows has these columns."""
        import pandas as pd

        if self.get("epoch"):
            return pd.DataFrame(dict(self))
        names = dict.fromkeys([*columns, *self])
        return pd.DataFrame({name: pd.Series(dtype="int64" if name == "epoch" else "float64")
                             for name in names})

    def __missing__(self, name: str) -> list[float]:
        logged = ", ".join(self) or "nothing yet"
        hint = did_you_mean(name, self)
        raise KeyError(f"{name!r} was never logged. Logged: {logged}. {hint}".rstrip())
