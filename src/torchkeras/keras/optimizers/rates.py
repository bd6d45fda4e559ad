"""Optimizers with a rate for each weight, as Keras computes them.

In all of them Keras adds epsilon under the root, where torch adds it to the root.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from torchkeras.keras.optimizers.base import (
    KerasOptimizer,
    Options,
    State,
    average,
    average_squares,
    zeros,
)


class RMSprop(KerasOptimizer):
    """Train as Keras's RMSprop does: the gradient over the root of its mean square.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        rho: how long the mean square remembers.
        momentum: how long steps are remembered.
        epsilon: what keeps small denominators from zero.
        centered: divide by the root of the variance.
        weight_decay: how much weights decay; None for not at all.

    Raises:
        ValueError: the rate is negative, or there is no parameter.

    Example:
        >>> RMSprop(torch.nn.Linear(2, 1).parameters()).param_groups[0]["rho"]
        0.9
    """

    def __init__(self, params: Iterable[Any], lr: float | Tensor = 0.001, rho: float = 0.9,
                 momentum: float = 0.0, epsilon: float = 1e-7, centered: bool = False,
                 weight_decay: float | None = None) -> None:
        super().__init__(params, lr, weight_decay, rho=rho, momentum=momentum, epsilon=epsilon,
                         centered=centered)

    def start(self, weight: Tensor, group: Options) -> State:
        """Return averages of zero."""
        names = ["velocity", *["momentum"][:group["momentum"] > 0], *["mean"][:group["centered"]]]
        return {name: zeros(weight) for name in names}

    def move(self, weight: Tensor, gradient: Tensor, rate: float, step: int, state: State,
             group: Options) -> None:
        """Divide the gradient by the root of its mean square."""
        square = average_squares(state["velocity"], gradient, group["rho"])
        if group["centered"]:
            mean = average(state["mean"], gradient, group["rho"])
            square = square - mean * mean
        root = (square + group["epsilon"]).sqrt_()
        if group["momentum"] > 0:
            weight.sub_(state["momentum"].mul_(group["momentum"]).addcdiv_(
                gradient, root, value=rate))
        else:
            weight.addcdiv_(gradient, root, value=-rate)


class Adagrad(KerasOptimizer):
    """Train as Keras's Adagrad does: the gradient over the root of the sum of its squares.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        initial_accumulator_value: what the sums begin with.
        epsilon: what keeps small denominators from zero.
        weight_decay: how much weights decay; None for not at all.

    Raises:
        ValueError: the rate is negative, or there is no parameter.

    Example:
        >>> Adagrad(torch.nn.Linear(2, 1).parameters()).param_groups[0]["lr"]
        0.001
    """

    def __init__(self, params: Iterable[Any], lr: float | Tensor = 0.001,
                 initial_accumulator_value: float = 0.1, epsilon: float = 1e-7,
                 weight_decay: float | None = None) -> None:
        super().__init__(params, lr, weight_decay, epsilon=epsilon,
                         initial_accumulator_value=initial_accumulator_value)

    def start(self, weight: Tensor, group: Options) -> State:
        """Return sums of the initial value."""
        return {"accumulator": torch.full_like(weight, group["initial_accumulator_value"])}

    def move(self, weight: Tensor, gradient: Tensor, rate: float, step: int, state: State,
             group: Options) -> None:
        """Divide the gradient by the root of the sum of squares."""
        total = state["accumulator"].addcmul_(gradient, gradient)
        weight.addcdiv_(gradient, (total + group["epsilon"]).sqrt_(), value=-rate)


class Adadelta(KerasOptimizer):
    """Train as Keras's Adadelta does: steps of the size that earlier steps had.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate; the method's authors have 1.
        rho: how long the averages remember.
        epsilon: what keeps small denominators from zero.
        weight_decay: how much weights decay; None for not at all.

    Raises:
        ValueError: the rate is negative, or there is no parameter.

    Example:
        >>> Adadelta(torch.nn.Linear(2, 1).parameters()).param_groups[0]["rho"]
        0.95
    """

    def __init__(self, params: Iterable[Any], lr: float | Tensor = 0.001, rho: float = 0.95,
                 epsilon: float = 1e-7, weight_decay: float | None = None) -> None:
        super().__init__(params, lr, weight_decay, rho=rho, epsilon=epsilon)

    def start(self, weight: Tensor, group: Options) -> State:
        """Return averages of zero."""
        return {"velocity": zeros(weight), "moved": zeros(weight)}

    def move(self, weight: Tensor, gradient: Tensor, rate: float, step: int, state: State,
             group: Options) -> None:
        """Scale the gradient by the mean square of steps over its own."""
        epsilon, moved = group["epsilon"], state["moved"]
        square = average_squares(state["velocity"], gradient, group["rho"])
        change = (moved + epsilon).sqrt_().mul_(gradient).div_((square + epsilon).sqrt_())
        average_squares(moved, change, group["rho"])
        weight.sub_(change, alpha=rate)


class Adafactor(KerasOptimizer):
    """Train as Keras's Adafactor does: mean squares of rows and columns only, so little memory.

    Shazeer and Stern, "Adafactor: adaptive learning rates with sublinear memory cost", 2018. Keras
    factors the dimensions of inputs and outputs, which come first in torch, also in convolutions.

    Args:
        params: parameters, or groups of them.
        lr: the largest rate relative to the size of a weight; it falls with the steps' root.
        beta_2_decay: how fast the averages learn to remember.
        epsilon_1: added to squares.
        epsilon_2: the least size of a weight that steps are relative to.
        clip_threshold: the largest root mean square of a step before the rate.
        weight_decay: how much weights decay; None for not at all.

    Raises:
        ValueError: the rate is negative, or there is no parameter.

    Example:
        >>> Adafactor(torch.nn.Linear(2, 1).parameters()).param_groups[0]["lr"]
        0.001
    """

    def __init__(self, params: Iterable[Any], lr: float | Tensor = 0.001,
                 beta_2_decay: float = -0.8, epsilon_1: float = 1e-30, epsilon_2: float = 1e-3,
                 clip_threshold: float = 1.0,
                 weight_decay: float | None = None) -> None:
        super().__init__(params, lr, weight_decay, beta_2_decay=beta_2_decay, epsilon_1=epsilon_1,
                         epsilon_2=epsilon_2, clip_threshold=clip_threshold)

    def start(self, weight: Tensor, group: Options) -> State:
        """Return averages of zero: of rows and columns, or of each weight of a vector."""
        if weight.dim() < 2:
            return {"velocity": zeros(weight)}
        return {"rows": zeros(weight.detach().mean(1)), "columns": zeros(weight.detach().mean(0))}

    def move(self, weight: Tensor, gradient: Tensor, rate: float, step: int, state: State,
             group: Options) -> None:
        """Divide the gradient by its root mean square, and scale it by the size of the weight."""
        rate = min(rate, 1 / step ** 0.5)
        beta, square = 1 - step ** group["beta_2_decay"], gradient.square() + group["epsilon_1"]
        if weight.dim() < 2:
            mean = average(state["velocity"], square, beta)
        else:
            rows = average(state["rows"], square.mean(1), beta)
            columns = average(state["columns"], square.mean(0), beta)
            mean = (rows / rows.mean(0, keepdim=True)).unsqueeze(1) * columns.unsqueeze(0)
        change = gradient / mean.sqrt()
        change /= (root_mean_square(change) / group["clip_threshold"]).clamp(min=1.0)
        size = root_mean_square(weight).clamp(min=group["epsilon_2"])
        weight.sub_(change * size, alpha=rate)


class Ftrl(KerasOptimizer):
    """Train as Keras's Ftrl does: follow the regularized leader, which keeps weights at zero.

    McMahan et al., "Ad click prediction: a view from the trenches", 2013.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        learning_rate_power: how the rate falls with the sum of squares; at most 0.
        initial_accumulator_value: what the sums of squares begin with.
        l1_regularization_strength: of the penalty that keeps weights at zero.
        l2_regularization_strength: of the penalty on their squares.
        l2_shrinkage_regularization_strength: of a penalty on squares that joins the gradient.
        beta: of the method's authors.
        weight_decay: how much weights decay; None for not at all.

    Raises:
        ValueError: the rate is negative, or there is no parameter.

    Example:
        >>> Ftrl(torch.nn.Linear(2, 1).parameters()).param_groups[0]["lr"]
        0.001
    """

    def __init__(self, params: Iterable[Any], lr: float | Tensor = 0.001,
                 learning_rate_power: float = -0.5, initial_accumulator_value: float = 0.1,
                 l1_regularization_strength: float = 0.0, l2_regularization_strength: float = 0.0,
                 l2_shrinkage_regularization_strength: float = 0.0, beta: float = 0.0,
                 weight_decay: float | None = None) -> None:
        super().__init__(
            params, lr, weight_decay, learning_rate_power=learning_rate_power, beta=beta,
            initial_accumulator_value=initial_accumulator_value,
            l1_regularization_strength=l1_regularization_strength,
            l2_regularization_strength=l2_regularization_strength,
            l2_shrinkage_regularization_strength=l2_shrinkage_regularization_strength)

    def start(self, weight: Tensor, group: Options) -> State:
        """Return sums of the initial value, and sums of zero."""
        return {"accumulator": torch.full_like(weight, group["initial_accumulator_value"]),
                "linear": zeros(weight)}

    def move(self, weight: Tensor, gradient: Tensor, rate: float, step: int, state: State,
             group: Options) -> None:
        """Set a weight to the best one for all gradients so far."""
        power, total, linear = -group["learning_rate_power"], state["accumulator"], state["linear"]
        grown = total + gradient * gradient
        shrinkage = 2 * group["l2_shrinkage_regularization_strength"]
        linear += gradient + shrinkage * weight - (grown ** power - total ** power) / rate * weight
        total.copy_(grown)
        ridge = group["l2_regularization_strength"] + group["beta"] / (2 * rate)
        bound = group["l1_regularization_strength"]
        weight.copy_((linear.clamp(-bound, bound) - linear) / (grown ** power / rate + 2 * ridge))


def root_mean_square(values: Tensor) -> Tensor:
    """Return the root of the mean of squares."""
    return values.square().mean().sqrt()
