"""Several training steps as one compiled graph, for nets so small that one call a step is slow."""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from torchkeras.acceleration.candidates import Candidate, compiled
from torchkeras.acceleration.step_graph import CompiledTrainStep, cloned
from torchkeras.core.types import Batch, StepOutput
from torchkeras.data.memory import BATCHES_AT_ONCE
from torchkeras.engine.callback import own_hook
from torchkeras.engine.epoch import EpochRunner
from torchkeras.weighting import examination

if TYPE_CHECKING:
    from torchkeras.acceleration.autotuner import StepAutotuner
    from torchkeras.acceleration.step_graph import Tensors
    from torchkeras.engine.step import StepRunner

TOGETHER = BATCHES_AT_ONCE  # the batches that data in memory selects at once


class CompiledMultiStep(Candidate):
    """Compute the steps of the next batches with the first of them, and return them one by one.

    In between, the weights are ahead of the step that was returned. So this is only for runs in
    which nothing reads them after each step; a run that is asked to stop ends when all computed
    steps have been returned.
    """

    name = f"{TOGETHER} steps a graph"
    compiles = 3  # the graph is longer
    fewest = TOGETHER  # steps that are worth a call

    def __init__(self, step: StepRunner, batch: Batch, tuner: StepAutotuner) -> None:
        self.single = cast(CompiledTrainStep, tuner.kept[-1])
        self.run, self.data, self.model = tuner.run, tuner.run.data.train, tuner.model
        self.size = len(batch[0])
        self.pending: deque[float | Tensor] = deque()
        self.at_once = 1
        self.graph = self.build_graph()
        self.compile_and_compare()

    def build_graph(self) -> Any:
        """Return the function that computes a block."""
        return compiled(self.build_function(), fullgraph=True)

    def compile_and_compare(self) -> None:
        """Compile the graph, and compare it with as many runs of the graph of one step."""
        features, labels = self.block()
        single, before = self.single, cloned(self.single.tensors())
        parts = zip(torch.split(features, self.size), torch.split(labels, self.size), strict=True)
        expected = single.run_on_copies([(single.graph, part) for part in parts])
        found = single.run_on_copies([(self.graph, (features, labels))])
        single.compare(found, expected, before)

    @staticmethod
    def unsupported_reason(step: StepRunner, batch: Batch, tuner: StepAutotuner) -> str | None:
        """Accept data in memory, in runs in which nothing needs each step at once."""
        runner, near = tuner.model.EpochRunner, tuner.run.data.train.device_data
        counters = cast(CompiledTrainStep, tuner.kept[-1]).counters
        hidden = len(counters) < len(step.metrics_dict) or step.per_step_schedule is not None
        name, block = CompiledMultiStep.name, None if near is None else near.block
        if block is None or len(block[0]) != TOGETHER * len(batch[0]):
            return f"{name}: no such blocks of data in memory"
        if runner is not EpochRunner or hidden or any(map(follows, tuner.callbacks.listeners)):
            return f"{name}: a callback, schedule, metric or EpochRunner follows each step"
        return None

    def block(self) -> Any:
        """Return the features and labels of the batches that were selected at once."""
        near: Any = self.data.device_data
        return near.block

    def build_function(self) -> Any:
        """Return the function to compile: one step after another, until a loss is not finite."""
        train_step, size = self.single.train_step, self.size

        def block(weights: Tensors, fixed: Tensors, states: list[Any], variables: list[Any],
                  features: Tensor, labels: Tensor) -> Any:
            finite = torch.ones((), dtype=torch.bool, device=features.device)
            losses, counts = [], []
            for x, y in zip(torch.split(features, size), torch.split(labels, size), strict=True):
                loss, _, count, finite = train_step(weights, fixed, states, variables, x, y, finite)
                losses.append(loss)
                counts.append(count)
            return torch.stack(losses), [
                {name: sum(each[name] for each in metric) for name in metric[0]}
                for metric in zip(*counts, strict=True)]

        return block

    def supports(self, step: StepRunner, batch: Batch) -> bool:
        """Return whether steps are pending, or the graph of one step supports the batch."""
        supported = bool(self.pending) or self.single.supports(step, batch)
        self.why = self.single.why
        return supported

    def __call__(self, step: StepRunner, batch: Batch) -> StepOutput:
        """Return the next pending step; compute a block of steps first if none is pending."""
        if not self.pending and not self.compute_block(step, batch):
            self.at_once = 1
            return self.single(step, batch)
        loss = self.pending.popleft()
        # this step and those after it have changed nothing; a tensor is read later, with others
        if isinstance(loss, float) and not math.isfinite(loss):
            self.pending.clear()
            return step(batch)
        step.number += 1
        return StepOutput({f"{step.stage}_loss": loss}, {"lr": step.learning_rate})

    def compute_block(self, step: StepRunner, batch: Batch) -> bool:
        """Compute the steps of a block if one begins here, and return whether it was done."""
        count = self.steps_from(batch)
        if count < self.fewest or (step.facts.paired and any(
                examination.is_check_due(step.number + number)
                for number in range(1, count + 1))):
            return False
        data = [one[:count * self.size] for one in self.block()]
        found = self.single.run_graph(self.graph, step, *data)
        if found is None:
            return False
        self.single.update_metrics(found[1])
        losses = found[0]
        self.pending.extend(losses.tolist() if losses.is_cpu else losses.unbind())
        self.at_once = count
        return True

    def steps_from(self, batch: Batch) -> int:
        """Return how many whole batches of this pass lie in the block that begins with a batch."""
        block, run = self.block(), self.run
        if block[0].data_ptr() != batch[0].data_ptr() or run.steps is None:
            return 0
        if self.model.EpochRunner is not EpochRunner:  # a callback may have put one there
            return 0
        return min(len(block[0]) // self.size, TOGETHER, run.steps - run.step)


def follows(listener: object) -> bool:
    """Return whether a callback needs ``on_step_end`` right after each step."""
    if own_hook(listener, "on_step_end") is None:
        return False
    return not any(getattr(listener, name, False) for name in ("allows_multi_step", "looks_only"))
