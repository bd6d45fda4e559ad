"""IOU: how well predicted regions cover the true ones."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value, check_bool, whole_number
from torchkeras.core.screen import print_safely
from torchkeras.metrics.base import Metric, MetricState
from torchkeras.metrics.reading import Classes, as_classes, mask_left_out
from torchkeras.metrics.shapes import paired, shape_error
from torchkeras.metrics.task import Task
from torchkeras.metrics.yesno import Threshold


class IOU(Metric):
    """See how well a segmentation covers the truth: the mean intersection over union.

    A class in neither predictions nor labels has no union and is excluded from the mean. Positions
    whose label is no class (NaN, negative, ``num_classes`` and above, ``ignore_index``) are
    excluded too; when there are no others, the value is 0. A prediction that is NaN has no class,
    so its position counts for the union of the true class only.

    Intersection over union is the Jaccard index (1901).

    Args:
        num_classes: the number of classes, the background included. 1 means 2, as in older
            versions: one score per position.
        threshold: with two classes and one score per position, the probability above which it is
            class 1.
        from_logits: whether such a score is a logit or a probability.
        axis: the class dimension, where the shapes do not determine it: 1 or -1.
        ignore_index: one more label to exclude, such as 0.
        if_print: print the share of right positions and the value of each class whenever the value
            of an epoch is computed.

    Raises:
        ValueError: ``num_classes`` is below 1, or shapes are neither scores ``(N, C, ...)`` or
            ``(N, ..., C)`` with labels ``(N, ...)``, nor class numbers (or, for two classes, single
            scores) one to one with labels.

    Example:
        >>> metric = IOU(num_classes=3)
        >>> metric.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 1]]))
        >>> round(metric.compute().item(), 4)
        0.5833
    """

    higher_is_better = True
    cheap = True

    def __init__(self, num_classes: int, threshold: float = 0.5, from_logits: bool = True, *,
                 axis: int | None = None, ignore_index: int | None = None,
                 if_print: bool = False) -> None:
        super().__init__()
        whole_number("num_classes", num_classes, least=1)
        check_bool("if_print", if_print)
        num_classes = max(num_classes, 2)
        self.num_classes, self.cut = num_classes, Threshold(threshold, from_logits)
        self.if_print, self.cheap = if_print, not if_print  # a cheap one is computed more often
        self.task = Task(one_hot=False, axis=axis, ignore_index=ignore_index)
        self.add_sum("confusion", (num_classes, num_classes))
        self.add_sum("missed", (num_classes,))
        self.add_sum("seen")

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return counts by true class (row) and predicted class, and those predicted as NaN."""
        found = as_classes(preds, labels, self.task)
        if found is None:
            scores, truth = paired(preds, labels)
            found = Classes(scores, 0, mask_left_out(truth, self.task.left_out))
            classes, sound = self.decided(scores, preds, labels)
        else:
            classes, sound = self.highest(found)
        truth, size = found.numbers(), self.num_classes
        valid = self.is_class(truth) & (self.is_class(classes) | ~sound)
        classes = torch.where(sound, classes, size)
        # One more bin for excluded positions; bincount would wait for the device.
        cells = torch.where(valid, truth * (size + 1) + classes, size * (size + 1))
        bins = torch.zeros(size * (size + 1) + 1, dtype=torch.int64, device=preds.device)
        table = bins.scatter_add(0, cells, torch.ones_like(cells))[:-1].view(size, size + 1)
        return {"confusion": table[:, :-1], "missed": table[:, -1], "seen": truth.numel()}

    def highest(self, found: Classes) -> tuple[Tensor, Tensor]:
        """Return the class with the highest score at every position, and whether it is not NaN."""
        if found.size != self.num_classes:
            raise bad_value(
                "preds",
                received=f"scores of {found.size} classes, shape {tuple(found.scores.shape)}",
                expected=f"num_classes={self.num_classes}")
        best, classes = found.scores.max(found.axis)
        return classes.reshape(-1), (best == best).reshape(-1)

    def decided(self, scores: Tensor, preds: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the class at every position from class numbers or single scores, and if valid."""
        if not scores.is_floating_point():
            return scores.long(), torch.ones_like(scores, dtype=torch.bool)
        if self.num_classes != 2:
            raise shape_error(preds, labels,
                              f"scores (N, {self.num_classes}, ...) with labels (N, ...)")
        yes, no = self.cut(scores)
        return yes.long(), yes | no

    def is_class(self, numbers: Tensor) -> Tensor:
        """Return which numbers are those of a class."""
        return (numbers >= 0) & (numbers < self.num_classes)

    def value(self, state: MetricState) -> Tensor:
        """Return the mean over classes with a union."""
        overlap, union = areas(state)
        mean = (overlap / union.clamp(min=1)).sum() / (union > 0).sum().clamp(min=1)
        return torch.where(state["seen"] > 0, mean, torch.nan)

    def compute(self) -> Tensor:
        """Return the value, and print its parts if asked."""
        if self.if_print:
            found = {name: total.cpu() for name, total in self.state().items()}
            overlap, union = areas(found)
            each = ["none" if not whole else f"{part / whole:.4f}"
                    for part, whole in zip(overlap.tolist(), union.tolist(), strict=True)]
            counted = (found["confusion"].sum() + found["missed"].sum()).clamp(min=1)
            print_safely(f"right: {overlap.sum() / counted:.4f}, IoU of each class: "
                         + ", ".join(each))
        value: Tensor = super().compute()
        return value


def areas(state: MetricState) -> tuple[Tensor, Tensor]:
    """Return the size of intersection and union of each class."""
    confusion = state["confusion"].double()
    overlap = confusion.diagonal()
    return overlap, confusion.sum(0) + confusion.sum(1) + state["missed"] - overlap
