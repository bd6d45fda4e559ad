"""One pass over the data: reset, add up the numbers of each step, and reduce them to a row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torchkeras.core.types import Batch, Row
from torchkeras.engine.adapted import counting_of, feed
from torchkeras.weighting.totals import PassTotals


class EpochRunner(PassTotals):
    """Feeds a step with batches and adds up. Designed to be subclassed or replaced.

    Args:
        step_runner: what is called with each batch and gives ``(step_losses, step_metrics)``.
        quiet: for runners that draw their own bar; this one never draws.
    """

    def __init__(self, step_runner: Any, quiet: bool = False) -> None:
        super().__init__(step_runner, counting_of(step_runner))
        self.quiet = quiet

    def __call__(self, loader: Iterable[Batch]) -> Row:
        """Go through the data once; return the numbers of the pass."""
        self.reset_metrics()
        for batch in self.around_batches(feed(self.step_runner, self.counting, loader)):
            step_losses, self.last = self.step_runner(batch)
            self.take_batch_numbers(step_losses, batch)
        row = self.row()
        self.reset_metrics()
        return row

    def around_batches(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches that are given; override it to do something around each."""
        return batches
