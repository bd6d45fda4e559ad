"""Adam and its kin, as Keras computes them.

Kingma and Ba, "Adam: a method for stochastic optimization", 2015. Keras adds epsilon to the root of
the uncorrected second moment ("epsilon hat" of that paper's section 2), torch to the corrected one.
"""

from __future__ import annotations

import math
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

DECAY = 0.96  # of Nadam's schedule


class AdamW(torch.optim.AdamW):
    """Train as Keras's AdamW does: Adam with decoupled weight decay.

    torch's implementation, with the epsilon that gives Keras's numbers in every step.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        weight_decay: how much weights decay.
        beta_1: how long the average of gradients remembers.
        beta_2: how long that of their squares does.
        epsilon: what keeps small denominators from zero.
        amsgrad: divide by the largest average of squares so far.

    Raises:
        ValueError: an argument is out of range, or there is no parameter.

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> AdamW(net.parameters()).param_groups[0]["weight_decay"]
        0.004
    """

    def __init__(self, params: Iterable[Any], lr: float | Tensor = 0.001,
                 weight_decay: float = 0.004, beta_1: float = 0.9, beta_2: float = 0.999,
                 epsilon: float = 1e-7, amsgrad: bool = False) -> None:
        super().__init__(params, lr, (beta_1, beta_2), epsilon, weight_decay or 0.0, amsgrad)
        for group in self.param_groups:
            group.setdefault("epsilon", epsilon)
            group.setdefault("iterations", 0)
        self.defaults |= {"epsilon": epsilon, "iterations": 0}

    def _init_group(self, group: Options, *lists: Any) -> Any:
        # torch's step reads the group's eps after this call, see _init_group in torch.optim.adam
        group["iterations"] += 1
        correction = 1 - float(group["betas"][1]) ** group["iterations"]
        group["eps"] = group["epsilon"] / math.sqrt(correction)
        collect: Any = super()._init_group
        return collect(group, *lists)


class Adam(AdamW):
    """Train as Keras's Adam does; ``weight_decay`` is decoupled, as in AdamW.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        beta_1: how long the average of gradients remembers.
        beta_2: how long that of their squares does.
        epsilon: what keeps small denominators from zero.
        amsgrad: divide by the largest average of squares so far.
        weight_decay: how much weights decay; None for not at all.

    Raises:
        ValueError: an argument is out of range, or there is no parameter.

    Example:
        >>> net = torch.nn.Linear(2, 1)
        >>> Adam(net.parameters()).param_groups[0]["epsilon"]
        1e-07
    """

    def __init__(self, params: Iterable[Any], lr: float | Tensor = 0.001, beta_1: float = 0.9,
                 beta_2: float = 0.999, epsilon: float = 1e-7, amsgrad: bool = False,
                 weight_decay: float | None = None) -> None:
        super().__init__(params, lr, weight_decay or 0.0, beta_1, beta_2, epsilon, amsgrad)


class TwoMoments(KerasOptimizer):
    """The base of optimizers that average gradients and their squares."""

    def __init__(self, params: Iterable[Any], lr: float | Tensor = 0.001, beta_1: float = 0.9,
                 beta_2: float = 0.999, epsilon: float = 1e-7,
                 weight_decay: float | None = None) -> None:
        super().__init__(params, lr, weight_decay, beta_1=beta_1, beta_2=beta_2, epsilon=epsilon)

    def start(self, weight: Tensor, group: Options) -> State:
        """Return two averages of zero."""
        return {"momentum": zeros(weight), "velocity": zeros(weight)}


class Adamax(TwoMoments):
    """Train as Keras's Adamax does: Adam with the largest gradient in place of the mean square.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        beta_1: how long the average of gradients remembers.
        beta_2: how fast the largest gradient is forgotten.
        epsilon: what keeps small denominators from zero.
        weight_decay: how much weights decay; None for not at all.

    Raises:
        ValueError: the rate is negative, or there is no parameter.

    Example:
        >>> Adamax(torch.nn.Linear(2, 1).parameters()).param_groups[0]["lr"]
        0.001
    """

    def move(self, weight: Tensor, gradient: Tensor, rate: float, step: int, state: State,
             group: Options) -> None:
        """Divide the average gradient by the largest one."""
        momentum = average(state["momentum"], gradient, group["beta_1"])
        largest = state["velocity"].mul_(group["beta_2"])
        torch.maximum(largest, gradient.abs(), out=largest)
        correction = 1 - group["beta_1"] ** step
        weight.addcdiv_(momentum, largest + group["epsilon"], value=-rate / correction)


class Nadam(TwoMoments):
    """Train as Keras's Nadam does: Adam with Nesterov's momentum, whose share grows by a schedule.

    Dozat, "Incorporating Nesterov momentum into Adam", 2016; torch's NAdam has a slower schedule
    and another rate.

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
        >>> Nadam(torch.nn.Linear(2, 1).parameters()).param_groups[0]["lr"]
        0.001
    """

    def start(self, weight: Tensor, group: Options) -> State:
        """Return two averages of zero, and the product of the schedule so far."""
        return super().start(weight, group) | {"product": 1.0}

    def move(self, weight: Tensor, gradient: Tensor, rate: float, step: int, state: State,
             group: Options) -> None:
        """Mix the average gradient and the newest one by the schedule."""
        now, then = (group["beta_1"] * (1 - 0.5 * DECAY ** one) for one in (step, step + 1))
        state["product"] *= now
        product = state["product"]
        momentum = average(state["momentum"], gradient, group["beta_1"])
        velocity = average_squares(state["velocity"], gradient, group["beta_2"])
        mixed = momentum * (then / (1 - product * then)) + gradient * ((1 - now) / (1 - product))
        root = (velocity / (1 - group["beta_2"] ** step)).sqrt_().add_(group["epsilon"])
        weight.addcdiv_(mixed, root, value=-rate)


class ScheduleFreeAdamW(TwoMoments):
    """Train as Keras's ScheduleFreeAdamW does: averages of weights in place of a falling rate.

    Defazio et al., "The road less scheduled", 2024. As in Keras, the net holds the weights at which
    gradients are taken.

    Args:
        params: parameters, or groups of them.
        lr: the learning rate.
        beta_1: how far the weights lie on the side of their average.
        beta_2: how long the average of squares remembers.
        epsilon: what keeps small denominators from zero.
        warmup_steps: steps in which the rate rises to ``lr``.
        weight_decay: how much weights decay; None for not at all.

    Raises:
        ValueError: the rate is negative, or there is no parameter.

    Example:
        >>> ScheduleFreeAdamW(torch.nn.Linear(2, 1).parameters()).param_groups[0]["lr"]
        0.0025
    """

    def __init__(self, params: Iterable[Any], lr: float | Tensor = 0.0025, beta_1: float = 0.9,
                 beta_2: float = 0.999, epsilon: float = 1e-8, warmup_steps: int = 0,
                 weight_decay: float | None = None) -> None:
        super().__init__(params, lr, beta_1, beta_2, epsilon, weight_decay)
        for group in self.param_groups:
            group.setdefault("warmup_steps", warmup_steps)
        self.defaults["warmup_steps"] = warmup_steps

    def start(self, weight: Tensor, group: Options) -> State:
        """Return the weights that move by the gradient, and an average of zero."""
        return {"base": weight.detach().clone(), "velocity": zeros(weight)}

    def move(self, weight: Tensor, gradient: Tensor, rate: float, step: int, state: State,
             group: Options) -> None:
        """Move the base by the gradient, its average after it, and the weight between both."""
        beta, warmup, base = group["beta_1"], group["warmup_steps"], state["base"]
        mean = (weight - (1 - beta) * base) / beta
        velocity = average_squares(state["velocity"], gradient, group["beta_2"])
        root = (velocity / (1 - group["beta_2"] ** step)).sqrt_().add_(group["epsilon"])
        base.addcdiv_(gradient, root, value=-rate * min(step / warmup, 1.0) if warmup else -rate)
        mean.lerp_(base, 1 / step)
        weight.copy_(base.lerp(mean, beta))
