"""Adapt users' own steps, which need to know nothing but how to be called."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torchkeras.core.accumulation import AccumulateCalls
from torchkeras.core.device import set_accumulation_step
from torchkeras.core.stop import NonFiniteLoss
from torchkeras.core.types import WHOLE, Batch, Count, Microbatch
from torchkeras.data.samples import size
from torchkeras.engine.strategy import Feed, SingleProcess
from torchkeras.weighting.denominator import adds_up

if TYPE_CHECKING:
    from torchkeras.engine.run import Run


class OwnStep:
    """Count the batches of a user's own step: by their samples, unless it has a ``count``.

    Args:
        step: called with a batch; gives ``(step_losses, step_metrics)``.
    """

    process_strategy = SingleProcess()
    current_microbatch: Microbatch = WHOLE
    count_undecided = False

    def __init__(self, step: Any) -> None:
        self.step = step
        self.count = getattr(step, "count", size)
        self.own_weight = getattr(step, "weight", None)

    def weight(self, batch: Batch) -> Count:
        """Return how much the finished batch counts."""
        return (self.own_weight or self.count)(batch)

    @property
    def loss_adds_up(self) -> bool:
        """Tell whether the loss adds up its samples."""
        return adds_up(getattr(self.step, "loss_fn", None))

    def raise_non_finite_loss(self, error: NonFiniteLoss) -> None:
        """Raise at once: one process ends at a loss that is not finite."""
        getattr(self.step, "alarm", raised)(error)


def raised(error: NonFiniteLoss) -> None:
    """Raise an error."""
    raise error


def counting_of(step: Any) -> Any:
    """Return the counter of a step: the step itself, if it is one of ours."""
    return step if hasattr(step, "count_undecided") else OwnStep(step)


def feed(step: Any, counting: Any, loader: Iterable[Batch]) -> Iterator[Batch]:
    """Yield the batches of a loader, each with its place in an optimizer update.

    A pass does it for its run. A step outside of any run, or one that wraps a pass, gets the
    windows that its accelerator asks for.
    """
    of_pass = getattr(step, "feed_microbatches", None)
    return feed_outside_a_run(step, counting, loader) if of_pass is None else of_pass(loader)


def feed_outside_a_run(step: Any, counting: Any, loader: Iterable[Batch]) -> Iterator[Batch]:
    """Yield batches in the windows that the step's accelerator asks for."""
    steps = getattr(step.accelerator, "gradient_accumulation_steps", 1)
    size = steps if step.stage == "train" and isinstance(steps, int) else 1
    batches = Feed(step, counting, step.accelerator, loader, size)
    try:
        for batch, counting.current_microbatch in SingleProcess().microbatches(batches, loader):
            yield batch
    finally:
        counting.current_microbatch = AccumulateCalls(step.accelerator)


class Reporter:
    """Wraps a step, ours or a user's, with what an epoch runner asks of it; the base of Pass."""

    def __init__(self, run: Run, step: Any) -> None:
        self.run, self.step, self.process_strategy, self.counting = (
            run, step, run.strategy, counting_of(step))
        self.weight: Callable[[Batch], Count] = self.counting.weight  # of the finished batch
        self.counted: list[int] = []  # with several processes: numbers of the batches counted here
        self.accelerator = run.accelerator
        self.by_accelerate = AccumulateCalls(run.accelerator)  # for loops that call accumulate
        set_accumulation_step(run.accelerator, 0)
        self.current_microbatch: Any = self.by_accelerate  # until batches are fed
        self.counting.current_microbatch = self.by_accelerate

    def begin(self, epoch_runner: Any) -> None:
        """Pass an epoch runner to run and checkpointer; a user's own may lack any of this."""
        self.counted = getattr(epoch_runner, "counted", self.counted)
        self.run.running_metrics = getattr(epoch_runner, "running", dict)
        self.run.checkpointer.pass_starts(epoch_runner)

    @property
    def loss_adds_up(self) -> bool:
        """Tell whether the loss adds up its samples."""
        return bool(self.counting.loss_adds_up)

    @property
    def count_undecided(self) -> bool:
        """Tell whether it is not known yet what the loss is a mean over."""
        return bool(self.counting.count_undecided)

    def raise_non_finite_loss(self, error: NonFiniteLoss) -> None:
        """End the run at a loss that is not finite, in all processes together."""
        self.process_strategy.raise_non_finite(self.run, error)

    def __getattr__(self, name: str) -> Any:
        if name == "step" or name.startswith("__"):  # copying asks before there is a step
            raise AttributeError(name)
        return getattr(self.step, name)
