"""The data of one call of ``fit``."""

from __future__ import annotations

from typing import Any, NamedTuple

from torchkeras.data.source import Batches


class FitData(NamedTuple):
    """What a run learns from, and what it is measured on."""

    train: Batches
    val: Batches | None

    def given(self) -> list[Batches]:
        """Return those that there are."""
        return [one for one in self if one is not None]

    def apart(self) -> FitData:
        """Return both, to be read beside the run."""
        train: Any = self.train  # None once the run is over
        return FitData(train and train.apart(), self.val and self.val.apart())


NO_DATA: Any = FitData(None, None)  # type: ignore[arg-type]  # of a run that is over
