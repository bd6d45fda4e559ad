"""Correlations between prediction and label within each sample, as Keras has them."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.metrics.base import Metric, MetricState
from torchkeras.metrics.shapes import shape_error, wide

EPSILON = 1e-7  # Keras's keras.config.epsilon()


class RowCorrelation(Metric):
    """The base: the mean over the samples of a number of each sample's values."""

    higher_is_better = True
    cheap = True

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        self.axis = axis
        self.add_sum("total", dtype=torch.float64)
        self.add_sum("seen")

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return the sum over the samples, and their number."""
        if preds.shape != labels.shape or preds.dim() < 2 or preds.shape[self.axis] < 2:
            raise shape_error(preds, labels, "several numbers a sample, (N, ..., D)",
                              "A correlation over all samples: a function of (preds, labels).")
        found = self.of_rows(wide(preds), wide(labels))
        return {"total": found.sum(), "seen": found.numel()}

    def of_rows(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the number of each sample."""
        raise NotImplementedError

    def value(self, state: MetricState) -> Tensor:
        """Return the mean."""
        return state["total"].double() / state["seen"]


class PearsonCorrelation(RowCorrelation):
    """See how linear predictions are in the labels: Pearson's correlation, mean over the samples.

    As in Keras, it is that of the numbers of each sample, not of one number over all samples.

    Args:
        axis: the dimension of a sample's numbers.

    Raises:
        ValueError: predictions and labels differ in shape, or have one number a sample.

    Example:
        >>> metric = PearsonCorrelation()
        >>> metric.update(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 4.0, 6.0]]))
        >>> round(metric.compute().item(), 6)
        1.0
    """

    def of_rows(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the correlation of each sample."""
        first, second = ((one - one.mean(self.axis, keepdim=True))
                         / one.std(self.axis, correction=0, keepdim=True)
                         for one in (preds, labels))
        return (first * second).mean(self.axis)


class ConcordanceCorrelation(RowCorrelation):
    """See how near predictions are to the labels: Lin's concordance, mean over the samples.

    As in Keras, it is that of the numbers of each sample, not of one number over all samples.

    Args:
        axis: the dimension of a sample's numbers.

    Raises:
        ValueError: predictions and labels differ in shape, or have one number a sample.

    Example:
        >>> metric = ConcordanceCorrelation()
        >>> metric.update(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[2.0, 3.0, 4.0]]))
        >>> round(metric.compute().item(), 4)
        0.5714
    """

    def of_rows(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the concordance of each sample."""
        axis = self.axis
        means = [one.mean(axis, keepdim=True) for one in (preds, labels)]
        spread = sum(one.var(axis, correction=0, keepdim=True) for one in (preds, labels))
        shared = ((preds - means[0]) * (labels - means[1])).mean(axis, keepdim=True)
        whole = spread + (means[0] - means[1]).square() + EPSILON
        return (2 * shared / whole).squeeze(axis)
