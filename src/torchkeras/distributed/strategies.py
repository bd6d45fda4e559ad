"""Train one net in several processes: the same data and weights, shared gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from torchkeras.core.communicator import Communicator
from torchkeras.core.device import set_microbatch
from torchkeras.core.errors import bad_type
from torchkeras.core.stop import NonFiniteLoss, Request
from torchkeras.core.types import Batch, Count, Microbatch, Row, Step, StepOutput
from torchkeras.data import Batches
from torchkeras.data.arrays import as_it_is
from torchkeras.data.reuse import copier_for
from torchkeras.distributed import ddp
from torchkeras.distributed.batchnorm import each_its_own, synchronised
from torchkeras.distributed.broadcast import same_buffers, same_weights
from torchkeras.distributed.ddp import WeightedDDP
from torchkeras.distributed.fsdp import FSDPModule, check_divisible
from torchkeras.distributed.job_checks import (
    check_apart,
    check_reachable,
    check_same,
    parts_of,
    whole_windows,
)
from torchkeras.distributed.local_accelerator import LocalAccelerator
from torchkeras.distributed.reducible_metrics import dummy_step, reduced_row
from torchkeras.distributed.sharded_data import Shard, ShardedBatches
from torchkeras.distributed.stop import StopCoordinator
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.passes import Pass
from torchkeras.engine.run import Run
from torchkeras.engine.strategy import SingleProcess, count_before_step
from torchkeras.engine.trainable import Trainable
from torchkeras.weighting import examination, weighing
from torchkeras.weighting.averages import samples_of
from torchkeras.weighting.examination import is_check_due
from torchkeras.weighting.first_look import examined

if TYPE_CHECKING:
    from accelerate import Accelerator


class DistributedStrategy(SingleProcess):
    """Compute in several processes: each has its share of the data, and all end at the same step.

    Training divides every batch; measuring deals out whole batches. This class only measures; the
    two below train.
    """

    splits_batches = True

    def accelerator_for(self, accelerator: Accelerator) -> Any:
        """Return the accelerator that a step sees: what it gathers is its own part."""
        return LocalAccelerator(accelerator)

    def attach(self, step: Any, parts: Mapping[str, Any]) -> None:
        """Let a step know its wrapped parts."""
        step.replicas = [one for one in parts.values() if isinstance(one, WeightedDDP)]

    def is_synchronous(self, learning: bool) -> bool:
        """Tell whether all processes do each step of a pass at the same time."""
        return learning

    def shard(self, data: Batches, learning: bool) -> None:
        """Give this process its share: a part of each training batch, or whole batches in turn."""
        data.prepare_pass(divide=self.is_synchronous(learning))
        sharing = data.sharing
        if sharing is None or sharing.communicator is not self.communicator:
            sharing = ShardedBatches(data.source, data.name, data.steps, self.communicator,
                                     data.device_data)
        sharing.memory = data.device_data
        data.sharing = sharing

    # A pass

    def microbatches(self, batches: Any, loader: Any) -> Iterator[tuple[Batch, Microbatch]]:
        """Yield this rank's share of each batch, with its weight in the update."""
        step, data, learning = batches.step, batches.data, batches.learning
        hold = copier_for(data) if learning and batches.accumulation > 1 else as_it_is
        source = examined(step, iter(loader), copier_for(data), divided=learning)
        shares = ((hold(batch), share_of(data)) for batch in source)
        number = 0
        try:
            while window := list(islice(shares, batches.accumulation)):
                for found in self.window(batches, window):
                    yield found
                    number += 1
                    if learning and is_check_due(number):  # validation has no batches in step
                        self.agree_on_loss(step)
        finally:
            if learning:
                size = batches.run.config.gradient_accumulation_steps
                set_microbatch(batches.accelerator, size, last=True)
                weighing.scale_terms(step, None, None)

    def window(self, batches: Pass,
               window: list[tuple[Batch, Shard]]) -> Iterator[tuple[Batch, Microbatch]]:
        """Yield the batches of one update, each with the share of this rank."""
        counting = batches.counting
        counts = [counting.count(batch) if shard.samples else 0 for batch, shard in window]
        weigh = self.weigher(
            batches, counts, len(window) * window[0][1].whole) if batches.learning else None
        for place, (batch, shard) in enumerate(window):
            if shard.samples:
                batches.counted.append(shard.number)
            whole = Microbatch(count_before_step(counts[place]), padding=not shard.samples)
            yield batch, whole if weigh is None else weigh(place, whole)

    def weigher(self, batches: Pass, counts: list[Count],
                samples: int) -> Callable[[int, Microbatch], Microbatch]:
        """Return a function that weighs the batch at a place of a window, before its step."""
        step, accelerator = batches.step, batches.accelerator
        totals = ddp.total_counts(step, counts)
        parts = [samples_of(one) for one in counts]
        scale = self.common_scale(step, parts, samples)

        def weigh(place: int, microbatch: Microbatch) -> Microbatch:
            terms, last = counts[place], place + 1 == len(counts)
            weighing.scale_terms(step, terms if isinstance(terms, weighing.Terms) else None, totals)
            part, weight = parts[place] / scale, sum(parts[:place + 1]) / scale
            if batches.loss_adds_up:
                part, weight = self.weight_of_sum(parts[place]), 1 / self.communicator.world_size
            counts_here = isinstance(part, Tensor) or bool(part)
            divisor = 1 / part if counts_here else math.inf
            set_microbatch(accelerator, divisor, last)
            self.set_weight(step, weight, last)
            return microbatch._replace(divisor=divisor, last=last, has_labels=counts_here)

        return weigh

    def common_scale(self, step: Any, counts: list[Any], samples: int) -> Any:
        """Return the number, common to all processes, that divides the counts of a window."""
        return samples / self.communicator.world_size

    def weight_of_sum(self, count: Any) -> float:
        """Return the weight of a part whose loss adds up its samples."""
        return float(bool(count))

    def set_weight(self, step: Any, weight: float | Tensor, last: bool) -> None:
        """Set the weight of the wrapped modules' part of an update, and whether it is the last."""
        ddp.set_weight(step, weight, last)

    def execute(self, step: Any, batch: Batch, microbatch: Microbatch) -> StepOutput:
        """Run a step; one for padding counts nowhere."""
        output: StepOutput = (dummy_step if microbatch.padding else run_step)(step, batch)
        return output

    def agree_on_loss(self, step: Any) -> None:
        """Let all processes use what one of them learned about the loss from a batch."""
        facts = getattr(step, "facts", None)
        if facts is None or not facts.paired:
            return
        found = [one for one in self.all_gather(facts.revised) if one is not None]
        facts.revised = None
        if found:
            examination.revise_denominator(step, found[0], divided=step.stage == "train")

    def reduce_row(self, runner: EpochRunner) -> Row:
        """Return the numbers of a pass, of all processes together."""
        self.agree_on_loss(getattr(runner.step_runner, "step", runner.step_runner))
        return reduced_row(runner, self.communicator)

    # A step

    def check_calls_modules(self, step: Any, loss: Tensor) -> None:
        """Refuse a loss that misses a parameter: other processes would wait for its gradient."""
        ddp.check_calls_modules(step, loss)

    def before_update(self, step: Any) -> None:
        """End in all processes if the loss of one was not finite."""
        ddp.check_finite_gradients(step)

    def after_step(self, batches: Pass) -> None:
        """Refuse a step whose gradients were not shared."""
        if batches.learning and batches.accelerator.sync_gradients:
            ddp.check_shared(batches.step)

    def report_non_finite(self, step: Any, what: str, why: str) -> None:
        """Mark the gradients for which other processes wait: all stop before the update."""
        ddp.mark_non_finite(step)
        self.stops.request = Request(
            f"{what} in process {self.communicator.rank}", True, why=why)

    # Stopping

    @property
    def stops(self) -> StopCoordinator:
        """Return what lets all processes stop together."""
        processes: Any = self.communicator
        stops: StopCoordinator = processes.stops
        return stops

    def agreed(self) -> Request | None:
        """Return the request to stop that any process has, where all pass at the same moment."""
        return self.stops.agreed()

    def raise_non_finite(self, run: Run, error: NonFiniteLoss) -> None:
        """Ask all processes to end: a loss that was read late is not finite."""
        run.request(Request(f"{error} in process {self.communicator.rank}", True, error.step,
                            why=error.why))

    def request_stop(self, run: Run, request: Request) -> None:
        """Ask for the end; it comes once all processes agreed on the step."""
        self.stops.ask(request)

    def poll(self, batches: Pass) -> None:
        """End the pass before a step, once all processes agreed to."""
        synchronous = self.is_synchronous(batches.learning)
        self.end(batches.run, self.stops.poll(synchronous, steps_left(batches)))

    def end_of_data(self, batches: Pass) -> None:
        """Meet the other processes: a pass that measures ends early in all of them or in none."""
        if not self.is_synchronous(batches.learning):
            self.end(batches.run, self.stops.join(True))

    def end(self, run: Run, request: Request | None) -> None:
        """End a pass on behalf of a request that all processes agreed on."""
        if request is not None:
            if not request.diverged:
                run.apply(request)
            raise request.as_error()


class DDPStrategy(DistributedStrategy):
    """Train with DistributedDataParallel: each process has the whole net and shares gradients.

    Args:
        model: what is trained.
        communicator: the processes.
        find_unused_parameters: look in every step for parameters that got no gradient.
    """

    def __init__(self, model: Trainable, communicator: Communicator, *,
                 find_unused_parameters: bool) -> None:
        super().__init__(communicator)
        self.model, self.find_unused_parameters = model, find_unused_parameters
        self.made: dict[tuple[bool, ...], Mapping[str, Any]] = {}

    def wrapped(self, learning: bool) -> Mapping[str, Any]:
        """Return the wrapped modules; each waits for the gradients it expected when it was made."""
        return self.replicas() if learning else {}

    def evaluated(self, net: nn.Module) -> nn.Module:
        """Return the wrapped net, whose mode is set with the net's own."""
        found: nn.Module = self.replicas().get("net", net)
        return found

    def replicas(self) -> Mapping[str, Any]:
        """Return the wrapped modules, made anew when the user has frozen or thawed something."""
        learning = tuple(weight.requires_grad for module in self.model.learners()
                         for weight in module.parameters())
        if learning not in self.made:
            self.made.clear()
            self.made[learning] = ddp.replicas(parts_of(self.model),
                                               find_unused_parameters=self.find_unused_parameters)
        return self.made[learning]

    def sync_to_module(self) -> None:
        """Give every process the main process's buffers, after a training pass."""
        same_buffers(self.communicator, *self.model.learners())


class FSDPStrategy(DistributedStrategy):
    """Train with FSDP: every process has a part of the weights, gradients and optimizer state.

    Args:
        model: what is trained.
        communicator: the processes.
        run: its run.
    """

    shards_parameters = True

    def __init__(self, model: Trainable, communicator: Communicator, run: Run) -> None:
        super().__init__(communicator)
        check_divisible(model.net, {"optimizer": model.optimizer, **model.step_objects})
        self.shards = FSDPModule(model.net, run, model.optimizer)
        self.others = [one for one in model.learners() if one is not model.net]
        self.parts = ddp.replicas({**parts_of(model), "net": None}) | {"net": self.shards.divided}

    def is_synchronous(self, learning: bool) -> bool:
        """Return True: each process has a part of the net, so all do each step together."""
        return True

    def wrapped(self, learning: bool) -> Mapping[str, Any]:
        """Return the divided net and the wrapped modules beside it."""
        self.shards.check_learning()
        return self.parts

    def evaluated(self, net: nn.Module) -> nn.Module:
        """Return the divided net."""
        divided: nn.Module = self.wrapped(learning=False)["net"]
        return divided

    def common_scale(self, step: Any, counts: list[Any], samples: int) -> Any:
        """Return the true total over all processes: FSDP takes a plain mean, without weights."""
        return ddp.true_scale(step, counts)

    def weight_of_sum(self, count: Any) -> float:
        """Return the weight of a part whose loss adds up its samples, to undo FSDP's mean."""
        return float(self.communicator.world_size * bool(count))

    def set_weight(self, step: Any, weight: float | Tensor, last: bool) -> None:
        """Set the weight of the wrapped modules' part, and whether FSDP then shares gradients."""
        super().set_weight(step, weight, last)
        step.net.set_requires_gradient_sync(last)

    def sync_to_module(self) -> None:
        """Bring the whole net and all buffers up to date."""
        same_buffers(self.communicator, self.shards.divided, *self.others)
        self.shards.gather()

    def refresh(self) -> None:
        """Bring the whole net up to date, if it has learned since."""
        self.shards.refresh()

    def taking(self) -> AbstractContextManager[None]:
        """Make the optimizer that of the whole net, to read its state."""
        return self.shards.taking()

    def putting(self) -> AbstractContextManager[None]:
        """Make the optimizer that of the whole net, to load its state."""
        return self.shards.putting()


def share_of(data: Batches) -> Shard:
    """Return this rank's share of the batch that was just read."""
    share: Shard | None = data.share
    if share is None:
        raise RuntimeError("the data of one of several processes was not divided")
    return share


def run_step(step: Step, batch: Batch) -> Any:
    """Run a step."""
    return step(batch)


def steps_left(batches: Pass) -> tuple[int, int]:
    """Return the steps left in an accumulation window, now and after one more step."""
    size, done = batches.accumulation, batches.run.step
    end = math.inf if batches.run.steps is None else batches.run.steps
    return int(min(-done % size, end - done)), int(min(-(done + 1) % size, max(end - done - 1, 0)))


def measuring_strategy(communicator: Communicator) -> SingleProcess:
    """Return where something is measured or predicted outside of a run."""
    return SingleProcess() if communicator.world_size == 1 else DistributedStrategy(communicator)


@contextmanager
def training_strategy(model: Trainable, run: Run) -> Iterator[None]:
    """Share weights and gradients with the other processes, if all were given the same."""
    communicator = run.communicator
    if communicator.world_size == 1:
        yield
        return
    if model.EpochRunner.__call__ is not EpochRunner.__call__:
        raise bad_type("EpochRunner", received="one with a __call__ of its own",
                       expected="torchkeras' own in several processes, which joins what they "
                       "counted", fix="Override a StepRunner instead.")
    check_same(model, run)
    same_weights(communicator, *model.learners())
    run.notes.append(f"processes: {communicator.world_size}, which share every batch")
    check_apart(parts_of(model))
    check_reachable(model, parts_of(model))
    batchnorm = synchronised if run.config.sync_batchnorm else each_its_own
    before = run.strategy
    with (batchnorm(model.learners(), run), whole_windows(model, run),
          strategy_of(model, run) as strategy):
        run.use(strategy)
        try:
            yield
        finally:
            run.use(before)


@contextmanager
def strategy_of(model: Trainable, run: Run) -> Iterator[DistributedStrategy]:
    """Give the strategy that the configuration asks for."""
    communicator = run.communicator
    if not run.config.fsdp:
        yield DDPStrategy(model, communicator,
                          find_unused_parameters=run.config.find_unused_parameters)
        return
    strategy = FSDPStrategy(model, communicator, run)
    run.notes.append("fsdp: the weights are divided between the processes")
    with strategy.shards.learning():
        yield strategy
