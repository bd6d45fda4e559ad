"""Losses of probabilities, with Keras's names and values: ``loss(preds, labels)``."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from torchkeras.core.errors import bad_value, whole_number
from torchkeras.losses.base import (
    EPSILON,
    ElementLoss,
    Loss,
    check_tensors,
    check_vectors,
    shape_error,
)
from torchkeras.losses.robust import check_number


class BinaryCrossentropy(ElementLoss):
    """Learn binary labels, one or several per sample, with Keras's ``binary_crossentropy``.

    Probabilities are clipped to 1e-7 and 1 - 1e-7, which keeps the loss finite (about 16 at most),
    without a gradient beyond these limits; logits are not clipped.

    Args:
        from_logits: True when the net outputs logits, False when it outputs probabilities.
        reduction: "mean" over all samples, "sum", or "none".
        label_smoothing: the share, 0 to 1, by which labels move towards 0.5.

    Raises:
        ValueError: the reduction is unknown, label_smoothing is no share, or predictions and labels
            differ in shape.

    Example:
        >>> import torch
        >>> loss_fn = BinaryCrossentropy()
        >>> round(loss_fn(torch.tensor([[0.9], [0.1]]), torch.tensor([1, 0])).item(), 4)
        0.1054
    """

    task = "binary"

    def __init__(self, from_logits: bool = False, reduction: str = "mean",
                 label_smoothing: float = 0.0) -> None:
        super().__init__(reduction)
        check_number("label_smoothing", label_smoothing, "a share from 0 to 1", most=1)
        self.from_logits, self.label_smoothing = bool(from_logits), label_smoothing

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of each prediction."""
        if self.label_smoothing:
            labels = labels * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        if self.from_logits:
            return F.binary_cross_entropy_with_logits(preds, labels, reduction="none")
        return F.binary_cross_entropy(preds.clamp(EPSILON, 1 - EPSILON), labels, reduction="none")


class CategoricalCrossentropy(Loss):
    """Learn one of several classes from one-hot labels, or from shares of classes, as in Keras.

    Probabilities are divided by their sum, then clipped to 1e-7 and 1 - 1e-7; logits are not
    clipped.

    Args:
        from_logits: True when the net outputs logits, False when it outputs probabilities.
        reduction: "mean" over all samples, "sum", or "none".
        axis: the dimension of the classes: the last, as in Keras; 1 for ``(N, C, H, W)``.
        label_smoothing: the share, 0 to 1, that labels give to all classes alike.

    Raises:
        ValueError: the reduction is unknown, label_smoothing is no share, or predictions and labels
            differ in shape.

    Example:
        >>> import torch
        >>> loss_fn = CategoricalCrossentropy()
        >>> round(loss_fn(torch.tensor([[0.2, 0.8]]), torch.tensor([[0, 1]])).item(), 4)
        0.2231
    """

    task = "classes"

    def __init__(self, from_logits: bool = False, reduction: str = "mean", axis: int = -1,
                 label_smoothing: float = 0.0) -> None:
        super().__init__(reduction)
        whole_number("axis", axis, least=-10, most=10)
        check_number("label_smoothing", label_smoothing, "a share from 0 to 1", most=1)
        self.from_logits, self.axis = bool(from_logits), axis
        self.label_smoothing = label_smoothing

    def values(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of each sample."""
        check_tensors(preds, labels)
        if preds.shape != labels.shape or preds.dim() < 2:
            raise shape_error(preds, labels,
                              "one-hot labels of the shape of the predictions, such as (N, C)",
                              "For class numbers, use sparse_categorical_crossentropy.")
        scores = log_probabilities(preds, self.from_logits, self.axis)
        labels = labels.to(preds.dtype)
        if self.label_smoothing:
            labels = labels * (1 - self.label_smoothing) + (
                self.label_smoothing / preds.shape[self.axis])
        return -(labels * scores).sum(self.axis)


class SparseCategoricalCrossentropy(Loss):
    """Learn one of several classes from class numbers, as in Keras.

    The same values as ``CategoricalCrossentropy`` of the one-hot labels.

    Args:
        from_logits: True when the net outputs logits, False when it outputs probabilities.
        reduction: "mean" over all labels, "sum", or "none".
        axis: the dimension of the classes: the last, as in Keras; 1 for ``(N, C, H, W)``.
        ignore_class: a label that does not count, such as 255 or -1: its loss is 0, and the mean is
            over the others. Metrics given by name leave it out too.

    Raises:
        TypeError: ``ignore_class`` is no whole number.
        ValueError: the reduction is unknown, shapes do not fit, or a label is not a class of the
            net.

    Example:
        >>> import torch
        >>> loss_fn = SparseCategoricalCrossentropy()
        >>> round(loss_fn(torch.tensor([[0.2, 0.8]]), torch.tensor([1])).item(), 4)
        0.2231
    """

    task = "classes"

    def __init__(self, from_logits: bool = False, reduction: str = "mean", axis: int = -1,
                 ignore_class: int | None = None) -> None:
        super().__init__(reduction)
        whole_number("axis", axis, least=-10, most=10)
        whole_number("ignore_class", ignore_class, least=-2**63, most=2**63 - 1, optional=True)
        self.from_logits, self.axis = bool(from_logits), axis
        self.ignore_index = ignore_class  # torch's name for it

    def forward(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the reduced loss of a batch."""
        if self.ignore_index is None or self.reduction != "mean":
            return super().forward(preds, labels)
        return self.values(preds, labels).sum() / (labels != self.ignore_index).sum()

    def values(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of each label."""
        check_tensors(preds, labels)
        if labels.dim() == preds.dim() > 1 and labels.shape[self.axis] == 1:
            labels = labels.squeeze(self.axis)
        if preds.dim() < 2 or labels.shape != preds.select(self.axis, 0).shape:
            raise shape_error(
                preds, labels, f"class numbers, one for the scores along dimension {self.axis}",
                "For channels first, (N, C, ...), use axis=1; for one-hot labels, "
                "categorical_crossentropy.")
        index, scores = labels.long(), log_probabilities(preds, self.from_logits, self.axis)
        used = None if self.ignore_index is None else index != self.ignore_index
        index = index if used is None else index * used
        try:
            losses = -scores.gather(self.axis, index.unsqueeze(self.axis)).squeeze(self.axis)
        except RuntimeError:  # an accelerator ends the program instead
            check_classes(index, preds.shape[self.axis])
            raise
        return losses if used is None else losses.where(used, losses.new_zeros(()))


class KLDivergence(Loss):
    """Fit one distribution to another: the sum of label x log(label / prediction), as in Keras.

    Both are probabilities along the last dimension, taken as at least 1e-7 and at most 1.

    Args:
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: the reduction is unknown, or predictions and labels are not both
            ``(N, ..., C)``.

    Example:
        >>> import torch
        >>> round(KLDivergence()(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])).item(), 4)
        0.3681
    """

    task, from_logits, axis = "classes", False, -1

    def values(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the divergence of each sample."""
        check_vectors(preds, labels)
        truth, guess = (one.clamp(EPSILON, 1) for one in (labels.to(preds.dtype), preds))
        return (truth * (truth / guess).log()).sum(-1)


def log_probabilities(preds: Tensor, from_logits: bool, axis: int) -> Tensor:
    """Return the logarithm of the probability of each class."""
    if from_logits:
        return preds.log_softmax(axis)
    return (preds / preds.sum(axis, keepdim=True)).clamp(EPSILON, 1 - EPSILON).log()


def check_classes(labels: Tensor, classes: int) -> None:
    """Refuse labels that are not class numbers of the net."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.numel():
        raise bad_value("labels",
                        received=f"the class {int(wrong[0])} for scores of {classes} classes",
                        expected=f"classes from 0 to {classes - 1}",
                        fix="Count classes from 0, or widen the net.")
