"""A whole training step as one compiled graph: forward, backward, update and metric counts.

In a small net, launching operations costs more than computing them; one graph launches once. The
optimizer keeps owning its state: the graph writes into the tensors that ``optimizer.step()`` uses,
so eager and compiled steps can follow one another, and a checkpoint or callback sees the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value

from torchkeras.acceleration import updates
from torchkeras.acceleration.candidates import (
    Candidate,
    RecompilationNeeded,
    quiet_compilation,
)
from torchkeras.acceleration.recorded_graph import recorded
from torchkeras.acceleration.same_modules import (
    SameModules,
    SameOptimizer,
    SameStep,
    SameTensors,
    modules_of,
)
from torchkeras.acceleration.trial import (
    OtherNumbers,
    ReferenceSteps,
    Trial,
    Unfit,
    all_equal,
    changes_agree,
    memory_of,
    same_tensors_changed,
    torch_generators,
)
from torchkeras.acceleration.updates import UPDATES, constant_options, unwrapped
from torchkeras.core import internals
from torchkeras.core.optimizers import current_lr
from torchkeras.core.rng import random_states
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Batch, Leaf, StepOutput
from torchkeras.engine.config import FitConfig
from torchkeras.engine.step import StepRunner
from torchkeras.metrics.base import Metric
from torchkeras.weighting import examination

if TYPE_CHECKING:
    from torch.optim import Optimizer

    from torchkeras.acceleration.autotuner import StepAutotuner

VERBS = ("__call__", "forward_and_loss", "forward", "loss", "backward", "update", "clip", "measure",
         "check_finite_loss", "autocast")
Tensors: TypeAlias = dict[str, Tensor]  # by the names of parameters and buffers
Written: TypeAlias = tuple[Tensors, Tensors, list[Any]]  # weights, fixed tensors, optimizer states
Outcome: TypeAlias = tuple[Tensor, Written, list[Tensor]]  # losses, tensors, random generators


def unsupported_part(step: StepRunner, batch: Batch, options: list[Any]) -> str | None:
    """Return what one graph a step does not support; None when it can be tried."""
    for words, holds in UNSUPPORTED.items():
        if holds(step, batch, options):
            return words.format(optimizer=type(unwrapped(step.optimizer)).__name__)
    return None


def holds_other_weights(step: StepRunner, *_: object) -> bool:
    """Return whether the optimizer's weights differ from the net's that require gradients."""
    held = {id(weight) for group in step.optimizer.param_groups for weight in group["params"]}
    return held != {id(weight) for weight in step.net.parameters() if weight.requires_grad}


def clips_otherwise(config: FitConfig) -> bool:
    """Return whether gradients are clipped in a way that the graph has not."""
    return any(getattr(config, one.name) is not None for one in fields(config)
               if one.name.startswith("clip_") and one.name != "clip_grad_norm")


UNSUPPORTED: dict[str, Callable[[StepRunner, Batch, list[Any]], bool]] = {
    "a StepRunner of your own": lambda step, *_: not isinstance(step, StepRunner) or any(
        getattr(type(step), verb) is not getattr(StepRunner, verb) or verb in vars(step)
        for verb in VERBS),
    "mixed precision in fp16": lambda step, *_: step.accelerator.mixed_precision == "fp16",
    "the optimizer {optimizer}": lambda step, *_: type(unwrapped(step.optimizer)) not in UPDATES,
    "gradient accumulation": lambda step, *_: step.config.gradient_accumulation_steps != 1,
    "labels of which it is not known yet whether they are left out": lambda step, *_: (
        step.waiting is not None),
    "metrics of what comes next": lambda step, *_: (
        bool(step.metrics_dict) and step.denominator.kind == "shifted"),
    "a net with a loss of its own": lambda step, *_: step.loss_fn is None,
    "class weights": lambda step, *_: step.config.class_weight is not None,
    "clipping other than clip_grad_norm": lambda step, *_: clips_otherwise(step.config),
    "a loss with weights": lambda step, *_: isinstance(step.loss_fn, nn.Module) and any(
        True for _ in step.loss_fn.parameters()),
    "batches that are not one tensor of features and one of labels": lambda step, batch, _: (
        not is_tensor_pair(batch)),
    "a schedule that moves more than the learning rate": lambda step, _, options: (
        options != constant_options(step.optimizer)),
    "an optimizer that does not hold exactly the weights that learn": holds_other_weights,
    "hooks of a module": lambda step, *_: any(internals.module_hooks(modules_of(step))),
    "hooks of a weight": lambda step, *_: any(
        map(internals.has_gradient_hooks, step.net.parameters())),
    "hooks of the optimizer": lambda step, *_: any(
        internals.optimizer_hooks(unwrapped(step.optimizer))),
    "a step or zero_grad of your own in the optimizer": lambda step, *_: (
        not updates.has_torchs_step(unwrapped(step.optimizer))),
    "complex weights": lambda step, *_: any(map(torch.is_complex, step.net.parameters())),
}


def is_tensor_pair(batch: Batch) -> bool:
    """Return whether a batch is one tensor of features and one of labels."""
    return isinstance(batch, (list, tuple)) and len(batch) == 2 and all(
        type(one) is Tensor and not one.requires_grad for one in batch)


def values_in(copies: dict[tuple[int, int], Tensor], one: Leaf) -> Leaf:
    """Return the copy that was made of a tensor; anything else as it is."""
    return copies.get(memory_of(one), one) if isinstance(one, Tensor) else one


def groups_of(tensors: Written) -> list[list[Tensor]]:
    """Return the weights, the fixed tensors, and the optimizer's tensors of each kind."""
    weights, fixed, states = tensors
    columns = (column for state in states for column in state)
    return [list(weights.values()), list(fixed.values()), *columns]


def cloned(tree: Written) -> Written:
    """Return nested tensors with every tensor copied."""
    clone: Written = map_tree(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)
    return clone


class CompiledTrainStep(Candidate):
    """The graph of one step, for batches of one shape.

    Args:
        step: a step that has run at least once, so that the optimizer's state exists.
        batch: what the graph is built for.
    """

    name = "one graph a step"
    compiles = 1
    stale = False  # True once the graph would have to be compiled anew

    def __init__(self, step: StepRunner, batch: Batch, tuner: StepAutotuner | None = None) -> None:
        optimizer: Any = unwrapped(step.optimizer)
        # else two ways to compute differ by more than rounding to float32
        self.exact = step.full_precision
        self.shapes = [(one.shape, one.dtype) for one in batch]
        self.optimizer = optimizer
        self.check_own_weights(step, batch)
        self.reference = ReferenceSteps(step, batch)
        names = {id(weight): name for name, weight in step.net.named_parameters()
                 if id(weight) in self.reference.learning}
        check_state(optimizer, set(names))
        # aliases of the same memory, unknown to autograd
        every = dict((*step.net.named_parameters(), *step.net.named_buffers()))
        self.weights = {name: every[name].detach() for name in names.values()}
        self.fixed = {name: value.detach() for name, value in every.items()
                      if name not in self.weights}
        self.groups = [UPDATES[type(optimizer)](group, optimizer, names)
                       for group in optimizer.param_groups]
        self.same_step = SameStep(step)
        self.same: list[SameModules | SameOptimizer | SameTensors] = [
            SameModules(step), SameOptimizer(optimizer), SameTensors(list(every.values()))]
        self.variables = [[torch.tensor(0.0, dtype=torch.float64)
                           for _ in group.variables(group.options)] for group in self.groups]
        self.counters = {name: metric for name, metric in step.metrics_dict.items()
                         if counts_in_graph(metric)}
        self.train_step = self.build_function(step)
        self.graph, self.last = recorded(self.train_step)
        self.compile_and_compare(batch)
        self.reference.free()

    @staticmethod
    def unsupported_reason(step: StepRunner, batch: Batch, tuner: StepAutotuner) -> str | None:
        """Accept steps that ``build_function`` can write as one graph."""
        why = unsupported_part(step, batch, tuner.options)
        return None if why is None else f"a graph does not go with {why}"

    @staticmethod
    def loss_of(step: StepRunner) -> Callable[..., tuple[Tensor, Any]]:
        """Return the loss as a function of the weights."""
        net, loss_fn = step.net, step.loss_fn

        def loss_of(weights: Tensors, fixed: Tensors, features: Tensor, labels: Tensor
                    ) -> tuple[Tensor, Any]:
            preds = functional_call(net, (weights, fixed), (features,))
            return loss_fn(preds, labels), preds

        def mixed_loss_of(weights: Tensors, fixed: Tensors, features: Tensor, labels: Tensor
                          ) -> tuple[Tensor, Any]:
            # the cache of casts would hold what belongs to one call of the graph
            with torch.autocast(features.device.type, torch.bfloat16, cache_enabled=False):
                return loss_of(weights, fixed, features, labels)

        # torch keeps no graph with autocast in it for the next run, even where it is off
        return loss_of if step.full_precision else mixed_loss_of

    @classmethod
    def check_own_weights(cls, step: StepRunner, batch: Batch) -> None:
        """Refuse a loss that reads the net's weights itself: a graph gets them as inputs."""
        own = [one for one in step.net.parameters() if one.requires_grad]
        with Trial(step).rolled_back(updates=False) as alone, torch.enable_grad():
            weights = {name: one.detach().clone() for name, one in alone.net.named_parameters()}
            fixed = {name: one.detach().clone() for name, one in alone.net.named_buffers()}
            for one in weights.values():
                if one.is_floating_point():
                    one.requires_grad_()
            loss, _ = cls.loss_of(alone)(weights, fixed, *batch)
            found = torch.autograd.grad(loss, own, allow_unused=True) if loss.requires_grad else ()
        if any(one is not None for one in found):
            raise Unfit("a loss that reads the net's own weights")

    def build_function(self, step: StepRunner) -> Callable[..., Any]:
        """Return the function to compile; everything that changes is an argument of it."""
        loss_of, limit = self.loss_of(step), step.config.clip_grad_norm
        counters, groups = list(self.counters.values()), self.groups

        def train_step(weights: Tensors, fixed: Tensors, states: list[Any], variables: list[Any],
                       features: Tensor, labels: Tensor, all_finite: Tensor | None = None) -> Any:
            written = [*weights.values(), *(one for state in states for column in state
                                            for one in column if isinstance(one, Tensor))]
            # on an accelerator, the loss of a single step is not read
            guarded = features.is_cpu or all_finite is not None
            before = [one.clone() for one in written] if guarded else []
            buffers = [(one, one.clone()) for one in fixed.values()] if guarded else []
            gradients, (loss, preds) = grad_and_value(loss_of, has_aux=True)(
                weights, fixed, features, labels)
            gradients = gradients if limit is None else clipped(gradients, limit)
            for group, state, inputs in zip(groups, states, variables, strict=True):
                group.update([weights[name] for name in group.names],
                             [gradients[name] for name in group.names], state, *inputs)
            preds = preds.detach()
            counts = [metric.count(preds, labels) for metric in counters]
            if not guarded:
                return loss, preds, counts, None
            # a loss that is not finite leaves all as it was: that step is then run eagerly
            finite = loss.isfinite() if all_finite is None else loss.isfinite() & all_finite
            for one, old in (*zip(written, before, strict=True), *buffers):
                one.copy_(torch.where(finite, one, old))
            return loss, preds, [{name: torch.where(finite, more, 0) for name, more in each.items()}
                                 for each in counts], finite

        return train_step

    def compile_and_compare(self, batch: Batch) -> None:
        """Compile the graph by running it on copies, and compare it with the eager steps."""
        reference = self.reference
        after, before = (map_tree(partial(values_in, copies), self.tensors())
                         for copies in (reference.after, reference.before))
        found = self.run_on_copies([(self.graph, batch)] * 2)
        self.compare(found, (reference.losses, after, reference.rng_after), before)

    def run_on_copies(self, runs: Iterable[tuple[Any, Any]]) -> Outcome:
        """Run graphs one after another on copies, so that nothing is changed.

        Returns:
            The losses, the copies, and the states of the random generators afterwards.
        """
        self.set_variables(self.optimizer)
        copies = cloned(self.tensors())
        with torch.no_grad(), quiet_compilation():
            losses = [graph(*copies, self.variables, *data)[0].reshape(-1) for graph, data in runs]
            return torch.cat(losses), copies, torch_generators(random_states())

    def compare(self, found: Outcome, expected: Outcome, before: Written) -> None:
        """Refuse a graph whose losses, tensors or random numbers differ from the expected ones."""
        loss_tolerance, tolerance = (1e-3, 1e-3) if self.exact else (0.05, 0.1)
        equal = torch.allclose(found[0], expected[0], rtol=loss_tolerance, atol=1e-5,
                               equal_nan=True)
        equal = equal and all_equal(found[2], expected[2])
        kinds = zip(*map(groups_of, (found[1], expected[1], before)), strict=True)
        for number, each in enumerate(kinds):
            # Adam's steps are as large for a gradient that is nothing but rounding
            ignore_sizes = number == 0 and self.groups[0].normalises
            agree = same_tensors_changed if ignore_sizes else partial(
                changes_agree, tolerance=tolerance)
            equal = equal and agree(*each)
        if not equal:
            raise OtherNumbers

    def tensors(self) -> Written:
        """Return all tensors that a graph reads and writes besides the data."""
        return self.weights, self.fixed, [group.state for group in self.groups]

    def set_variables(self, optimizer: Optimizer) -> None:
        """Write the options that may change from step to step to where a graph reads them."""
        for tensors, group, now in zip(self.variables, self.groups, optimizer.param_groups,
                                       strict=True):
            for tensor, number in zip(tensors, group.variables(now), strict=True):
                tensor.fill_(number)

    def supports(self, step: StepRunner, batch: Batch) -> bool:
        """Return whether batch, step and optimizer are still those the graph was built for."""
        if not is_tensor_pair(batch) or self.stale or (
                [(one.shape, one.dtype) for one in batch] != self.shapes):
            return False
        self.why = self.same_step.changed(step) or next(
            (why for same in self.same if (why := same.changed())), None)
        if self.why is None and not all(
                map(updates.Group.unchanged, self.groups, self.optimizer.param_groups)):
            self.why = "options of the optimizer were changed"
        return self.why is None

    def run_graph(self, graph: Callable[..., Any], step: StepRunner, *data: Tensor) -> Any:
        """Run a graph on the tensors of net and optimizer; None where it had to be recompiled."""
        self.set_variables(step.optimizer)
        step.learning_rate = current_lr(step.optimizer)
        try:
            with torch.no_grad(), internals.no_recompilation(RecompilationNeeded):
                return graph(*self.tensors(), self.variables, *data)
        except RecompilationNeeded:
            self.stale, self.why = True, "what forward or the loss reads has changed"
            return None

    def update_metrics(self, counts: list[Mapping[str, Tensor]]) -> None:
        """Add the counts of a graph to the metrics."""
        for metric, more in zip(self.counters.values(), counts, strict=True):
            metric.absorb(more)

    def __call__(self, step: StepRunner, batch: Batch) -> StepOutput:
        """Run the graph, then what is not in it; run the step eagerly where the graph cannot."""
        if step.facts.paired and examination.is_check_due(step.number + 1):
            return step(batch)
        drawn = torch.get_rng_state() if self.reference.draws else None
        found = self.run_graph(self.graph, step, *batch)
        if found is None:
            return step(batch)
        loss, preds, counts, _ = found
        if loss.is_cpu and not math.isfinite(loss.item()):
            if drawn is not None:
                torch.set_rng_state(drawn)
            return step(batch)
        step.number += 1
        if step.per_step_schedule is not None:
            step.per_step_schedule.step()
        self.update_metrics(counts)
        for name, metric in step.metrics_dict.items():
            if name not in self.counters:
                metric.update(preds, batch[1])
        return StepOutput({f"{step.stage}_loss": loss}, {"lr": step.learning_rate})


def check_state(optimizer: Optimizer, learning: set[int]) -> None:
    """Refuse weights that got a gradient in other steps than this one, by the optimizer's state."""
    kind = UPDATES[type(optimizer)]
    for group in optimizer.param_groups:
        for weight in group["params"]:
            has_state = updates.has_state(optimizer, weight)
            if has_state != (id(weight) in learning) and (has_state or kind.keeps_state(group)):
                raise Unfit("weights that get a gradient in some steps only")


def counts_in_graph(metric: object) -> bool:
    """Return whether the counts of a metric for a batch can be computed in a graph."""
    return isinstance(metric, Metric) and bool(metric.sums) and not metric.lists and all(
        getattr(type(metric), name) is getattr(Metric, name)
        for name in ("update", "counted", "absorb"))


def clipped(gradients: Tensors, limit: float) -> Tensors:
    """Return gradients scaled to a norm of at most ``limit``, as clip_grad_norm_ does."""
    norm = torch.linalg.vector_norm(torch.stack([one.norm() for one in gradients.values()]))
    scale = (limit / (norm + 1e-6)).clamp(max=1.0)
    return {name: one * scale for name, one in gradients.items()}
