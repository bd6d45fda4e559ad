"""Losses of numbers and vectors, with Keras's names and values: ``loss(preds, labels)``."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from torchkeras.core.errors import positive_number, whole_number
from torchkeras.losses.base import EPSILON, ElementLoss, Loss, check_vectors


class MeanSquaredError(ElementLoss):
    """Fit numbers, large errors first: the mean of (prediction - label)^2, as in Keras.

    Args:
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: the reduction is unknown, or predictions and labels differ in shape.

    Example:
        >>> import torch
        >>> MeanSquaredError()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0])).item()
        4.5
    """

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return squared differences."""
        return F.mse_loss(preds, labels, reduction="none")


class MeanAbsoluteError(ElementLoss):
    """Fit numbers without giving way to outliers: the mean of |prediction - label|, as in Keras.

    Args:
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: the reduction is unknown, or predictions and labels differ in shape.

    Example:
        >>> import torch
        >>> MeanAbsoluteError()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0])).item()
        1.5
    """

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return absolute differences."""
        return F.l1_loss(preds, labels, reduction="none")


class MeanAbsolutePercentageError(ElementLoss):
    """Fit numbers of very different size: the mean error in percent of the label, as in Keras.

    Labels below 1e-7 in size divide by 1e-7. The metric ``MAPE`` returns a fraction instead of
    percent.

    Args:
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: the reduction is unknown, or predictions and labels differ in shape.

    Example:
        >>> import torch
        >>> loss_fn = MeanAbsolutePercentageError()
        >>> round(loss_fn(torch.tensor([1.1, 2.0]), torch.tensor([1.0, 4.0])).item(), 2)
        30.0
    """

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return differences in percent of each label."""
        return 100 * (preds - labels).abs() / labels.abs().clamp(min=EPSILON)


class Huber(ElementLoss):
    """Fit numbers with a few outliers: squared up to ``delta``, linear beyond, as in Keras.

    Args:
        delta: the error at which the loss becomes linear.
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: ``delta`` is not above 0, the reduction is unknown, or predictions and labels
            differ in shape.

    Example:
        >>> import torch
        >>> Huber()(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 5.0])).item()
        1.3125
    """

    def __init__(self, delta: float = 1.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        positive_number("delta", delta)
        self.delta = float(delta)

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return halved squares up to ``delta``, linear values beyond."""
        return F.huber_loss(preds, labels, reduction="none", delta=self.delta)


class CosineSimilarity(Loss):
    """Fit directions: minus the cosine between prediction and label, as in Keras.

    From -1 for the same direction to 1 for the opposite one; 0 where either vector is zero.

    Args:
        reduction: "mean" over all samples, "sum", or "none".
        axis: the dimension of the vectors.

    Raises:
        ValueError: the reduction is unknown, or predictions and labels are not both
            ``(N, ..., D)``.

    Example:
        >>> import torch
        >>> CosineSimilarity()(torch.tensor([[3.0, 4.0]]), torch.tensor([[6.0, 8.0]])).item()
        -1.0
    """

    def __init__(self, reduction: str = "mean", axis: int = -1) -> None:
        super().__init__(reduction)
        whole_number("axis", axis, least=-10, most=10)
        self.axis = axis

    def values(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return minus the cosine of each pair."""
        check_vectors(preds, labels)
        given, truth = (F.normalize(one, dim=self.axis, eps=EPSILON)
                        for one in (preds, labels.to(preds.dtype)))
        return -(given * truth).sum(self.axis)
