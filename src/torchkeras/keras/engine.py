"""The ``KerasModel`` underneath a ``Model``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchkeras.data.fit_data import FitData
from torchkeras.engine.config import FitConfig
from torchkeras.keras.moments import KerasMoments
from torchkeras.kerasmodel import KerasModel

if TYPE_CHECKING:
    import pandas as pd


class Engine(KerasModel):
    """Trains a ``Model``: tells Keras's callbacks how many steps an epoch has."""

    def fit_run(self, config: FitConfig, listeners: list[Any], data: FitData) -> pd.DataFrame:
        """Run the loop; return the history as a DataFrame."""
        for one in listeners:
            if isinstance(one, KerasMoments):
                one.history.params["steps"] = data.train.length
        return super().fit_run(config, listeners, data)
