"""Losses of numbers that take logarithms, with Keras's names and values."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from torchkeras.losses.base import EPSILON, ElementLoss


class LogCosh(ElementLoss):
    """Fit numbers with a few outliers: log(cosh(error)), as in Keras: squared, then linear.

    Args:
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: the reduction is unknown, or predictions and labels differ in shape.

    Example:
        >>> import torch
        >>> round(LogCosh()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])).item(), 4)
        0.6625
    """

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return log(cosh) of each difference, without overflow."""
        errors = preds - labels
        return errors + F.softplus(-2 * errors) - math.log(2)


class MeanSquaredLogarithmicError(ElementLoss):
    """Fit positive numbers of different size: the mean of (log(1 + prediction) - log(1 + label))^2.

    As in Keras, numbers below 1e-7 count as 1e-7, without a gradient.

    Args:
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: the reduction is unknown, or predictions and labels differ in shape.

    Example:
        >>> import torch
        >>> loss_fn = MeanSquaredLogarithmicError()
        >>> round(loss_fn(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0])).item(), 4)
        0.2402
    """

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return squared differences of logarithms."""
        first, second = (one.clamp(min=EPSILON).log1p() for one in (preds, labels))
        return (first - second).square()


class Poisson(ElementLoss):
    """Fit counts: the mean of prediction - label x log(prediction), as in Keras.

    Predictions are rates, not their logarithms as torch's ``PoissonNLLLoss`` takes by default.

    Args:
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: the reduction is unknown, or predictions and labels differ in shape.

    Example:
        >>> import torch
        >>> round(Poisson()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 3.0])).item(), 4)
        0.4603
    """

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the negative log likelihood of each count, but for a constant."""
        return preds - labels * (preds + EPSILON).log()
