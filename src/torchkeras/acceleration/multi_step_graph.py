"""Several training steps as one compiled graph: for nets so small that even one call a step costs too much."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor

from torchkeras.acceleration.executors import Plain, compiled
from torchkeras.acceleration.step_graph import WholeStep, copied
from torchkeras.core.types import StepOutput
from torchkeras.data.memory import BATCHES_AT_ONCE
from torchkeras.engine.callback import overridden
from torchkeras.engine.epoch import EpochRunner
from torchkeras.weighting import examination

TOGETHER = BATCHES_AT_ONCE  # the batches that data in memory gives out of one selection


class WholeBlock(Plain):
    """The steps of the next batches are computed with the first of them, and given out one by one.

    In between, the weights are ahead of what is told. So it is only for runs in which nobody looks at them then, and a
    run that is asked to stop ends when all computed steps are told.
    """

    name = f"{TOGETHER} steps a graph"
    compiles = 3  # the graph is longer

    def __init__(self, step: Any, batch: Any, pilot: Any) -> None:
        self.single: WholeStep = pilot.kept[-1]
        self.run, self.data = pilot.run, pilot.data
        self.size = len(batch[0])
        self.waiting: deque[float] = deque()  # the losses of steps that are computed and not told
        self.at_once = 1  # the steps that were computed together
        block = self.traced()
        self.graph: Any = compiled(block, fullgraph=True)
        self.rehearse()

    def rehearse(self) -> None:
        """Compile the graph; it must compute what the graph of one step does, step by step."""
        features, labels = self.data.near.block
        single, before = self.single, copied(self.single.held())
        parts = zip(features.split(self.size), labels.split(self.size), strict=True)
        usual = single.on_copies([(single.graph, part) for part in parts])
        single.compare(single.on_copies([(self.graph, (features, labels))]), usual, before)

    @staticmethod
    def obstacle(step: Any, batch: Any, pilot: Any) -> str | None:
        """It is for data in memory, and for runs without anything that follows each step."""
        runner, near = pilot.model.EpochRunner, pilot.data.near
        hidden = len(pilot.kept[-1].counters) < len(step.metrics_dict) or step.moving is not None
        if near is None or near.block is None or len(near.block[0]) != TOGETHER * len(batch[0]):
            return f"{WholeBlock.name}: no such blocks of data in memory"
        if runner is not EpochRunner or hidden or any(map(follows, pilot.callbacks.listeners)):
            return f"{WholeBlock.name}: a callback, schedule, metric or EpochRunner follows each step"
        return None

    def traced(self) -> Any:
        """What is compiled: one step after another, until a loss is not finite."""
        one, size = self.single.one, self.size

        def block(weights: Any, fixed: Any, states: Any, numbers: Any, features: Tensor, labels: Tensor) -> Any:
            alive = torch.ones((), dtype=torch.bool, device=features.device)
            losses, counts = [], []
            for x, y in zip(features.split(size), labels.split(size), strict=True):
                loss, _, count, alive = one(weights, fixed, states, numbers, x, y, alive)
                losses.append(loss)
                counts.append(count)
            return torch.stack(losses), [{name: sum(each[name] for each in metric) for name in metric[0]}
                                         for metric in zip(*counts, strict=True)]

        return block

    def takes(self, batch: Any) -> bool:
        """Whether the graph of one step does; what is computed is only to be told."""
        taken = bool(self.waiting) or self.single.takes(batch)
        self.why = self.single.why
        return taken

    def __call__(self, step: Any, batch: Any) -> StepOutput:
        """Tell of the next step, after computing it if that is still to be done."""
        if not self.waiting and not self.computed(step, batch):
            self.at_once = 1
            return self.single(step, batch)
        loss = self.waiting.popleft()
        if not math.isfinite(loss):  # this step and those after it have changed nothing
            self.waiting.clear()
            return step(batch)
        step.number += 1
        return StepOutput({f"{step.stage}_loss": loss}, {"lr": step.learning_rate})

    def computed(self, step: Any, batch: Any) -> bool:
        """Compute the steps of a whole block, where one begins; whether it was done."""
        if not self.begins_here(batch) or (step.facts.paired and any(
                examination.due(step.number + number) for number in range(1, TOGETHER + 1))):
            return False
        found = self.single.call(self.graph, step, *self.data.near.block)
        if found is None:
            return False
        self.single.count(found[1])
        self.waiting.extend(found[0].tolist())
        self.at_once = TOGETHER
        return True

    def begins_here(self, batch: Any) -> bool:
        """Whether this batch is the first of a whole block, all of which this pass will reach."""
        block, run = self.data.near.block, self.run
        return (len(block[0]) == TOGETHER * self.size and block[0].data_ptr() == batch[0].data_ptr()
                and run.steps is not None and run.step + TOGETHER <= run.steps)


def follows(listener: Any) -> bool:
    """Whether a listener hears of each step and must not be told of it late."""
    return overridden(listener, "on_step_end") is not None and not getattr(listener, "looks_only", False)
