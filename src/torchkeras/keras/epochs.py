"""The numbers of a run under Keras's names."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torchkeras.engine.run import Run

if TYPE_CHECKING:
    import pandas as pd


class FitHistory:
    """Look back at a run: what ``fit`` returns, in Keras's form.

    Args:
        params: what was asked of the run.

    Attributes:
        history: a list of numbers for each name, such as ``loss`` and ``val_loss``; a name that was not measured in
            every epoch has a shorter list.
        epoch: the epochs, counted from 0.
        params: as given.
        stop_reason: what ended the run before its last epoch, or None.

    Example:
        >>> past = FitHistory({"epochs": 1})
        >>> past.add(0, {"loss": 0.5})
        >>> past.epoch, past.history
        ([0], {'loss': [0.5]})
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []
        self.params = dict(params)
        self.stop_reason: str | None = None
        self.rows: list[dict[str, float]] = []
        self.columns: list[str] = []  # what a table without rows has

    def add(self, epoch: int, logs: Mapping[str, float]) -> None:
        """The numbers of one more epoch."""
        self.epoch.append(epoch)
        self.rows.append({"epoch": epoch + 1, **logs})
        for name, value in logs.items():
            self.history.setdefault(name, []).append(value)

    def to_frame(self) -> pd.DataFrame:
        """The same as a table of one row an epoch, counted from 1; what was not measured is NaN."""
        import pandas as pd

        frame = pd.DataFrame(self.rows) if self.rows else pd.DataFrame(
            {name: pd.Series(dtype="int64" if name == "epoch" else "float64") for name in self.columns})
        frame.attrs["stop_reason"] = self.stop_reason
        return frame

    def __repr__(self) -> str:
        return f"FitHistory({len(self.epoch)} epochs: {', '.join(self.history)})"


def keras_names(row: Mapping[str, float], stage: str = "train") -> dict[str, float]:
    """The numbers of a pass without the stage in their names, and without the learning rate."""
    return {name.removeprefix(f"{stage}_"): value for name, value in row.items() if name not in ("epoch", "lr")}


def newest(run: Run) -> dict[str, float]:
    """The numbers of the epoch that has ended; those of a validation that was left out are not among them."""
    row = {name: column[-1] for name, column in run.history.items()}
    return keras_names({name: value for name, value in row.items()
                        if not (math.isnan(value) and name.startswith("val_") and not run.validates)})
