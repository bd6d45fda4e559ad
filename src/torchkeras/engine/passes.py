"""Run one pass over the data; between two steps, a run may be saved or end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torchkeras.core.stop import PassEnded
from torchkeras.core.types import Batch, StepOutput
from torchkeras.engine.adapted import Reporter

if TYPE_CHECKING:
    from torchkeras.data import Batches
    from torchkeras.engine.callback import CallbackList
    from torchkeras.engine.run import Run


class Pass(Reporter):
    """What an epoch runner gets as ``step_runner``: a step with its batches, which it reports.

    Args:
        run: what is happening.
        step: takes a batch through the net.
        data: the batches.
        callbacks: who hears of each step.
        learning: whether the net learns.
    """

    def __init__(self, run: Run, step: Any, data: Batches, callbacks: CallbackList, *,
                 learning: bool) -> None:
        super().__init__(run, step)
        self.data, self.callbacks, self.learning = data, callbacks, learning
        training = run.stage == "train"
        self.accumulation = run.config.gradient_accumulation_steps if training else 1
        self.executor = run.executor if learning else run.strategy

    def feed_microbatches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield batches, and set the place of each in an optimizer update.

        A user's epoch runner that reads its loader itself may call ``accelerator.accumulate``.
        """
        try:
            for batch, microbatch in self.process_strategy.microbatches(self, loader):
                self.current_microbatch = self.counting.current_microbatch = microbatch
                yield batch
        finally:
            self.current_microbatch = self.counting.current_microbatch = self.by_accelerate
        self.process_strategy.end_of_data(self)

    def __call__(self, batch: Batch) -> StepOutput:
        """Run the step, count and report it, and end the pass if a stop was requested."""
        run = self.run
        self.process_strategy.poll(self)
        self.by_accelerate.begin_step(run)
        losses, metrics = self.executor.execute(self.step, batch, self.current_microbatch)
        self.process_strategy.after_step(self)
        run.count_step(losses | metrics, learning=self.learning)
        self.callbacks.announce("on_step_end")
        run.after_step(self.learning)
        self.by_accelerate.end_step(run)
        if run.ends_here():
            raise PassEnded
        return StepOutput(losses, metrics)
