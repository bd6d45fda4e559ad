"""Penalties on the weights of single layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from torch import Tensor, nn

from torchkeras.core.errors import bad_type, bad_value, did_you_mean
from torchkeras.losses.penalties import Penalty, is_bias, sum_of
from torchkeras.losses.robust import check_number

Regularizer = Callable[[Tensor], Tensor]


class L1L2:
    """A penalty on one layer's weights, as in Keras: l1 x sum of |w| + l2 x sum of w^2.

    Args:
        l1: how much absolute values count.
        l2: how much squares count; without the factor 0.5 of ``L2Loss``.

    Raises:
        ValueError: one of them is negative.

    Example:
        >>> import torch
        >>> round(L1L2(l1=0.1, l2=0.01)(torch.tensor([3.0, -4.0])).item(), 4)
        0.95
    """

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        for argument, share in (("l1", l1), ("l2", l2)):
            check_number(argument, share, "a number of at least 0", most=float("inf"))
        self.l1, self.l2 = l1, l2

    def __call__(self, weight: Tensor) -> Tensor:
        """Return the penalty of one weight."""
        return self.l1 * weight.abs().sum() + self.l2 * weight.square().sum()


REGULARIZERS: dict[str, tuple[float, float]] = {
    "l1": (0.01, 0.0), "l2": (0.0, 0.01), "l1_l2": (0.01, 0.01)}


def regularized(layer: nn.Module, regularizer: str | Regularizer | None = None,
                bias_regularizer: str | Regularizer | None = None) -> nn.Module:
    """Penalise the weights of one layer; :class:`LayerPenalty` adds up all marked layers.

    Args:
        layer: any module with parameters of its own; it is marked, not wrapped.
        regularizer: for its weights: "l1", "l2", "l1_l2" (0.01 each, as in Keras), an ``L1L2``, or
            any function of a tensor; None for none.
        bias_regularizer: the same for its biases.

    Returns:
        The layer.

    Raises:
        TypeError: a regulariser is neither a name nor a function.
        ValueError: its name is unknown, or the layer has no parameters of its own.

    Example:
        >>> import torch
        >>> net = nn.Sequential(regularized(nn.Linear(2, 2), L1L2(l2=0.1)), nn.Linear(2, 1))
        >>> bool(torch.isclose(LayerPenalty(net)(), 0.1 * net[0].weight.square().sum()))
        True
    """
    kinds = {"regularizer": regularizer, "bias_regularizer": bias_regularizer}
    found = {
        argument: as_regularizer(argument, kind) for argument, kind in kinds.items()
        if kind is not None}
    if not any(True for _ in layer.parameters(recurse=False)):
        raise bad_value("layer",
                        received=f"{type(layer).__name__}, which has no parameters of its own",
                        expected="a layer such as nn.Linear",
                        fix="Mark the layers inside it one by one.")
    layer.regularizers = found  # type: ignore[assignment]
    return layer


def as_regularizer(argument: str, kind: str | Regularizer) -> Regularizer:
    """Return a regulariser from its name, or as it is."""
    if isinstance(kind, str):
        if kind not in REGULARIZERS:
            raise bad_value(argument, received=repr(kind),
                            expected="one of " + ", ".join(REGULARIZERS),
                            fix=did_you_mean(kind, REGULARIZERS))
        return L1L2(*REGULARIZERS[kind])
    if isinstance(kind, type) or not callable(kind):
        raise bad_type(argument, received=repr(kind),
                       expected="a name, an L1L2 object or a function of a tensor")
    return kind


class LayerPenalty(Penalty):
    """The sum of the penalties of the layers marked by :func:`regularized`; 0 without any.

    Args:
        model: the net.

    Raises:
        TypeError: ``model`` is not a module.

    Example:
        >>> net = nn.Sequential(regularized(nn.Linear(2, 1), "l2"))
        >>> loss_fn = nn.MSELoss() + LayerPenalty(net)
    """

    def value(self) -> Tensor:
        """Return the sum of the penalties of all marked layers."""
        return sum_of(list(self.terms()))

    def terms(self) -> Iterator[Tensor]:
        """Yield the penalty of each weight that has one; of shared weights, once for each layer."""
        for layer in self.model.modules():
            asked: Mapping[str, Regularizer] = getattr(layer, "regularizers", None) or {}
            for name, weight in layer.named_parameters(recurse=False) if asked else ():
                function = asked.get("bias_regularizer" if is_bias(name) else "regularizer")
                if function is not None and weight.requires_grad:
                    yield function(weight)
