"""Intersection over union under Keras's names and with its reading of predictions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value, whole_number
from torchkeras.metrics.base import Metric, MetricState
from torchkeras.metrics.shapes import paired


class IoU(Metric):
    """See how well a segmentation covers the truth: the mean over some classes.

    A class in neither predictions nor labels is excluded from the mean; so are positions whose
    label or prediction is no class. :class:`IOU` takes scores of classes and finds their dimension.

    Args:
        num_classes: the number of classes.
        target_class_ids: the classes that are measured.
        ignore_class: a label to exclude.
        sparse_y_true: labels are class numbers; False: one-hot.
        sparse_y_pred: predictions are class numbers; False: scores of the classes.
        axis: the dimension of the classes in one-hot labels and scores.

    Raises:
        ValueError: a class is out of range, or predictions and labels do not pair.

    Example:
        >>> metric = IoU(num_classes=2, target_class_ids=[0])
        >>> metric.update(torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1]))
        >>> round(metric.compute().item(), 4)
        0.3333
    """

    higher_is_better = True
    cheap = True

    def __init__(self, num_classes: int, target_class_ids: Sequence[int], *,
                 ignore_class: int | None = None, sparse_y_true: bool = True,
                 sparse_y_pred: bool = True, axis: int = -1) -> None:
        super().__init__()
        whole_number("num_classes", num_classes, least=2)
        self.num_classes, self.target_class_ids = num_classes, list(target_class_ids)
        if not all(0 <= one < num_classes for one in self.target_class_ids):
            raise bad_value("target_class_ids", received=self.target_class_ids,
                            expected=f"classes from 0 to {num_classes - 1}")
        self.ignore_class, self.axis = ignore_class, axis
        self.sparse_y_true, self.sparse_y_pred = sparse_y_true, sparse_y_pred
        self.add_sum("confusion", (num_classes, num_classes))

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return counts by true class (row) and predicted class."""
        size = self.num_classes
        chosen = preds if self.sparse_y_pred else preds.argmax(self.axis)
        truth = labels if self.sparse_y_true else labels.argmax(self.axis)
        chosen, truth = paired(self.classes(chosen), truth)
        chosen, truth = chosen.long(), truth.long()
        valid = (truth >= 0) & (truth < size) & (chosen >= 0) & (chosen < size)
        if self.ignore_class is not None:
            valid &= truth != self.ignore_class
        cells = torch.where(valid, truth * size + chosen, size * size)
        bins = torch.zeros(size * size + 1, dtype=torch.int64, device=preds.device)
        return {"confusion": bins.scatter_add(0, cells, torch.ones_like(cells))[:-1].view(
            size, size)}

    def classes(self, preds: Tensor) -> Tensor:
        """Return predicted class numbers."""
        return preds

    def value(self, state: MetricState) -> Tensor:
        """Return the mean over the classes that are measured and have a union."""
        confusion = state["confusion"].double()
        overlap = confusion.diagonal()[self.target_class_ids]
        union = (confusion.sum(0) + confusion.sum(1))[self.target_class_ids] - overlap
        mean = (overlap / union.clamp(min=1)).sum() / (union > 0).sum().clamp(min=1)
        return torch.where(confusion.sum() > 0, mean, torch.nan)


class MeanIoU(IoU):
    """See how well a segmentation covers the truth: the mean over all classes.

    Args:
        num_classes: the number of classes.
        ignore_class: a label to exclude.
        sparse_y_true: labels are class numbers; False: one-hot.
        sparse_y_pred: predictions are class numbers, as Keras has it; False: scores of the classes.
        axis: the dimension of the classes in one-hot labels and scores.

    Raises:
        ValueError: ``num_classes`` is below 2, or predictions and labels do not pair.

    Example:
        >>> metric = MeanIoU(num_classes=2)
        >>> metric.update(torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1]))
        >>> round(metric.compute().item(), 4)
        0.3333
    """

    def __init__(self, num_classes: int, *, ignore_class: int | None = None,
                 sparse_y_true: bool = True, sparse_y_pred: bool = True, axis: int = -1) -> None:
        super().__init__(num_classes, range(num_classes), ignore_class=ignore_class,
                         sparse_y_true=sparse_y_true, sparse_y_pred=sparse_y_pred, axis=axis)


class OneHotIoU(IoU):
    """:class:`IoU` of scores and one-hot labels.

    Args:
        num_classes: the number of classes.
        target_class_ids: the classes that are measured.
        ignore_class: a label to exclude.
        sparse_y_pred: predictions are class numbers.
        axis: the dimension of the classes.
    """

    def __init__(self, num_classes: int, target_class_ids: Sequence[int], *,
                 ignore_class: int | None = None, sparse_y_pred: bool = False,
                 axis: int = -1) -> None:
        super().__init__(num_classes, target_class_ids, ignore_class=ignore_class,
                         sparse_y_true=False, sparse_y_pred=sparse_y_pred, axis=axis)


class OneHotMeanIoU(OneHotIoU):
    """:class:`MeanIoU` of scores and one-hot labels.

    Args:
        num_classes: the number of classes.
        ignore_class: a label to exclude.
        sparse_y_pred: predictions are class numbers.
        axis: the dimension of the classes.
    """

    def __init__(self, num_classes: int, *, ignore_class: int | None = None,
                 sparse_y_pred: bool = False, axis: int = -1) -> None:
        super().__init__(num_classes, range(num_classes), ignore_class=ignore_class,
                         sparse_y_pred=sparse_y_pred, axis=axis)


class BinaryIoU(IoU):
    """See how well a region covers the truth, from probabilities: the mean of both classes.

    Args:
        target_class_ids: (0, 1), or the one class that is measured.
        threshold: the probability from which on a position is class 1.

    Raises:
        ValueError: a class is neither 0 nor 1, or predictions and labels do not pair.

    Example:
        >>> metric = BinaryIoU()
        >>> metric.update(torch.tensor([0.1, 0.8, 0.2, 0.9]), torch.tensor([0, 0, 1, 1]))
        >>> round(metric.compute().item(), 4)
        0.3333
    """

    def __init__(self, target_class_ids: Sequence[int] = (0, 1), threshold: float = 0.5) -> None:
        super().__init__(2, target_class_ids)
        self.threshold = threshold

    def classes(self, preds: Tensor) -> Tensor:
        """Return 1 from the threshold on."""
        return preds >= self.threshold
