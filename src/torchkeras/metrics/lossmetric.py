"""A loss as a metric."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.core.errors import bad_type
from torchkeras.core.types import LossFn
from torchkeras.metrics.base import Metric, MetricState
from torchkeras.metrics.shapes import wide


class MeanLoss(Metric):
    """Watch a loss that you do not train with, exact at any batch size: its mean over all samples.

    Labels that torch's cross entropy excludes (``ignore_index``) are excluded, and class weights
    divide as they do there. Losses whose label is NaN are excluded, too.

    Args:
        loss_fn: a loss with a ``reduction``, such as those of ``torchkeras.losses``; with "none"
            each of its numbers must have equal weight.
        negate: return minus the mean, of which more is better, as for a similarity.

    Raises:
        TypeError: the loss has no ``reduction``.

    Example:
        >>> metric = MeanLoss(torch.nn.HuberLoss())
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 5.0]))
        >>> metric.compute().item()
        1.3125
    """

    cheap = True
    loss_fn: Callable[..., Any]

    def __init__(self, loss_fn: LossFn, negate: bool = False) -> None:
        super().__init__()
        if not callable(loss_fn) or isinstance(loss_fn, type) or not hasattr(loss_fn, "reduction"):
            raise bad_type("loss_fn", received=repr(loss_fn),
                           expected="a loss object with a reduction",
                           fix="A plain function can be a metric as it is.")
        single: Any = copy.copy(loss_fn)
        single.reduction = "none"
        self.__dict__["loss_fn"] = single  # not a submodule: its weights are not the metric's
        self.higher_is_better, self.sign = negate, -1 if negate else 1
        self.add_sum("total", dtype=torch.float64)
        self.add_sum("seen")

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return the sum of losses, and the number that its mean divides by."""
        losses: Tensor = self.loss_fn(preds, labels)
        known = known_losses(losses, labels)
        if known is not None:
            return {"total": wide(torch.where(known, losses, 0)).sum(), "seen": known.sum()}
        return {"total": wide(losses).sum(), "seen": mean_denominator(self.loss_fn, losses, labels)}

    def value(self, state: MetricState) -> Tensor:
        """Return the mean."""
        return self.sign * state["total"].double() / state["seen"]


def known_losses(losses: Tensor, labels: Tensor) -> Tensor | None:
    """Return which losses have a label that is not NaN; None if all or if it is unknown."""
    if not labels.is_floating_point() or not losses.dim():
        return None
    known = labels == labels
    if losses.shape == labels.shape:
        return known
    if losses.dim() < labels.dim() and losses.shape == labels.shape[:losses.dim()]:
        return known.flatten(losses.dim()).all(-1)
    return None


def mean_denominator(loss_fn: object, losses: Tensor, labels: Tensor) -> Tensor | int:
    """Return what the mean of a loss divides by, as torch's cross entropy does for its own."""
    if not isinstance(loss_fn, (nn.CrossEntropyLoss, nn.NLLLoss)) or labels.is_floating_point():
        return losses.numel()
    used = labels != loss_fn.ignore_index
    if loss_fn.weight is None:
        return used.sum()
    return (wide(loss_fn.weight)[labels * used] * used).sum()
