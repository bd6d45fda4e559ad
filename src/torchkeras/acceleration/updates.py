"""What torch's optimizers do in a step, as functions that can be part of a compiled graph."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW
from torch.optim.adam import adam
from torch.optim.sgd import sgd


class Group:
    """The parameters of one optimizer group, in the optimizer's order, and the tensors that it remembers.

    Args:
        group: one of the optimizer's ``param_groups``.
        optimizer: the optimizer, which has made a step.
        names: the names of those parameters that get a gradient, by their ids; an optimizer leaves the others alone.
        lists: how many lists of tensors it remembers.
    """

    moves: tuple[str, ...] = ("lr", "initial_lr", "max_lr", "min_lr")
    normalises = False  # whether the size of a step does not depend on that of the gradient

    def __init__(self, group: dict[str, Any], optimizer: Any, names: dict[int, str], lists: int) -> None:
        learning = [weight for weight in group["params"] if id(weight) in names]
        for weight in learning:
            weight.grad = torch.zeros_like(weight)  # an optimizer collects what has a gradient
        found: list[list[Any]] = [[] for _ in range(lists + 2)]
        optimizer._init_group(group, *found)
        for weight in learning:
            weight.grad = None
        self.names, self.state = [names[id(weight)] for weight in found[0]], found[2:]
        self.options = {name: value for name, value in group.items() if name != "params"}
        self.still = self.part_of_graph(group)

    @classmethod
    def has_memory(cls, group: dict[str, Any]) -> bool:
        """Return whether the optimizer remembers something of each weight that had a gradient."""
        return True

    @classmethod
    def part_of_graph(cls, group: dict[str, Any]) -> list[Any]:
        """The options that are."""
        return [(name, value) for name, value in group.items() if name != "params" and name not in cls.moves]

    def unchanged(self, group: dict[str, Any]) -> bool:
        """Whether the options that are part of the graph are as they were."""
        return all(group.get(name) == value for name, value in self.still)

    def moving(self, options: dict[str, Any]) -> list[float]:
        """The options that may change from step to step, and are told to the graph."""
        raise NotImplementedError

    def update(self, weights: list[Tensor], gradients: list[Tensor], state: list[Any], *moving: Tensor) -> None:
        """Write the update into the weights and the state."""
        raise NotImplementedError


class AdamGroup(Group):
    """Adam and AdamW."""

    moves = (*Group.moves, "betas")  # OneCycleLR moves them too
    normalises = True

    def __init__(self, group: dict[str, Any], optimizer: Any, names: dict[int, str]) -> None:
        super().__init__(group, optimizer, names, lists=4)

    def moving(self, options: dict[str, Any]) -> list[float]:
        """Learning rate and betas."""
        return [options["lr"], *options["betas"]]

    def update(self, weights: list[Tensor], gradients: list[Tensor], state: list[Any], *moving: Tensor) -> None:
        """The function behind torch's optimizer."""
        options, update = self.options, cast(Any, adam)
        update(
            weights, gradients, *state, foreach=False, capturable=False, differentiable=False, fused=False,
            has_complex=False, amsgrad=options["amsgrad"], lr=moving[0], beta1=moving[1], beta2=moving[2],
            weight_decay=options["weight_decay"], eps=options["eps"], maximize=options["maximize"],
            decoupled_weight_decay=options["decoupled_weight_decay"])


class SGDGroup(Group):
    """SGD, with or without momentum."""

    def __init__(self, group: dict[str, Any], optimizer: Any, names: dict[int, str]) -> None:
        super().__init__(group, optimizer, names, lists=1)

    @classmethod
    def has_memory(cls, group: dict[str, Any]) -> bool:
        """With momentum it does."""
        return bool(group["momentum"] != 0)

    def moving(self, options: dict[str, Any]) -> list[float]:
        """The learning rate; a momentum that moves would be another graph."""
        return [options["lr"]]

    def update(self, weights: list[Tensor], gradients: list[Tensor], state: list[Any], *moving: Tensor) -> None:
        """The function behind torch's optimizer."""
        options, update = self.options, cast(Any, sgd)
        update(
            weights, gradients, *state, foreach=True, fused=False, weight_decay=options["weight_decay"],
            momentum=options["momentum"], lr=moving[0], dampening=options["dampening"], nesterov=options["nesterov"],
            maximize=options["maximize"], has_sparse_grad=False)


UPDATES: dict[type, Any] = {Adam: AdamGroup, AdamW: AdamGroup, SGD: SGDGroup}


def still(optimizer: Any) -> list[list[Any]]:
    """Return the options of an optimizer that would be part of a graph; none where there is no graph for it."""
    kind = UPDATES.get(type(optimizer))
    return [] if kind is None else [kind.part_of_graph(group) for group in optimizer.param_groups]


def remembers(optimizer: Any, weight: Tensor) -> bool:
    """Return whether an optimizer has a memory of a weight, as it has after the first step with a gradient."""
    return any(value is not None for value in optimizer.state.get(weight, {}).values())


def is_torchs_own(optimizer: Any) -> bool:
    """Return whether ``step`` and ``zero_grad`` are torch's, with or without the mark that its schedules set."""
    own = vars(optimizer)
    function: Any = own.get("step", type(optimizer).step)
    while function is not None:  # what wraps a function has the name of what it wraps, but globals of its own
        if not getattr(function, "__globals__", {}).get("__name__", "").startswith("torch"):
            return False
        function = getattr(function, "__wrapped__", None)
    return "zero_grad" not in own
