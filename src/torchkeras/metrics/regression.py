"""Regression metrics: MAE, MSE, RMSE, MAPE, R2."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.metrics.base import Metric, MetricState
from torchkeras.metrics.shapes import layout, paired, shape_error, wide

IGNORED = -100  # torch's default for ignore_index
# what a label of 0 is divided by in MAPE, as scikit-learn does
SMALLEST = torch.finfo(torch.float64).eps


class ErrorMetric(Metric):
    """A regression metric that excludes NaN labels, and by name those that the loss excludes."""

    marks: tuple[float, ...] = ()

    def leave_out(self, marks: tuple[float, ...]) -> None:
        """Exclude the labels that the loss excludes, if the metric was given by name."""
        if self.follows_loss:
            self.marks = tuple(float(one) for one in marks if one == one)

    def known(self, labels: Tensor) -> Tensor | None:
        """Return which labels count; None where all do."""
        known = labels == labels if labels.is_floating_point() else None
        for mark in self.marks:
            # integer labels of -100 count: the loss was assumed, not seen, to exclude them
            if known is not None or mark != IGNORED:
                other = wide(labels) != mark
                known = other if known is None else known & other
        return known


class MeanError(ErrorMetric):
    """The mean of an error over all predicted numbers; those whose label is NaN are excluded."""

    higher_is_better = False
    cheap = True

    def __init__(self) -> None:
        super().__init__()
        self.add_sum("total", dtype=torch.float64)
        self.add_sum("seen")

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return the sum of errors, and their number."""
        numbers, truth = paired(preds, labels)
        errors = self.errors(wide(numbers), wide(truth))
        known = self.known(truth)
        if known is None:
            return {"total": errors.sum(), "seen": numbers.numel()}
        return {"total": torch.where(known, errors, 0).sum(), "seen": known.count_nonzero()}

    def errors(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the error of each number."""
        raise NotImplementedError

    def value(self, state: MetricState) -> Tensor:
        """Return the mean."""
        return state["total"].double() / state["seen"]


class MAE(MeanError):
    """See the mean error in the unit of the labels: the mean of |prediction - label|.

    Numbers whose label is NaN are left out.

    Raises:
        ValueError: predictions and labels differ in shape.

    Example:
        >>> metric = MAE()
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]))
        >>> metric.compute().item()
        1.5
    """

    def errors(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return absolute differences."""
        return (preds - labels).abs()


class MSE(MeanError):
    """See the mean of squared errors, in which large errors weigh most.

    Numbers whose label is NaN are left out.

    Raises:
        ValueError: predictions and labels differ in shape.

    Example:
        >>> metric = MSE()
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 5.0]))
        >>> metric.compute().item()
        4.5
    """

    def errors(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return squared differences."""
        return (preds - labels).square()


class RMSE(MSE):
    """See the root of the mean squared error over all samples, in the unit of the labels.

    Numbers whose label is NaN are left out.

    Raises:
        ValueError: predictions and labels differ in shape.

    Example:
        >>> metric = RMSE()
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 5.0]))
        >>> metric.compute().item()
        3.0
    """

    def value(self, state: MetricState) -> Tensor:
        """Return the root of the mean."""
        return super().value(state).sqrt()


class MAPE(MeanError):
    """See the error relative to the label: the mean of |prediction - label| / |label|; 0.1 is 10 %.

    A label of 0 is divided by 2.2e-16 and makes the mean huge, as in scikit-learn. Numbers whose
    label is NaN are left out.

    Raises:
        ValueError: predictions and labels differ in shape.

    Example:
        >>> metric = MAPE()
        >>> metric.update(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 4.0]))
        >>> metric.compute().item()
        0.375
    """

    def errors(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return differences relative to the label."""
        return (preds - labels).abs() / labels.abs().clamp(min=SMALLEST)


class R2(ErrorMetric):
    """See how much of the labels' variance is explained: 1 is perfect, 0 as good as their mean.

    R2 = 1 - sum of squared errors / sum of squared distances of the labels from their mean; for
    several outputs ``(N, D)``, the mean of their R2. Labels that are all equal give 1 when every
    prediction is right, else 0. Numbers whose label is NaN are left out; so is an output without
    any label.

    The mean and the squared deviations of each batch are combined by the rule of Chan, Golub and
    LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances", 1979:
    large labels with a small spread, such as times, lose no digits.

    Raises:
        ValueError: predictions and labels differ in shape.

    Example:
        >>> metric = R2()
        >>> metric.update(torch.tensor([2.5, 0.0, 2.0, 8.0]), torch.tensor([3.0, -0.5, 2.0, 7.0]))
        >>> round(metric.compute().item(), 4)
        0.9486
    """

    higher_is_better = True
    cheap = True

    def __init__(self) -> None:
        super().__init__()
        self.add_list("moments")

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return ``(1, 4, D)``: samples, mean label, squared deviations from it, squared errors."""
        if layout(preds) != layout(labels):
            raise shape_error(preds, labels,
                              "one prediction a label, such as (N,) or (N, 1) with labels (N,)")
        rows = layout(labels)[0]
        if rows == 0:
            return {"moments": labels.new_zeros(0)}
        numbers, truth = wide(preds).reshape(rows, -1), wide(labels).reshape(rows, -1)
        if self.marks and (used := self.known(labels)) is not None:
            truth = truth.where(used.reshape(rows, -1), torch.nan)
        known = truth == truth
        mean = truth.nanmean(0)
        spread = (truth - mean).square().nansum(0)
        errors = torch.where(known, numbers - truth, 0).square().sum(0)
        return {"moments": torch.stack([known.sum(0).to(mean), mean, spread, errors])[None]}

    def value(self, state: MetricState) -> Tensor:
        """Combine all rows and return R2."""
        samples, means, spreads, errors = state["moments"].cpu().double().unbind(1)
        means = torch.where(samples > 0, means, 0)  # NaN where a batch has no label
        mean = (samples * means).sum(0) / samples.sum(0)
        spread = (spreads + samples * (means - mean).square()).sum(0)
        rounding = samples.sum(0) * (4 * torch.finfo(state["moments"].dtype).eps * mean).square()
        unexplained = torch.where(spread > rounding,
                                  errors.sum(0) / spread, (errors.sum(0) != 0).double())
        return (1 - unexplained)[samples.sum(0) > 0].mean()
