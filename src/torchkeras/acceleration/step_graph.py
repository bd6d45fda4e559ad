"""A whole training step as one compiled graph: forward, backward, update and counting.

In a small net, launching operations costs more than computing them. One graph launches once. The optimizer stays the
owner of its state: the graph writes into the same tensors that ``optimizer.step()`` uses, so eager and compiled steps
can follow one another, and what a checkpoint or a callback sees is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from torchkeras.acceleration import hooks, updates
from torchkeras.acceleration.executors import Plain, Recompiled, compiled, once_compiled, without_trace
from torchkeras.acceleration.same_modules import SameModules, SameOptimizer, SameTensors, modules_of
from torchkeras.acceleration.trial import (
    OtherNumbers,
    PlainSteps,
    Trial,
    Unfit,
    agree,
    moved_alike,
    place_of,
    places,
    same_places,
)
from torchkeras.acceleration.updates import UPDATES, still
from torchkeras.core.tree import map_tree
from torchkeras.core.types import StepOutput
from torchkeras.engine.step import StepRunner
from torchkeras.metrics.base import Metric
from torchkeras.state.rng import random_states
from torchkeras.weighting import examination

VERBS = ("__call__", "try_out", "forward", "loss", "backward", "update", "measure", "guard", "autocast")


def unfit(step: Any, batch: Any, options: Any) -> str | None:
    """What does not go with one graph a step; None when it can be tried."""
    for words, holds in OBSTACLES.items():
        if holds(step, batch, options):
            return words.format(optimizer=type(step.optimizer).__name__)
    return None


def holds_other_weights(step: Any, *_: Any) -> bool:
    """Whether the weights of the optimizer and those of the net that learn are not the same."""
    held = {id(weight) for group in step.optimizer.param_groups for weight in group["params"]}
    return held != {id(weight) for weight in step.net.parameters() if weight.requires_grad}


OBSTACLES: dict[str, Callable[[Any, Any, Any], bool]] = {
    "a StepRunner of your own": lambda step, *_: not isinstance(step, StepRunner) or any(
        getattr(type(step), verb) is not getattr(StepRunner, verb) for verb in VERBS),
    "mixed precision": lambda step, *_: not step.plain,
    "the optimizer {optimizer}": lambda step, *_: type(step.optimizer) not in UPDATES,
    "gradient accumulation": lambda step, *_: step.accelerator.gradient_accumulation_steps != 1,
    "labels of which it is not known yet whether they are left out": lambda step, *_: step.waiting is not None,
    "metrics of what comes next": lambda step, *_: bool(step.metrics_dict) and step.denominator.kind == "shifted",
    "a net with a loss of its own": lambda step, *_: step.loss_fn is None,
    "class weights or clip_grad_value": lambda step, *_: (
        step.config.class_weight is not None or step.config.clip_grad_value is not None),
    "a loss with weights": lambda step, *_: isinstance(step.loss_fn, nn.Module) and any(
        True for _ in step.loss_fn.parameters()),
    "batches that are not one tensor of features and one of labels": lambda step, batch, _: not fits(batch),
    "a schedule that moves more than the learning rate": lambda step, _, options: options != still(step.optimizer),
    "an optimizer that does not hold exactly the weights that learn": holds_other_weights,
    "hooks of a module": lambda step, *_: any(hooks.of_modules(modules_of(step))),
    "hooks of a weight": lambda step, *_: any(map(hooks.hooked, step.net.parameters())),
    "hooks of the optimizer": lambda step, *_: any(hooks.of_optimizer(step.optimizer)),
    "a step or zero_grad of your own in the optimizer": lambda step, *_: not updates.is_torchs_own(step.optimizer),
    "complex weights": lambda step, *_: any(map(torch.is_complex, step.net.parameters())),
}


def fits(batch: Any) -> bool:
    """Whether a batch is one tensor of features and one of labels."""
    return isinstance(batch, (list, tuple)) and len(batch) == 2 and all(
        type(one) is Tensor and not one.requires_grad for one in batch)


def numbers_at(found: dict[tuple[int, int], Tensor], one: Any) -> Any:
    """Return what numbers a tensor had then."""
    return found.get(place_of(one), one) if isinstance(one, Tensor) else one


def kinds_of(held: Any) -> list[list[Tensor]]:
    """Return the weights, the buffers and frozen weights, and each kind of what the optimizer remembers."""
    weights, fixed, states = held
    return [list(weights.values()), list(fixed.values()), *(column for state in states for column in state)]


def copied(tree: Any) -> Any:
    """A copy of nested tensors."""
    return map_tree(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)


class WholeStep(Plain):
    """The graph of one step, for batches of one shape.

    Args:
        step: a step that has run at least once, so that the optimizer's state is there.
        batch: what the graph is built for.
    """

    name = "one graph a step"
    compiles = 1
    gone = False  # whether the graph is of no use any more

    def __init__(self, step: StepRunner, batch: Any, pilot: Any = None) -> None:
        optimizer: Any = step.optimizer
        self.shapes, self.optimizer = [(one.shape, one.dtype) for one in batch], optimizer
        self.check_reached(step, batch)
        self.plain = PlainSteps(step, batch)
        names = {id(weight): name for name, weight in step.net.named_parameters() if id(weight) in self.plain.learning}
        check_remembered(optimizer, set(names))
        # aliases of the same memory, of which autograd knows nothing
        every = dict((*step.net.named_parameters(), *step.net.named_buffers()))
        self.weights = {name: every[name].detach() for name in names.values()}
        self.fixed = {name: value.detach() for name, value in every.items() if name not in self.weights}
        self.groups = [UPDATES[type(optimizer)](group, optimizer, names) for group in optimizer.param_groups]
        self.same: list[Any] = [SameModules(step), SameOptimizer(optimizer), SameTensors(list(every.values()))]
        self.numbers = [[torch.tensor(0.0, dtype=torch.float64) for _ in group.moving(group.options)]
                        for group in self.groups]
        self.counters = {name: metric for name, metric in step.metrics_dict.items() if counts_in_a_graph(metric)}
        self.one = self.traced(step)
        self.graph: Any = compiled(self.one, fullgraph=True)
        self.rehearse(batch)
        self.plain.forget()

    @staticmethod
    def obstacle(step: Any, batch: Any, pilot: Any) -> str | None:
        """It is for what the function below can write as one graph."""
        why = unfit(step, batch, pilot.options)
        return None if why is None else f"a graph does not go with {why}"

    @staticmethod
    def loss_of(step: StepRunner) -> Callable[..., Any]:
        """The loss as a function of the weights."""
        net, loss_fn = step.net, step.loss_fn

        def loss_of(weights: Any, fixed: Any, features: Tensor, labels: Tensor) -> Any:
            preds = functional_call(net, (weights, fixed), (features,))
            return loss_fn(preds, labels), preds

        return loss_of

    @classmethod
    def check_reached(cls, step: StepRunner, batch: Any) -> None:
        """Refuse a loss that reaches the net's weights by itself: a graph learns on weights that it is given."""
        own = [one for one in step.net.parameters() if one.requires_grad]
        with Trial(step).no_trace(updates=False) as alone, torch.enable_grad():
            weights, fixed = ({name: one.detach().clone() for name, one in some} for some in (
                alone.net.named_parameters(), alone.net.named_buffers()))
            loss, _ = cls.loss_of(alone)({name: one.requires_grad_() if one.is_floating_point() else one
                                          for name, one in weights.items()}, fixed, *batch)
            found = torch.autograd.grad(loss, own, allow_unused=True) if loss.requires_grad else ()
        if any(one is not None for one in found):
            raise Unfit("a loss that reads the net's own weights")

    def traced(self, step: StepRunner) -> Callable[..., Any]:
        """What is compiled; everything that changes comes in as an argument."""
        loss_of, limit = self.loss_of(step), step.config.clip_grad_norm
        counters, groups = list(self.counters.values()), self.groups

        def whole(weights: Any, fixed: Any, states: Any, numbers: Any, features: Tensor, labels: Tensor,
                  alive: Tensor | None = None) -> Any:
            written = [*weights.values(), *(one for state in states for column in state for one in column
                                            if isinstance(one, Tensor))]
            guarded = features.is_cpu or alive is not None  # a loss on another device is not read at each step
            before = [one.clone() for one in written] if guarded else []
            buffers = [(one, one.clone()) for one in fixed.values()] if guarded else []
            gradients, (loss, preds) = grad_and_value(loss_of, has_aux=True)(weights, fixed, features, labels)
            gradients = gradients if limit is None else clipped(gradients, limit)
            for group, state, moving in zip(groups, states, numbers, strict=True):
                group.update([weights[name] for name in group.names], [gradients[name] for name in group.names],
                             state, *moving)
            preds = preds.detach()
            counts = [metric.count(preds, labels) for metric in counters]
            if not guarded:
                return loss, preds, counts, None
            # with a loss that is not finite, all stays as it was: that step is done without a graph
            sound = loss.isfinite() if alive is None else loss.isfinite() & alive
            for one, old in (*zip(written, before, strict=True), *buffers):
                one.copy_(torch.where(sound, one, old))
            return loss, preds, [{name: torch.where(sound, more, 0) for name, more in each.items()}
                                 for each in counts], sound

        return whole

    def rehearse(self, batch: Any) -> None:
        """Compile the graph by running it on copies of all that it writes to; it must compute what plain steps do."""
        usual, before = (map_tree(partial(numbers_at, found), self.held())
                         for found in (self.plain.after, self.plain.before))
        self.compare(self.on_copies([(self.graph, batch)] * 2), (self.plain.losses, usual, self.plain.ended), before)

    def on_copies(self, runs: Iterable[tuple[Any, Any]]) -> tuple[Tensor, Any, list[Tensor]]:
        """Return the losses of some graphs in turn, all that they wrote to, and where random generators got to.

        No trace is left.
        """
        self.tell(self.optimizer)
        held = copied(self.held())
        with torch.no_grad(), without_trace(next(iter(self.weights.values())).device):
            losses = [graph(*held, self.numbers, *data)[0].reshape(-1) for graph, data in runs]
            return torch.cat(losses), held, places(random_states())

    def compare(self, found: Any, usual: Any, before: Any) -> None:
        """Refuse a graph of which losses, weights, buffers, memories or random numbers come out otherwise."""
        sound = torch.allclose(found[0], usual[0], rtol=1e-3, atol=1e-5, equal_nan=True)
        sound = sound and same_places(found[2], usual[2])
        for number, each in enumerate(zip(*map(kinds_of, (found[1], usual[1], before)), strict=True)):
            # Adam's steps are as large for a gradient that is nothing but rounding
            compare = moved_alike if number == 0 and self.groups[0].normalises else agree
            sound = sound and compare(*each)
        if not sound:
            raise OtherNumbers

    def held(self) -> tuple[Any, Any, Any]:
        """All that a graph reads and writes besides the data."""
        return self.weights, self.fixed, [group.state for group in self.groups]

    def tell(self, optimizer: Any) -> None:
        """Write the numbers that may change from step to step to where a graph reads them."""
        for tensors, group, now in zip(self.numbers, self.groups, optimizer.param_groups, strict=True):
            for tensor, number in zip(tensors, group.moving(now), strict=True):
                tensor.fill_(number)

    def takes(self, batch: Any) -> bool:
        """Whether batch, net, loss and optimizer are as when the graph was built: a callback may change them."""
        if not fits(batch) or [(one.shape, one.dtype) for one in batch] != self.shapes or self.gone:
            return False
        self.why = next((why for same in self.same if (why := same.changed())), None)
        if self.why is None and not all(map(updates.Group.unchanged, self.groups, self.optimizer.param_groups)):
            self.why = "options of the optimizer were changed"
        return self.why is None

    def call(self, graph: Any, step: StepRunner, *data: Tensor) -> Any:
        """Run a graph on what the net and the optimizer hold now; None where it would have to be compiled anew."""
        self.tell(step.optimizer)
        step.learning_rate = step.optimizer.param_groups[0]["lr"]
        try:
            with torch.no_grad(), once_compiled():
                return graph(*self.held(), self.numbers, *data)
        except Recompiled:
            self.gone, self.why = True, "what forward or the loss reads has changed"
            return None

    def count(self, added: list[Any]) -> None:
        """Add to the metrics what the graph has counted."""
        for metric, more in zip(self.counters.values(), added, strict=True):
            metric.absorb(more)

    def __call__(self, step: StepRunner, batch: Any) -> StepOutput:
        """Run the graph, then what is not in it; a step that it cannot do is done without."""
        if step.facts.paired and examination.due(step.number + 1):
            return step(batch)
        drawn = torch.get_rng_state() if self.plain.draws else None
        found = self.call(self.graph, step, *batch)
        if found is None:
            return step(batch)
        loss, preds, added, _ = found
        if loss.is_cpu and not math.isfinite(loss.item()):
            if drawn is not None:
                torch.set_rng_state(drawn)
            return step(batch)
        step.number += 1
        if step.moving is not None:
            step.moving.step()
        self.count(added)
        for name, metric in step.metrics_dict.items():
            if name not in self.counters:
                metric.update(preds, batch[1])
        return StepOutput({f"{step.stage}_loss": loss}, {"lr": step.learning_rate})


def check_remembered(optimizer: Any, learning: set[int]) -> None:
    """Refuse weights that got a gradient in another step than this one, of which an optimizer has a memory."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            remembered = updates.remembers(optimizer, weight)
            if remembered != (id(weight) in learning) and (remembered or UPDATES[type(optimizer)].has_memory(group)):
                raise Unfit("weights that get a gradient in some steps only")


def counts_in_a_graph(metric: Any) -> bool:
    """Return whether what a metric adds for a batch can be part of a graph."""
    return isinstance(metric, Metric) and bool(metric.sums) and not metric.lists and all(
        getattr(type(metric), name) is getattr(Metric, name) for name in ("update", "counted", "absorb"))


def clipped(gradients: dict[str, Tensor], limit: float) -> dict[str, Tensor]:
    """Gradients with a norm of at most ``limit``, as torch.nn.utils.clip_grad_norm_ scales them."""
    norm = torch.linalg.vector_norm(torch.stack([one.norm() for one in gradients.values()]))
    share = (limit / (norm + 1e-6)).clamp(max=1.0)
    return {name: one * share for name, one in gradients.items()}
