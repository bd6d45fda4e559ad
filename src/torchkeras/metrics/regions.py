"""How well predicted regions cover the true ones: IOU."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.engine.checks import bad_value, whole_number
from torchkeras.metrics.base import Metric, State
from torchkeras.metrics.shapes import Cut, is_class_scores, mismatch, paired


class IOU(Metric):
    """See how well a segmentation covers the truth: intersection over union, averaged over the classes that occur.

    A class in neither predictions nor labels has no union and is left out of the mean. Places whose label is no class
    (negative, or ``num_classes`` and above) are left out too; when nothing else is there, the value is 0.

    Intersection over union is the index of Jaccard (1901).

    Args:
        num_classes: the number of classes, the background included.
        threshold: with two classes and one score a place, the probability from which on it is class 1.
        from_logits: whether such a score is a logit or a probability.

    Raises:
        ValueError: ``num_classes`` is below 2, or shapes are neither scores ``(N, C, ...)`` with labels ``(N, ...)``,
            nor class numbers (or, for two classes, single scores) one to one with labels.

    Example:
        >>> metric = IOU(num_classes=3)
        >>> metric.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 1]]))
        >>> round(metric.compute().item(), 4)
        0.5833
    """

    higher_is_better = True
    cheap = True

    def __init__(self, num_classes: int, threshold: float = 0.5, from_logits: bool = True) -> None:
        super().__init__()
        whole_number("num_classes", num_classes, least=2)
        self.num_classes, self.cut = num_classes, Cut(threshold, from_logits)
        self.add_sum("confusion", (num_classes, num_classes))
        self.add_sum("seen")

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Places by true class (row) and predicted class (column)."""
        classes, truth = self.classes(preds, labels), labels.reshape(-1).long()
        valid = self.is_class(truth) & self.is_class(classes)
        # One bin more takes what is left out; bincount would wait for the device.
        cells = torch.where(valid, truth * self.num_classes + classes, self.num_classes**2)
        bins = torch.zeros(self.num_classes**2 + 1, dtype=torch.int64, device=preds.device)
        bins.scatter_add_(0, cells, torch.ones_like(cells))
        return {"confusion": bins[:-1].view(self.num_classes, self.num_classes), "seen": truth.numel()}

    def classes(self, preds: Tensor, labels: Tensor) -> Tensor:
        """The predicted class of every place."""
        if is_class_scores(preds, labels):
            if preds.shape[1] != self.num_classes:
                raise bad_value("preds", received=f"scores of {preds.shape[1]} classes, shape {tuple(preds.shape)}",
                                expected=f"num_classes={self.num_classes}")
            return preds.argmax(1).reshape(-1)
        scores, _ = paired(preds, labels)
        if not scores.is_floating_point():
            return scores.long()
        if self.num_classes != 2:
            raise mismatch(preds, labels, f"scores (N, {self.num_classes}, ...) with labels (N, ...)")
        return self.cut(scores).long()

    def is_class(self, numbers: Tensor) -> Tensor:
        """Which numbers are those of a class."""
        return (numbers >= 0) & (numbers < self.num_classes)

    def value(self, state: State) -> Tensor:
        """The mean over classes with a union."""
        confusion = state["confusion"].double()
        overlap = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - overlap
        mean = (overlap / union.clamp(min=1)).sum() / (union > 0).sum().clamp(min=1)
        return torch.where(state["seen"] > 0, mean, torch.nan)
