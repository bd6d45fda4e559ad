"""The base of the optimizers: it goes through the weights; subclasses move one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from torchkeras.core.errors import bad_type, bad_value

State = dict[str, Any]  # what is kept for a weight
Options = dict[str, Any]  # those of a parameter group


class KerasOptimizer(Optimizer):
    """Moves each weight by its subclass's ``move``; before it, weights decay as Keras's do.

    A decay is decoupled from the gradient: weight x rate x decay is subtracted.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        weight_decay: how much weights decay; None for not at all.
        **options: further options of each group.

    Raises:
        ValueError: the rate is negative, or there is no parameter.
    """

    def __init__(self, params: Iterable[Any], lr: float | Tensor = 0.001,
                 weight_decay: float | None = None, **options: float | int | bool | None) -> None:
        for name, value in {"lr": lr, "weight_decay": weight_decay or 0.0}.items():
            if not float(value) >= 0:
                raise bad_value(name, received=value, expected="a number of at least 0")
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **options})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters; complex ones are refused, as Keras has none."""
        super().add_param_group(param_group)
        for weight in self.param_groups[-1]["params"]:
            if weight.is_complex():
                raise bad_type("params", received=f"a parameter of {weight.dtype}",
                               expected="real ones", fix="torch.optim.Adam takes complex ones.")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move all weights that have a gradient once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self.move_weight(weight, group)
        return loss

    def move_weight(self, weight: Tensor, group: Options) -> None:
        """Let a weight decay, and move it."""
        state, decay, rate = self.state[weight], self.decay_of(weight, group), float(group["lr"])
        gradient: Any = weight.grad
        if gradient.layout != torch.strided:
            gradient = gradient.to_dense()
        if not state:
            state["step"] = torch.tensor(0.0)
            state.update(self.start(weight, group))
        state["step"] += 1
        if decay:
            weight.mul_(1 - rate * decay)
        self.move(weight, gradient, rate, int(state["step"]), state, group)

    def decay_of(self, weight: Tensor, group: Options) -> float:
        """Return how much a weight decays."""
        return group["weight_decay"] or 0.0

    def start(self, weight: Tensor, group: Options) -> State:
        """Return what is kept for a weight before its first step."""
        raise NotImplementedError

    def move(self, weight: Tensor, gradient: Tensor, rate: float, step: int, state: State,
             group: Options) -> None:
        """Move a weight; ``step`` counts from 1."""
        raise NotImplementedError


def zeros(weight: Tensor) -> Tensor:
    """Return zeros of the form of a weight."""
    return torch.zeros_like(weight, memory_format=torch.preserve_format)


def average(kept: Tensor, new: Tensor, beta: float) -> Tensor:
    """Move an exponential average in place: beta x kept + (1 - beta) x new."""
    return kept.lerp_(new, 1 - beta)


def average_squares(kept: Tensor, gradient: Tensor, beta: float) -> Tensor:
    """Move an exponential average of squares in place."""
    return kept.mul_(beta).addcmul_(gradient, gradient, value=1 - beta)
