"""Penalties on all weights of a net, to be added to a loss: L1 and L2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.core.errors import bad_type
from torchkeras.losses.robust import check_number


class Penalty:
    """Something that depends on weights alone; subclass it and write ``value``.

    Called without arguments it is a scalar with a gradient. It can be added to a number that is a loss already, to
    another penalty, or to a loss function, which gives a loss function.

    Args:
        model: the net whose weights are looked at anew each time.

    Raises:
        TypeError: ``model`` is no module.
    """

    def __init__(self, model: nn.Module) -> None:
        if not isinstance(model, nn.Module):
            raise bad_type("model", received=type(model).__name__, expected="an nn.Module")
        self.model = model

    def value(self) -> Tensor:
        """The penalty."""
        raise NotImplementedError

    def __call__(self) -> Tensor:
        """The penalty as a scalar with a gradient."""
        # Gradients of torch.func are those of copies, and would not reach the weights of this net.
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise RuntimeError("a penalty on weights was called in a function that torch.func differentiates; "
                               "add it up there from the weights that the function is given")
        return self.value()

    def __add__(self, other: Any) -> Any:
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
        """Their sum."""
        return torch.stack([penalty() for penalty in self.penalties]).sum()


class L1Loss(Penalty):
    """Drive weights that do not matter to zero: beta x the sum of |w| over the weights of a net.

    Biases and frozen weights are left out.

    Args:
        model: the net.
        beta: how much the weights count.

    Raises:
        TypeError: ``model`` is no module, or ``beta`` no number.
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
        """Beta times the sum of absolute weights."""
        return self.beta * total([weight.abs().sum() for weight in weights_of(self.model)])


class L2Loss(Penalty):
    """Keep weights small: 0.5 x alpha x the sum of w^2 over the weights of a net.

    Biases and frozen weights are left out. The gradient is alpha x w, as that of ``weight_decay=alpha`` in SGD.

    Args:
        model: the net.
        alpha: how much the weights count.

    Raises:
        TypeError: ``model`` is no module, or ``alpha`` no number.
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
        """Half of alpha times the sum of squares."""
        return 0.5 * self.alpha * total([weight.square().sum() for weight in weights_of(self.model)])


class PenalizedLoss(nn.Module):
    """A loss with a penalty added, for wherever a loss can be given; made by ``loss_fn + L2Loss(net, alpha)``.

    The penalty is added once to the loss of a batch; where samples are weighed, it weighs what they do on average.

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
        inner, penalty = (loss_fn.module, loss_fn.penalty + penalty) if isinstance(loss_fn, PenalizedLoss) else (
            loss_fn, penalty)
        self.module, self.penalty = inner, penalty  # the net is no part of the loss, so it hides in the penalty

    def forward(self, preds: Any, labels: Any) -> Tensor:
        """The loss and the penalty."""
        loss: Tensor = self.module(preds, labels)
        return loss + self.penalty()

    @property
    def reduction(self) -> str:
        """That of the loss."""
        found: str = self.module.reduction  # type: ignore[attr-defined]
        return found

    @property
    def ignore_index(self) -> int:
        """That of the loss; -100 is torch's own."""
        found: int = getattr(self.module, "ignore_index", -100)
        return found

    @property
    def weight(self) -> Tensor | None:
        """The class weights of the loss."""
        return getattr(self.module, "weight", None)


def weights_of(model: nn.Module) -> list[Tensor]:
    """The parameters that learn, but for biases; each once."""
    return [weight for name, weight in model.named_parameters() if weight.requires_grad and not is_bias(name)]


def is_bias(name: str) -> bool:
    """Whether this is the name of a bias, such as ``0.bias``, ``in_proj_bias`` or ``bias_ih_l0``."""
    return "bias" in name.rsplit(".", 1)[-1]


def total(terms: list[Tensor]) -> Tensor:
    """A sum of scalars, 0 where there is none."""
    return torch.stack([one.to(terms[0].device) for one in terms]).sum() if terms else torch.zeros(())
