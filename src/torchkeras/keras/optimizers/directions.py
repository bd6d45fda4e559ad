"""Optimizers whose steps keep the direction of the gradient only, as Keras computes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor

from torchkeras.keras.optimizers.adam import TwoMoments
from torchkeras.keras.optimizers.base import (
    KerasOptimizer,
    Options,
    State,
    average,
    average_squares,
    zeros,
)

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of Muon's authors, for five iterations


class Lion(KerasOptimizer):
    """Train as Keras's Lion does: by the sign of an average gradient.

    Chen et al., "Symbolic discovery of optimization algorithms", 2023.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate; a third to a tenth of Adam's.
        beta_1: the share of the average in a step.
        beta_2: how long the average remembers.
        weight_decay: how much weights decay; None for not at all.

    Raises:
        ValueError: the rate is negative, or there is no parameter.

    Example:
        >>> Lion(torch.nn.Linear(2, 1).parameters()).param_groups[0]["beta_2"]
        0.99
    """

    def __init__(self, params: Iterable[Any], lr: float | Tensor = 0.001, beta_1: float = 0.9,
                 beta_2: float = 0.99, weight_decay: float | None = None) -> None:
        super().__init__(params, lr, weight_decay, beta_1=beta_1, beta_2=beta_2)

    def start(self, weight: Tensor, group: Options) -> State:
        """Return an average of zero."""
        return {"momentum": zeros(weight)}

    def move(self, weight: Tensor, gradient: Tensor, rate: float, step: int, state: State,
             group: Options) -> None:
        """Move each weight by the rate, up or down."""
        momentum = state["momentum"]
        weight.sub_(momentum.lerp(gradient, 1 - group["beta_1"]).sign_(), alpha=rate)
        average(momentum, gradient, group["beta_2"])


class Lamb(TwoMoments):
    """Train as Keras's Lamb does: Adam's steps, as long as the weights of a layer.

    You et al., "Large batch optimization for deep learning: training BERT in 76 minutes", 2020.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        beta_1: how long the average of gradients remembers.
        beta_2: how long that of their squares does.
        epsilon: what keeps small denominators from zero.
        weight_decay: how much weights decay; None for not at all.

    Raises:
        ValueError: the rate is negative, or there is no parameter.

    Example:
        >>> Lamb(torch.nn.Linear(2, 1).parameters()).param_groups[0]["lr"]
        0.001
    """

    def move(self, weight: Tensor, gradient: Tensor, rate: float, step: int, state: State,
             group: Options) -> None:
        """Give Adam's step the length of the weight."""
        momentum = average(state["momentum"], gradient, group["beta_1"])
        velocity = average_squares(state["velocity"], gradient, group["beta_2"])
        root = (velocity / (1 - group["beta_2"] ** step)).sqrt_().add_(group["epsilon"])
        change = momentum / (1 - group["beta_1"] ** step) / root
        length, own = weight.norm(), change.norm()
        ratio = torch.where((length > 0) & (own > 0), length / own, torch.ones_like(own))
        weight.sub_(change * ratio, alpha=rate)


class Muon(KerasOptimizer):
    """Train as Keras's Muon does: matrices by an orthogonal step, all others by AdamW.

    Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024. As in Keras, but
    not in torch's Muon, it is computed in the weights' own precision, and takes every parameter.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        adam_beta_1: how long AdamW's average of gradients remembers.
        adam_beta_2: how long that of their squares does.
        adam_weight_decay: how much weights decay that AdamW moves; None for not at all.
        epsilon: what keeps AdamW's small denominators from zero.
        weight_decay: how much matrices decay; None for not at all.
        adam_lr_ratio: AdamW's rate, as a share of ``lr``.
        momentum: how long gradients of matrices are remembered.
        ns_steps: iterations that make a step orthogonal.
        nesterov: look ahead by the momentum.
        rms_rate: the root mean square of a step of a matrix before the rate; None for no scaling.
        for_adam: matrices that AdamW moves all the same: tables of embeddings.

    Raises:
        ValueError: the rate is negative, or there is no parameter.

    Example:
        >>> Muon(torch.nn.Linear(2, 1).parameters()).param_groups[0]["momentum"]
        0.95
    """

    def __init__(self, params: Iterable[Any], lr: float | Tensor = 0.001, adam_beta_1: float = 0.9,
                 adam_beta_2: float = 0.999, adam_weight_decay: float | None = 0.004,
                 epsilon: float = 1e-7, weight_decay: float | None = 0.004,
                 adam_lr_ratio: float = 1, momentum: float = 0.95, ns_steps: int = 5,
                 nesterov: bool = True, rms_rate: float | None = 0.2,
                 for_adam: Collection[Tensor] = ()) -> None:
        given = list(params)
        groups = given if given and isinstance(given[0], dict) else [{"params": given}]
        split = [part for group in groups for part in by_kind(group, {id(one) for one in for_adam})]
        super().__init__(
            split, lr, weight_decay, beta_1=adam_beta_1, beta_2=adam_beta_2,
            adam_weight_decay=adam_weight_decay, epsilon=epsilon, adam_lr_ratio=adam_lr_ratio,
            momentum=momentum, ns_steps=ns_steps, nesterov=nesterov, rms_rate=rms_rate,
            by_adam=False)

    def decay_of(self, weight: Tensor, group: Options) -> float:
        """Return how much a weight decays, by how it is moved."""
        return group["adam_weight_decay" if group["by_adam"] else "weight_decay"] or 0.0

    def start(self, weight: Tensor, group: Options) -> State:
        """Return averages of zero."""
        names = ("momentum", "velocity") if group["by_adam"] else ("momentum",)
        return {name: zeros(weight) for name in names}

    def move(self, weight: Tensor, gradient: Tensor, rate: float, step: int, state: State,
             group: Options) -> None:
        """Move a matrix by an orthogonal step, any other weight by Adam's."""
        if group["by_adam"]:
            self.move_as_adam(weight, gradient, rate * group["adam_lr_ratio"], step, state, group)
            return
        momentum = state["momentum"].mul_(group["momentum"]).add_(gradient)
        ahead = gradient + group["momentum"] * momentum if group["nesterov"] else momentum
        size = group["rms_rate"]
        length = 1.0 if size is None else size * max(weight.shape) ** 0.5
        weight.sub_(orthogonal(ahead, group["ns_steps"]), alpha=rate * length)

    def move_as_adam(self, weight: Tensor, gradient: Tensor, rate: float, step: int, state: State,
                     group: Options) -> None:
        """Move a weight by Adam's step."""
        momentum = average(state["momentum"], gradient, group["beta_1"])
        velocity = average_squares(state["velocity"], gradient, group["beta_2"])
        scale = (1 - group["beta_2"] ** step) ** 0.5 / (1 - group["beta_1"] ** step)
        weight.addcdiv_(momentum, velocity.sqrt().add_(group["epsilon"]), value=-rate * scale)


def by_kind(group: Options, excluded: Collection[int]) -> list[Options]:
    """Split a group of parameters into matrices and all others; empty ones are left out."""
    given = group["params"]
    weights = [given] if isinstance(given, Tensor) else list(given)
    by_adam = [one.dim() != 2 or id(one) in excluded for one in weights]
    parts = {kind: [one for one, own in zip(weights, by_adam, strict=True) if own is kind]
             for kind in (False, True)}
    return [{**group, "params": part, "by_adam": kind} for kind, part in parts.items() if part]


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Move the singular values of a matrix towards 1, by Newton and Schulz's iteration."""
    wide = matrix.shape[0] <= matrix.shape[1]
    found: Tensor = matrix if wide else matrix.T
    found = found / (found.norm() + 1e-7)
    first, second, third = COEFFICIENTS
    for _ in range(steps):
        square = found @ found.T
        found = first * found + (second * square + third * square @ square) @ found
    return found if wide else found.T
