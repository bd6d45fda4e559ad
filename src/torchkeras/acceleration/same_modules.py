"""Whether net, loss and optimizer are still made of what a graph was compiled for.

The compiler itself sees to what Python code reads: attributes, globals, modes, shapes. It does not see that hooks were
added or that the tensors which it was given are no longer those of the net.
"""

from __future__ import annotations

from itertools import chain
from operator import is_
from typing import Any

from torch import Tensor, nn

from torchkeras.acceleration import hooks

PARTS = ("_parameters", "_buffers", "_modules")


def modules_of(step: Any) -> list[nn.Module]:
    """Return all modules of net and loss."""
    return [part for one in (step.net, step.loss_fn) if isinstance(one, nn.Module) for part in one.modules()]


class SameModules:
    """The modules, weights, buffers and hooks of net and loss.

    Args:
        step: the step whose net and loss are meant.
    """

    def __init__(self, step: Any) -> None:
        parts = modules_of(step)
        self.spaces = [vars(part)[name] for part in parts for name in PARTS]
        self.things = list(chain.from_iterable(map(dict.values, self.spaces)))
        self.own = [vars(part) for part in parts]
        self.forwards = [own.get("forward") for own in self.own]
        self.hooks = hooks.of_modules(parts)
        self.hung = list(map(len, self.hooks))

    def changed(self) -> str | None:
        """Return what is not as it was, in words; None where all is."""
        things = list(chain.from_iterable(map(dict.values, self.spaces)))
        if len(things) != len(self.things) or not all(map(is_, things, self.things)):
            return "weights, buffers or layers were replaced"
        if list(map(len, self.hooks)) != self.hung:
            return "hooks of a module were added or removed"
        if not all(map(is_, [own.get("forward") for own in self.own], self.forwards)):
            return "forward was replaced"
        return None


class SameOptimizer:
    """The weights that an optimizer holds, what it remembers of them, and how it makes a step."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer, self.state = optimizer, optimizer.state
        self.own_step = vars(optimizer).get("step")
        self.hooks = hooks.of_optimizer(optimizer)
        self.lists = [group["params"] for group in optimizer.param_groups]
        self.weights = list(chain.from_iterable(self.lists))
        self.memories = list(self.state.values())
        self.remembered = list(chain.from_iterable(map(dict.values, self.memories)))

    def changed(self) -> str | None:
        """Return what is not as it was, in words; None where all is."""
        optimizer = self.optimizer
        lists = [group["params"] for group in optimizer.param_groups]
        if not same(list(chain.from_iterable(lists)), self.weights) or len(lists) != len(self.lists):
            return "the optimizer was given other weights"
        if not (same(list(optimizer.state.values()), self.memories)
                and same(list(chain.from_iterable(map(dict.values, self.memories))), self.remembered)):
            return "the optimizer was given another state"
        if any(self.hooks):
            return "hooks of the optimizer were added"
        own = vars(optimizer)
        if own.get("step") is not self.own_step or "zero_grad" in own:
            return "step or zero_grad of the optimizer were replaced"
        return None


class SameTensors:
    """Weights and buffers: where they are in memory, whether they learn, and that nothing else hears of it."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = [(one, one.data_ptr(), one.requires_grad) for one in tensors]
        self.weights = [one for one in tensors if one.requires_grad]

    def changed(self) -> str | None:
        """Return what is not as it was, in words; None where all is."""
        for one, place, learns in self.tensors:
            if one.requires_grad is not learns:
                return "weights were frozen or set free"
            if one.data_ptr() != place:
                return "weights or buffers were given other memory"
        for one in self.weights:
            if one.grad is not None:
                return "a weight has a gradient before the step"
            if hooks.hooked(one):
                return "hooks of a weight were added"
        return None


def same(some: list[Any], others: list[Any]) -> bool:
    """Return whether two lists hold the same objects."""
    return len(some) == len(others) and all(map(is_, some, others))
