"""The updates of torch's optimizers, as functions that can be part of a compiled graph."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from torchkeras.core import internals
from torchkeras.core.optimizers import is_torchs


class Group:
    """The parameters of one optimizer group, in the optimizer's order, and their state tensors.

    Args:
        group: one of the optimizer's ``param_groups``.
        optimizer: the optimizer, which has made a step.
        names: the names of the parameters that get a gradient, by id; others are skipped.
        lists: how many lists of state tensors it keeps.
    """

    variable: tuple[str, ...] = ("lr", "initial_lr", "max_lr", "min_lr")  # by a schedule
    normalises = False  # whether the size of a step is independent of the gradient's

    def __init__(self, group: dict[str, Any], optimizer: Optimizer, names: dict[int, str],
                 lists: int) -> None:
        learning = [weight for weight in group["params"] if id(weight) in names]
        for weight in learning:
            weight.grad = torch.zeros_like(weight)  # an optimizer collects what has a gradient
        found = internals.collect_group(optimizer, group, lists)
        for weight in learning:
            weight.grad = None
        self.names, self.state = [names[id(weight)] for weight in found[0]], found[2:]
        self.options = {name: value for name, value in group.items() if name != "params"}
        self.constants = self.constant_options(group)

    @classmethod
    def keeps_state(cls, group: dict[str, Any]) -> bool:
        """Return whether the optimizer keeps state for each weight that had a gradient."""
        return True

    @classmethod
    def constant_options(cls, group: dict[str, Any]) -> list[tuple[str, Any]]:
        """Return the options that are compiled into the graph, with their values."""
        return [(name, value) for name, value in group.items()
                if name != "params" and name not in cls.variable]

    def unchanged(self, group: dict[str, Any]) -> bool:
        """Return whether the options that were compiled into the graph have the same values."""
        return all(group.get(name) == value for name, value in self.constants)

    def variables(self, options: dict[str, Any]) -> list[float]:
        """Return the options that may change from step to step; the graph gets them as inputs."""
        raise NotImplementedError

    def update(self, weights: list[Tensor], gradients: list[Tensor], state: list[Any],
               *variables: Tensor) -> None:
        """Write the update into the weights and the state."""
        raise NotImplementedError


class AdamGroup(Group):
    """Adam and AdamW."""

    variable = (*Group.variable, "betas")  # OneCycleLR moves them too
    normalises = True

    def __init__(self, group: dict[str, Any], optimizer: Optimizer, names: dict[int, str]) -> None:
        super().__init__(group, optimizer, names, lists=4)

    def variables(self, options: dict[str, Any]) -> list[float]:
        """Return the learning rate and the betas."""
        return [options["lr"], *options["betas"]]

    def update(self, weights: list[Tensor], gradients: list[Tensor], state: list[Any],
               *variables: Tensor) -> None:
        """Call the function behind torch's optimizer."""
        options, update = self.options, cast(Any, adam)
        update(
            weights, gradients, *state, foreach=False, capturable=False, differentiable=False,
            fused=False, has_complex=False, amsgrad=options["amsgrad"], lr=variables[0],
            beta1=variables[1], beta2=variables[2], weight_decay=options["weight_decay"],
            eps=options["eps"], maximize=options["maximize"],
            decoupled_weight_decay=options["decoupled_weight_decay"])


class SGDGroup(Group):
    """SGD, with or without momentum."""

    def __init__(self, group: dict[str, Any], optimizer: Optimizer, names: dict[int, str]) -> None:
        super().__init__(group, optimizer, names, lists=1)

    @classmethod
    def keeps_state(cls, group: dict[str, Any]) -> bool:
        """Return whether there is momentum."""
        return bool(group["momentum"] != 0)

    def variables(self, options: dict[str, Any]) -> list[float]:
        """Return the learning rate; another momentum would need another graph."""
        return [options["lr"]]

    def update(self, weights: list[Tensor], gradients: list[Tensor], state: list[Any],
               *variables: Tensor) -> None:
        """Call the function behind torch's optimizer."""
        options, update = self.options, cast(Any, sgd)
        update(
            weights, gradients, *state, foreach=True, fused=False, lr=variables[0],
            weight_decay=options["weight_decay"], momentum=options["momentum"],
            dampening=options["dampening"], nesterov=options["nesterov"],
            maximize=options["maximize"], has_sparse_grad=False)


def unwrapped(optimizer: Any) -> Any:
    """Return the optimizer in accelerate's wrapper, which mixed precision needs; others as is."""
    from accelerate.optimizer import AcceleratedOptimizer

    return optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer


UPDATES: dict[type, Any] = {Adam: AdamGroup, AdamW: AdamGroup, SGD: SGDGroup}


def constant_options(optimizer: Optimizer) -> list[list[tuple[str, Any]]]:
    """Return the options that would be compiled into a graph, by group; none without a graph."""
    kind = UPDATES.get(type(unwrapped(optimizer)))
    if kind is None:
        return []
    return [kind.constant_options(group) for group in optimizer.param_groups]


def has_state(optimizer: Optimizer, weight: Tensor) -> bool:
    """Return whether an optimizer has state for a weight: it has after a step with a gradient."""
    return any(value is not None for value in optimizer.state.get(weight, {}).values())


def has_torchs_step(optimizer: Optimizer) -> bool:
    """Return whether ``step`` and ``zero_grad`` are torch's own, wrapped by a schedule or not."""
    own = vars(optimizer)
    function: Any = own.get("step", type(optimizer).step)
    while function is not None:  # a wrapper has the name of what it wraps, but its own globals
        if not is_torchs(function):
            return False
        function = getattr(function, "__wrapped__", None)
    return "zero_grad" not in own
