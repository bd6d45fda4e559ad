"""Hinge losses, with Keras's names and values: ``loss(preds, labels)``."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.losses.base import ElementLoss, Loss, check_vectors


class Hinge(ElementLoss):
    """Separate two classes by a margin of 1: the mean of max(1 - label x score, 0), as in Keras.

    Labels are -1 and 1; where all labels of a batch are 0 or 1, 0 means -1.

    Args:
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: the reduction is unknown, or predictions and labels differ in shape.

    Example:
        >>> Hinge()(torch.tensor([0.5, -2.0]), torch.tensor([1.0, 0.0])).item()
        0.25
    """

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return how far each score is from the margin."""
        return (1 - signed(labels) * preds).clamp(min=0)


class SquaredHinge(Hinge):
    """Separate two classes by a margin of 1, large errors first: the square of :class:`Hinge`.

    Args:
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: the reduction is unknown, or predictions and labels differ in shape.

    Example:
        >>> SquaredHinge()(torch.tensor([0.5, -2.0]), torch.tensor([1.0, 0.0])).item()
        0.125
    """

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the square of how far each score is from the margin."""
        return super().elements(preds, labels).square()


class CategoricalHinge(Loss):
    """Put the true class (one-hot labels) 1 above the best of the others, as in Keras.

    Keras takes the best of (1 - label) x score, which is 0 or more.

    Args:
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: the reduction is unknown, or predictions and labels are not both
            ``(N, ..., C)``.

    Example:
        >>> CategoricalHinge()(torch.tensor([[0.6, 0.4]]), torch.tensor([[0.0, 1.0]])).item()
        1.2000000476837158
    """

    def values(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each sample."""
        check_vectors(preds, labels)
        labels = labels.to(preds.dtype)
        others = ((1 - labels) * preds).amax(-1)
        return (others - (labels * preds).sum(-1) + 1).clamp(min=0)


def signed(labels: Tensor) -> Tensor:
    """Return labels of -1 and 1, where all are 0 or 1; others as they are."""
    binary = ((labels == 0) | (labels == 1)).all()
    return torch.where(binary, 2 * labels - 1, labels)
