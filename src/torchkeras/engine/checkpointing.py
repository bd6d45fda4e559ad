"""Declare the calls of the loop that save a run; ``checkpoint/manager.py`` implements them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torchkeras.core.types import Row, Step

if TYPE_CHECKING:
    from torchkeras.engine.epoch import EpochRunner


class NoCheckpoint:
    """Save nothing. You can skip this: every method does nothing."""

    resumes_at: int | None = None  # the epoch with which an interrupted run goes on
    stops_at_boundaries = False  # whether it ends a stopped pass, after saving it between steps

    def fit_started(self) -> None:
        """Act once listeners have heard that the run starts."""

    def pass_starts(self, epoch_runner: EpochRunner) -> None:
        """Act before a pass."""

    def finished_pass(self) -> Row | None:
        """Return the row of the training pass, for a run that resumes in its validation."""
        return None

    def trained(self, row: Row) -> None:
        """Act between the training pass and the validation."""

    def epoch_end(self) -> None:
        """Act at the end of an epoch."""

    def pass_cut_short(self) -> None:
        """Act after a pass that was cut short."""

    def step_built(self, step: Step, stage: str) -> None:
        """Load what the step of an interrupted run kept into a new step."""


class Best(Protocol):
    """The best weights of a run."""

    def begin_epoch(self) -> None:
        """Keep the weights that an epoch begins with, where the last ones are to stay."""

    def hold(self) -> None:
        """Copy frozen weights that a listener has thawed, before they learn."""

    def keep(self) -> None:
        """Keep the weights of this moment: they are the best."""

    def retry(self) -> None:
        """Write again what could not be written."""

    def finish(self, diverged: bool) -> None:
        """Load the weights with which the net ends."""
