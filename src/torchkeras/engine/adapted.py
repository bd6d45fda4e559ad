"""Adapt users' own steps, which need to know nothing but how to be called."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from torchkeras.core.device import force_sync, set_accumulation_step
from torchkeras.core.stop import NonFiniteLoss
from torchkeras.core.types import WHOLE, Batch, Count, Microbatch
from torchkeras.data.samples import size
from torchkeras.engine.strategy import SingleProcess
from torchkeras.weighting.denominator import adds_up

if TYPE_CHECKING:
    from accelerate import Accelerator

    from torchkeras.engine.run import Run


class OwnStep:
    """Count the batches of a user's own step: by their samples, unless it has a ``count``.

    Args:
        step: called with a batch; gives ``(step_losses, step_metrics)``.
    """

    strategy = SingleProcess()
    microbatch: Microbatch = WHOLE
    undecided = False

    def __init__(self, step: Any) -> None:
        self.step = step
        self.count = getattr(step, "count", size)
        self.own_weight = getattr(step, "weight", None)

    def weight(self, batch: Batch) -> Count:
        """Return how much the finished batch counts."""
        return (self.own_weight or self.count)(batch)

    @property
    def adds_up(self) -> bool:
        """Tell whether the loss adds up its samples."""
        return adds_up(getattr(self.step, "loss_fn", None))

    def feed(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches."""
        return iter(loader)

    def alarm(self, error: NonFiniteLoss) -> None:
        """Raise at once: one process ends at a loss that is not finite."""
        getattr(self.step, "alarm", raised)(error)


def raised(error: NonFiniteLoss) -> None:
    """Raise an error."""
    raise error


def counting_of(step: Any) -> Any:
    """Return the counter of a step: the step itself, if it is one of ours."""
    return step if hasattr(step, "adds_up") else OwnStep(step)


class AccumulateCalls:
    """A :class:`torchkeras.core.types.Microbatch` for users' loops that call ``accumulate``."""

    count = None
    counts, padding = True, False

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        set_accumulation_step(accelerator, 0)

    @property
    def divisor(self) -> Any:
        """Return the divisor of a loss before backward."""
        steps = self.accelerator.gradient_accumulation_steps
        return None if isinstance(steps, int) and steps == 1 else steps

    @property
    def last(self) -> bool:
        """Tell whether the optimizer moves after this batch."""
        return bool(self.accelerator.sync_gradients)

    def begin_step(self, run: Any) -> None:
        """Let the last step of a pass update, however short its window is."""
        if run.stage == "train" and run.step + 1 == run.steps:
            force_sync(self.accelerator)

    def end_step(self, run: Any) -> None:
        """Set the count by which ``accumulate`` finds its windows."""
        set_accumulation_step(self.accelerator, run.step)


class Reporter:
    """A step of any origin with what an epoch runner needs; a pass is one of these."""

    def __init__(self, run: Run, step: Any) -> None:
        self.run, self.step, self.strategy, self.counting = (
            run, step, run.strategy, counting_of(step))
        self.counted: list[int] = []  # with several processes: numbers of the batches counted here
        self.accumulate = AccumulateCalls(run.accelerator)
        self.microbatch: Any = self.accumulate  # until batches are fed
        self.counting.microbatch = self.accumulate

    def begin(self, epoch_runner: Any) -> None:
        """Pass an epoch runner to run and checkpointer; a user's own may lack any of this."""
        self.counted = getattr(epoch_runner, "counted", self.counted)
        self.run.running_metrics = getattr(epoch_runner, "running", dict)
        self.run.checkpointer.pass_starts(epoch_runner)

    @property
    def adds_up(self) -> bool:
        """Tell whether the loss adds up its samples."""
        return bool(self.counting.adds_up)

    @property
    def undecided(self) -> bool:
        """Tell whether it is not known yet what the loss is a mean over."""
        return bool(self.counting.undecided)

    def weight(self, batch: Batch) -> Count:
        """Return how much the finished batch counts."""
        return self.counting.weight(batch)

    def alarm(self, error: NonFiniteLoss) -> None:
        """End the run at a loss that is not finite, in all processes together."""
        self.strategy.raise_non_finite(self.run, error)

    def __getattr__(self, name: str) -> Any:
        if name == "step" or name.startswith("__"):  # copying asks before there is a step
            raise AttributeError(name)
        return getattr(self.step, name)
