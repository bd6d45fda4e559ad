"""Penalties on all weights of a net, to be added to a loss: L1 and L2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.core import internals
from torchkeras.core.errors import bad_type
from torchkeras.core.types import Labels, Preds
from torchkeras.losses.robust import check_number


class Penalty:
    """Something that depends on weights alone; subclass it and write ``value``.

    Called without arguments it returns a scalar with a gradient. It can be added to the value of a
    loss, to another penalty, or to a loss function, which gives a loss function.

    Args:
        model: the net, whose weights are read anew at each call.

    Raises:
        TypeError: ``model`` is not a module.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            raise bad_type("model", received=type(model).__name__, expected="an nn.Module")
        self.model = model

    def value(self) -> Tensor:
        """Return the penalty."""
        raise NotImplementedError

    def __call__(self) -> Tensor:
        """Return the penalty as a scalar with a gradient."""
        # torch.func differentiates copies of the weights, so no gradient would reach this net.
        if internals.is_transformed():
            raise RuntimeError(
                "a penalty on weights was called in a function that torch.func differentiates; "
                "add it up there from the weights that the function is given")
        return self.value()

    def __add__(self, other: object) -> Any:
        if isinstance(other, (Tensor, int, float)):
            return self() + other
        if isinstance(other, Penalty):
            return Penalties(self, other)
        return PenalizedLoss(other, self) if callable(other) else NotImplemented

    __radd__ = __add__


class Penalties(Penalty):
    """Several penalties as one."""

    def __init__(self, *penalties: Penalty) -> None:
        super().__init__(penalties[0].model)
        self.penalties = penalties

    def value(self) -> Tensor:
        """Return their sum."""
        return torch.stack([penalty() for penalty in self.penalties]).sum()


class L1Loss(Penalty):
    """Drive weights that do not matter to zero: beta x the sum of |w| over the weights of a net.

    Biases and frozen weights are left out.

    Args:
        model: the net.
        beta: how much the weights count.

    Raises:
        TypeError: ``model`` is not a module, or ``beta`` is not a number.
        ValueError: ``beta`` is negative.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> _ = nn.init.constant_(net.weight, -3.0)
        >>> round(L1Loss(net, 0.01)().item(), 4)
        0.06
        >>> loss_fn = nn.MSELoss() + L1Loss(net, 0.01)  # for KerasModel(net, loss_fn=loss_fn)
    """

    def __init__(self, model: nn.Module, beta: float) -> None:
        super().__init__(model)
        check_number("beta", beta, "a number of at least 0", most=float("inf"))
        self.beta = beta

    def value(self) -> Tensor:
        """Return beta times the sum of absolute weights."""
        return self.beta * sum_of([weight.abs().sum() for weight in weights_of(self.model)])


class L2Loss(Penalty):
    """Keep weights small: 0.5 x alpha x the sum of w^2 over the weights of a net.

    Biases and frozen weights are left out. The gradient is alpha x w, as that of
    ``weight_decay=alpha`` in SGD.

    Args:
        model: the net.
        alpha: how much the weights count.

    Raises:
        TypeError: ``model`` is not a module, or ``alpha`` is not a number.
        ValueError: ``alpha`` is negative.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> _ = nn.init.constant_(net.weight, -3.0)
        >>> round(L2Loss(net, 0.01)().item(), 4)
        0.09
        >>> loss = torch.tensor(1.0) + L2Loss(net, 0.01)
        >>> round(loss.item(), 4)
        1.09
    """

    def __init__(self, model: nn.Module, alpha: float) -> None:
        super().__init__(model)
        check_number("alpha", alpha, "a number of at least 0", most=float("inf"))
        self.alpha = alpha

    def value(self) -> Tensor:
        """Return half of alpha times the sum of squared weights."""
        squares = [weight.square().sum() for weight in weights_of(self.model)]
        return 0.5 * self.alpha * sum_of(squares)


class PenalizedLoss(nn.Module):
    """A loss with a penalty added; made by ``loss_fn + L2Loss(net, alpha)``.

    The penalty is added once to the loss of a batch; with sample weights, its weight is their mean.

    Args:
        loss_fn: any loss ``(preds, labels) -> scalar``.
        penalty: what to add.

    Example:
        >>> net = nn.Linear(2, 1)
        >>> loss_fn = nn.MSELoss() + L1Loss(net, 1e-3) + L2Loss(net, 1e-3)
        >>> loss_fn(net(torch.ones(4, 2)), torch.ones(4, 1)).shape
        torch.Size([])
    """

    module: Callable[..., Any]
    penalty: Penalty

    def __init__(self, loss_fn: Callable[..., Any], penalty: Penalty) -> None:
        super().__init__()
        inner = loss_fn
        if isinstance(loss_fn, PenalizedLoss):
            inner, penalty = loss_fn.module, loss_fn.penalty + penalty
        # the net must not become a submodule of the loss: Penalty is no module
        self.module, self.penalty = inner, penalty

    def forward(self, preds: Preds, labels: Labels) -> Tensor:
        """Return the loss plus the penalty."""
        loss: Tensor = self.module(preds, labels)
        return loss + self.penalty()

    @property
    def reduction(self) -> str:
        """Return the reduction of the loss."""
        found: str = self.module.reduction  # type: ignore[attr-defined]
        return found

    @property
    def ignore_index(self) -> int:
        """Return the ``ignore_index`` of the loss; -100 is torch's default."""
        found: int = getattr(self.module, "ignore_index", -100)
        return found

    @property
    def weight(self) -> Tensor | None:
        """Return the class weights of the loss."""
        return getattr(self.module, "weight", None)


def weights_of(model: nn.Module) -> list[Tensor]:
    """Return the trainable parameters without biases, each once."""
    return [
        weight for name, weight in model.named_parameters()
        if weight.requires_grad and not is_bias(name)]


def is_bias(name: str) -> bool:
    """Tell whether this is the name of a bias: ``0.bias``, ``in_proj_bias``, ``bias_ih_l0``."""
    return "bias" in name.rsplit(".", 1)[-1]


def sum_of(terms: list[Tensor]) -> Tensor:
    """Return the sum of scalars, 0 where there is none."""
    if not terms:
        return torch.zeros(())
    return torch.stack([one.to(terms[0].device) for one in terms]).sum()
