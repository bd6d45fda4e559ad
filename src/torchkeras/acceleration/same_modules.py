"""Check that net, loss and optimizer are still made of the objects that a graph was compiled for.

The compiler itself guards what Python code reads: attributes, globals, modes, shapes. It does not
notice added hooks, nor that the tensors which it was given are no longer those of the net.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import is_
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from torchkeras.core import internals
from torchkeras.engine.step import StepRunner

OWN: tuple[Any, ...] = internals.parameters, internals.buffers, internals.children


def modules_of(step: StepRunner) -> list[nn.Module]:
    """Return all modules of net and loss."""
    return [part for one in (step.net, step.loss_fn) if isinstance(one, nn.Module)
            for part in one.modules()]


class SameStep:
    """The class of a step, and the parts that a callback can put others in the place of.

    Args:
        step: the step as it was when its code was compiled.
    """

    def __init__(self, step: StepRunner) -> None:
        self.parts = self.parts_of(step)

    @staticmethod
    def parts_of(step: StepRunner) -> list[object]:
        """Return what a compiled step has in it."""
        return [type(step), step.net, step.loss_fn, step.config, step.optimizer,
                *step.metrics_dict.values()]

    def changed(self, step: StepRunner) -> str | None:
        """Return what has changed, in words; None where nothing has."""
        if same(self.parts_of(step), self.parts):
            return None
        return "the StepRunner, net, loss or metrics were replaced"


class SameModules:
    """The modules, weights, buffers and hooks of net and loss.

    Args:
        step: the step whose net and loss are meant.
    """

    def __init__(self, step: StepRunner) -> None:
        parts = modules_of(step)
        self.dicts: list[dict[str, Any]] = [own(part) for part in parts for own in OWN]
        self.objects = list(chain.from_iterable(map(dict.values, self.dicts)))
        self.attributes = [vars(part) for part in parts]
        self.forwards = [own.get("forward") for own in self.attributes]
        self.hooks = internals.module_hooks(parts)
        self.hook_counts = list(map(len, self.hooks))

    def changed(self) -> str | None:
        """Return what has changed, in words; None where nothing has."""
        if not same(list(chain.from_iterable(map(dict.values, self.dicts))), self.objects):
            return "weights, buffers or layers were replaced"
        if list(map(len, self.hooks)) != self.hook_counts:
            return "hooks of a module were added or removed"
        if not all(map(is_, [own.get("forward") for own in self.attributes], self.forwards)):
            return "forward was replaced"
        return None


class SameOptimizer:
    """The weights that an optimizer holds, their state, and its ``step``."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer, self.state = optimizer, optimizer.state
        self.own_step = vars(optimizer).get("step")
        self.hooks = internals.optimizer_hooks(optimizer)
        self.lists = [group["params"] for group in optimizer.param_groups]
        self.weights = list(chain.from_iterable(self.lists))
        self.states = list(self.state.values())
        self.state_values = list(chain.from_iterable(map(dict.values, self.states)))

    def changed(self) -> str | None:
        """Return what has changed, in words; None where nothing has."""
        optimizer = self.optimizer
        lists = [group["params"] for group in optimizer.param_groups]
        weights = list(chain.from_iterable(lists))
        if not same(weights, self.weights) or len(lists) != len(self.lists):
            return "the optimizer was given other weights"
        values = list(chain.from_iterable(map(dict.values, self.states)))
        if not (same(list(optimizer.state.values()), self.states)
                and same(values, self.state_values)):
            return "the optimizer was given another state"
        if any(self.hooks):
            return "hooks of the optimizer were added"
        own = vars(optimizer)
        if own.get("step") is not self.own_step or "zero_grad" in own:
            return "step or zero_grad of the optimizer were replaced"
        return None


class SameTensors:
    """Weights and buffers: their memory, whether they require gradients, and the weights' hooks."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = [(one, one.data_ptr(), one.requires_grad) for one in tensors]
        self.weights = [one for one in tensors if one.requires_grad]

    def changed(self) -> str | None:
        """Return what has changed, in words; None where nothing has."""
        for one, address, requires_grad in self.tensors:
            if one.requires_grad is not requires_grad:
                return "weights were frozen or unfrozen"
            if one.data_ptr() != address:
                return "weights or buffers were given other memory"
        for one in self.weights:
            if one.grad is not None:
                return "a weight has a gradient before the step"
            if internals.has_gradient_hooks(one):
                return "hooks of a weight were added"
        return None


def same(some: Sequence[object], others: Sequence[object]) -> bool:
    """Return whether two lists hold the same objects."""
    return len(some) == len(others) and all(map(is_, some, others))
