"""Compute a run in one process; ``distributed/strategies.py`` does so in several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import islice, repeat
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor, nn

from torchkeras.core.communicator import Communicator
from torchkeras.core.device import set_microbatch
from torchkeras.core.stop import NonFiniteLoss, Request
from torchkeras.core.types import WHOLE, Batch, Count, Microbatch, Row, Step, StepOutput
from torchkeras.data.reuse import copier_for
from torchkeras.weighting import weighing
from torchkeras.weighting.first_look import examined

if TYPE_CHECKING:
    from accelerate import Accelerator

    from torchkeras.data import Batches
    from torchkeras.engine.epoch import EpochRunner
    from torchkeras.engine.passes import Pass
    from torchkeras.engine.run import Run


class Feed(NamedTuple):
    """What ``microbatches`` asks of a pass, for a step outside of any run."""

    step: Any
    counting: Any  # says what a batch counts: the step, if it is one of ours
    accelerator: Accelerator
    data: Any  # the batches
    accumulation: int  # batches for one update


class SingleProcess:
    """Compute everything in this process. Most methods do nothing: several processes need them."""

    splits_batches = False  # whether each process computes a part of every training batch
    shards_parameters = False  # whether each process has a part of the weights

    def __init__(self, communicator: Communicator | None = None) -> None:
        self.communicator = communicator or Communicator()

    # The parts of a run

    def wrapped(self, learning: bool) -> Mapping[str, Any]:
        """Return, by name, what trains in a wrapper: of net, loss and step objects."""
        return {}

    def accelerator_for(self, accelerator: Accelerator) -> Accelerator:
        """Return the accelerator that a step sees."""
        return accelerator

    def attach(self, step: Any, parts: Mapping[str, Any]) -> None:
        """Let a step know its wrapped parts."""

    def evaluated(self, net: nn.Module) -> nn.Module:
        """Return the net that measures."""
        return net

    def sync_to_module(self) -> None:
        """Bring the net itself up to date with its wrapped copies, after a training pass."""

    def refresh(self) -> None:
        """Bring the net up to date in mid-pass, for a callback that measures or saves it."""

    def taking(self) -> AbstractContextManager[None]:
        """Give the optimizer its whole state within, not one rank's shard, so that it is read."""
        return nullcontext()

    def putting(self) -> AbstractContextManager[None]:
        """Give the optimizer its whole state within, not one rank's shard, so that it is loaded."""
        return nullcontext()

    # A pass

    def shard(self, data: Batches, learning: bool) -> None:
        """Give this process its share of each batch, or of the batches."""
        data.prepare_pass(divide=learning)

    def microbatches(self, batches: Pass | Feed,
                     loader: Iterable[Batch]) -> Iterator[tuple[Batch, Microbatch]]:
        """Yield each batch with its place in its optimizer update."""
        size = batches.accumulation
        hold = copier_for(batches.data)
        source = examined(batches.step, iter(loader), hold, divided=size > 1)
        return zip(source, repeat(WHOLE)) if size == 1 else (
            self.windows(batches, map(hold, source), size))

    def windows(self, batches: Pass | Feed, source: Iterator[Batch],
                size: int) -> Iterator[tuple[Batch, Microbatch]]:
        """Yield the batches of each accumulation window, once all of it is read."""
        step, accelerator = batches.counting, batches.accelerator
        try:
            while window := [(one, step.count(one)) for one in islice(source, size)]:
                counts = [count for _, count in window]
                for place, (batch, count) in enumerate(window, start=1):
                    divisor, last = self.divisor(step, count, counts), place == len(window)
                    set_microbatch(accelerator, divisor, last)
                    yield batch, Microbatch(count_before_step(count), divisor, last)
        finally:
            set_microbatch(accelerator, size, last=True)
            weighing.scale_terms(batches.step, None, None)

    def divisor(self, step: Any, count: Count, window: list[Count]) -> Any:
        """Return the divisor of a batch's loss, as a part of its window."""
        if isinstance(count, weighing.Terms):
            totals = weighing.totals_of(window)
            weighing.scale_terms(step, count, totals)
            return totals[0] / count.samples if count.samples else 1
        # the mean loss of a batch without a label that counts is 0/0: it is not divided further
        none = isinstance(count, (int, float)) and not count
        return 1 if step.loss_adds_up or none else sum(window) / count

    def execute(self, step: Step, batch: Batch, microbatch: Microbatch) -> StepOutput:
        """Run a step as it is."""
        output: StepOutput = step(batch)
        return output

    def end_of_data(self, batches: Pass) -> None:
        """Meet the other processes where this one has no batch left."""

    def reduce_row(self, runner: EpochRunner) -> Row:
        """Return the numbers of a pass, of all processes together."""
        return runner.row_of_this_process()

    def broadcast(self, value: Any) -> Any:
        """Return the main process's value in every process."""
        return self.communicator.broadcast(value)

    # A step

    def raise_on_all_ranks(self) -> AbstractContextManager[None]:
        """Raise an error of one process in all of them."""
        return self.communicator.raise_on_all_ranks()

    def all_gather(self, value: Any) -> list[Any]:
        """Return the values of all processes."""
        return self.communicator.all_gather(value)

    def check_calls_modules(self, step: Any, loss: Tensor) -> None:
        """Refuse a loss that misses a parameter, if other processes wait for its gradient."""

    def before_update(self, step: Any) -> None:
        """Look at gradients before the optimizer moves."""

    def after_step(self, batches: Pass) -> None:
        """Check that the gradients of a step were shared."""

    def report_non_finite(self, step: Any, what: str, why: str) -> None:
        """End the run: a loss is not finite."""
        raise NonFiniteLoss(what, why=why)

    # Stopping

    def raise_non_finite(self, run: Run, error: NonFiniteLoss) -> None:
        """End the run: a loss that was read late is not finite."""
        raise error

    def request_stop(self, run: Run, request: Request) -> None:
        """Ask for the end of a run; several processes agree on the step."""
        run.apply(request)

    def poll(self, batches: Pass) -> None:
        """End the pass before a step, once all processes agreed to."""

    def agreed(self) -> Request | None:
        """Return the request of any process to end; all processes call this at the same moment."""
        return None


def count_before_step(count: Count) -> Count:
    """Return a count if it is known before the step; that of several losses needs their values."""
    return None if isinstance(count, weighing.Terms) else count
