"""Keep the numbers of a run under Keras's names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torchkeras.engine.run import Run

if TYPE_CHECKING:
    import pandas as pd


class FitHistory:
    """The history of a run, as Keras's ``fit`` returns it.

    Args:
        params: what was asked of the run.

    Attributes:
        history: a list of numbers for each name, such as ``loss`` and ``val_loss``; a name that was
            not measured in every epoch has a shorter list.
        epoch: the epochs, counted from 0.
        params: as given.
        stop_reason: what ended the run before its last epoch, or None.

    Example:
        >>> past = FitHistory({"epochs": 1})
        >>> past.add(0, {"loss": 0.5})
        >>> past.epoch, past.history
        ([0], {'loss': [0.5]})
    """

    def __init__(self, params: Mapping[str, object]) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []
        self.params = dict(params)
        self.stop_reason: str | None = None
        self.rows: list[dict[str, float]] = []
        self.columns: list[str] = []  # of a table without rows

    def add(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Add the numbers of an epoch."""
        self.epoch.append(epoch)
        self.rows.append({"epoch": epoch + 1, **logs})
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def to_frame(self) -> pd.DataFrame:
        """Return a table with one row an epoch, counted from 1; missing numbers are NaN."""
        import pandas as pd

        frame = pd.DataFrame(self.rows) if self.rows else pd.DataFrame(
            {name: pd.Series(dtype="int64" if name == "epoch" else "float64")
             for name in self.columns})
        frame.attrs["stop_reason"] = self.stop_reason
        return frame

    def __repr__(self) -> str:
        return f"FitHistory({len(self.epoch)} epochs: {', '.join(self.history)})"


def keras_names(row: Mapping[str, float], stage: str = "train") -> dict[str, float]:
    """Return the numbers of a pass without the stage in their names, and without ``lr``."""
    return {name.removeprefix(f"{stage}_"): value for name, value in row.items()
            if name not in ("epoch", "lr")}


def newest(run: Run) -> dict[str, float]:
    """Return the numbers of the last epoch; those of a skipped validation are left out."""
    row = {name: column[-1] for name, column in run.history.items()}
    return keras_names({name: value for name, value in row.items()
                        if not (math.isnan(value) and name.startswith("val_")
                                and not run.validates)})


def rows_of(run: Run, saved: list[dict[str, float]] | None) -> list[dict[str, float]]:
    """Return the finished epochs of a run that is resumed: as saved, else from its own history."""
    if run.resumes_at is None:
        return []
    rows = saved if saved is not None else [
        dict(zip(run.history, row, strict=True))
        for row in zip(*run.history.values(), strict=True)]
    return [{name: value for name, value in row.items()
             if not (math.isnan(value) and name.startswith("val_"))}
            for row in rows if row["epoch"] < run.resumes_at]
