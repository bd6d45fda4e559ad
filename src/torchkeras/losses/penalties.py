"""Penalties on weights, to be added to a loss: L1, L2, and those that layers ask for themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.engine.checks import bad_type, bad_value, did_you_mean
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


Regularizer = Callable[[Tensor], Tensor]


class L1L2:
    """Say how a layer's own weights are penalised, as in Keras: l1 x sum of |w| + l2 x sum of w^2.

    Args:
        l1: how much absolute values count.
        l2: how much squares count; without the factor 0.5 of ``L2Loss``.

    Raises:
        ValueError: one of them is negative.

    Example:
        >>> round(L1L2(l1=0.1, l2=0.01)(torch.tensor([3.0, -4.0])).item(), 4)
        0.95
    """

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        for argument, share in (("l1", l1), ("l2", l2)):
            check_number(argument, share, "a number of at least 0", most=float("inf"))
        self.l1, self.l2 = l1, l2

    def __call__(self, weight: Tensor) -> Tensor:
        """The penalty of one weight."""
        return self.l1 * weight.abs().sum() + self.l2 * weight.square().sum()


REGULARIZERS: dict[str, tuple[float, float]] = {"l1": (0.01, 0.0), "l2": (0.0, 0.01), "l1_l2": (0.01, 0.01)}


def regularized(layer: nn.Module, regularizer: str | Regularizer | None = None,
                bias_regularizer: str | Regularizer | None = None) -> nn.Module:
    """Penalise the weights of one layer only; :class:`LayerPenalty` adds up what all layers ask for.

    Args:
        layer: any module with parameters of its own; it is marked, not wrapped.
        regularizer: for its weights: "l1", "l2", "l1_l2" (0.01 each, as in Keras), an ``L1L2``, or any function of a
            tensor; None for none.
        bias_regularizer: the same for its biases.

    Returns:
        The layer.

    Raises:
        TypeError: a regulariser is neither a name nor a function.
        ValueError: its name is unknown, or the layer has no parameters of its own.

    Example:
        >>> net = nn.Sequential(regularized(nn.Linear(2, 2), L1L2(l2=0.1)), nn.Linear(2, 1))
        >>> bool(torch.isclose(LayerPenalty(net)(), 0.1 * net[0].weight.square().sum()))
        True
    """
    kinds = {"regularizer": regularizer, "bias_regularizer": bias_regularizer}
    found = {argument: function_of(argument, kind) for argument, kind in kinds.items() if kind is not None}
    if not any(True for _ in layer.parameters(recurse=False)):
        raise bad_value("layer", received=f"{type(layer).__name__}, which has no parameters of its own",
                        expected="a layer such as nn.Linear", fix="Mark the layers inside it one by one.")
    layer.regularizers = found  # type: ignore[assignment]
    return layer


def function_of(argument: str, kind: Any) -> Regularizer:
    """A regulariser from its name, or as it is."""
    if isinstance(kind, str):
        if kind not in REGULARIZERS:
            raise bad_value(argument, received=repr(kind), expected="one of " + ", ".join(REGULARIZERS),
                            fix=did_you_mean(kind, REGULARIZERS))
        return L1L2(*REGULARIZERS[kind])
    if isinstance(kind, type) or not callable(kind):
        raise bad_type(argument, received=repr(kind), expected="a name, an L1L2 object or a function of a tensor")
    return kind


class LayerPenalty(Penalty):
    """Add up what the layers of a net ask for by :func:`regularized`; 0 when none does.

    Args:
        model: the net.

    Raises:
        TypeError: ``model`` is no module.

    Example:
        >>> net = nn.Sequential(regularized(nn.Linear(2, 1), "l2"))
        >>> loss_fn = nn.MSELoss() + LayerPenalty(net)
    """

    def value(self) -> Tensor:
        """The penalties of all marked layers."""
        return total(list(self.terms()))

    def terms(self) -> Iterator[Tensor]:
        """The penalty of each weight that has one; a shared weight as often as layers ask."""
        for layer in self.model.modules():
            asked: Mapping[str, Regularizer] = getattr(layer, "regularizers", None) or {}
            for name, weight in layer.named_parameters(recurse=False) if asked else ():
                function = asked.get("bias_regularizer" if is_bias(name) else "regularizer")
                if function is not None and weight.requires_grad:
                    yield function(weight)


def weights_of(model: nn.Module) -> list[Tensor]:
    """The parameters that learn, but for biases; each once."""
    return [weight for name, weight in model.named_parameters() if weight.requires_grad and not is_bias(name)]


def is_bias(name: str) -> bool:
    """Whether this is the name of a bias, such as ``0.bias``, ``in_proj_bias`` or ``bias_ih_l0``."""
    return "bias" in name.rsplit(".", 1)[-1]


def total(terms: list[Tensor]) -> Tensor:
    """A sum of scalars, 0 where there is none."""
    return torch.stack([one.to(terms[0].device) for one in terms]).sum() if terms else torch.zeros(())
