"""What the displays read of a model and its run.

``fit`` shows them a ``KerasModel`` and its ``Run``; ``VLog`` shows them itself and a record that
the user's own loop fills.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torchkeras.core.types import Logs
from torchkeras.engine.history import History
from torchkeras.engine.monitor import Monitor


class EpochRange(Protocol):
    """The epochs that were asked for."""

    @property
    def epochs(self) -> int:
        """Return the number of the last epoch."""

    @property
    def initial_epoch(self) -> int:
        """Return how many epochs were done before."""


class RunView(Protocol):
    """A run, as far as a display reads it."""

    monitor: Monitor
    history: History
    notes: list[str]
    epoch: int
    step: int
    steps: int | None
    global_step: int
    stop_reason: str | None
    interrupted: bool

    @property
    def config(self) -> EpochRange:
        """Return the configuration of the run."""

    @property
    def device(self) -> str:
        """Return where the run computes; empty if unknown."""

    @property
    def stage(self) -> str:
        """Return "train" or "val"."""

    @property
    def logs(self) -> Logs:
        """Return the numbers of the last step."""

    def current_metrics(self) -> Mapping[str, float]:
        """Return the numbers of this pass so far."""


class HasRun(Protocol):
    """A model, as far as a display reads it."""

    @property
    def run(self) -> RunView:
        """Return the run that is shown."""
