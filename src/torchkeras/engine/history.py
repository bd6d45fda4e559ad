"""What happened: one row an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torchkeras.core.errors import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

MISSING = float("nan")


class History(dict[str, list[float]]):
    """Columns of numbers, one row an epoch: a dict of lists of equal length, so ``pd.DataFrame(history)`` works.

    Example:
        >>> history = History()
        >>> history.open(1)
        >>> history.record({"train_loss": 0.5})
        >>> history
        {'epoch': [1], 'train_loss': [0.5]}
    """

    def open(self, epoch: int) -> None:
        """Begin the row of an epoch; what is not recorded in it stays NaN."""
        for column in self.values():
            column.append(MISSING)
        self.setdefault("epoch", [epoch])[-1] = epoch

    def record(self, numbers: Mapping[str, float]) -> None:
        """Fill the newest row; a new name becomes a column that is NaN in the rows before."""
        rows = len(self.get("epoch", ()))
        for name, number in numbers.items():
            self.setdefault(name, [MISSING] * rows)[-1] = number

    def discard(self) -> None:
        """Drop the newest row: its epoch did not come to an end."""
        for column in self.values():
            column.pop()

    def last(self, name: str) -> float | None:
        """The newest number of a column, or None where there is none."""
        column = self.get(name)
        return None if not column or math.isnan(column[-1]) else column[-1]

    def to_frame(self, columns: Iterable[str] = ()) -> pd.DataFrame:
        """Return the table that ``fit`` returns, as a pandas DataFrame; one without rows has these columns."""
        import pandas as pd

        if self.get("epoch"):
            return pd.DataFrame(dict(self))
        names = dict.fromkeys([*columns, *self])
        return pd.DataFrame({name: pd.Series(dtype="int64" if name == "epoch" else "float64") for name in names})

    def __missing__(self, name: str) -> list[float]:
        logged = ", ".join(self) or "nothing yet"
        raise KeyError(f"{name!r} was never logged. Logged: {logged}. {did_you_mean(name, self)}".rstrip())
