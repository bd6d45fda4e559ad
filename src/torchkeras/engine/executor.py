"""Execute a training step; ``acceleration/autotuner.py`` has faster ways."""

from __future__ import annotations

from torchkeras.core.types import Batch, Microbatch, Step, StepOutput
from torchkeras.engine.strategy import SingleProcess


class Eager:
    """Run each step as it is written, by the strategy of the run."""

    pending = False  # whether steps are computed that are still to be reported

    def __init__(self, strategy: SingleProcess) -> None:
        self.strategy = strategy

    def execute(self, step: Step, batch: Batch, microbatch: Microbatch) -> StepOutput:
        """Run one step."""
        return self.strategy.execute(step, batch, microbatch)
