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


NO_DATA: Any = FitData(None, None)  # type: ignore[arg-type]  # of a run that is over
