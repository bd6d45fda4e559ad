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


class BinaryCrossentropy(ElementLoss):
    """Learn binary labels, one or several per sample, with Keras's ``binary_crossentropy``.

    Probabilities are clipped to 1e-7 and 1 - 1e-7, which keeps the loss finite (about 16 at most),
    without a gradient beyond these limits; logits are not clipped.

    Args:
        from_logits: True when the net outputs logits, False when it outputs probabilities.
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: the reduction is unknown, or predictions and labels differ in shape.

    Example:
        >>> import torch
        >>> loss_fn = BinaryCrossentropy()
        >>> round(loss_fn(torch.tensor([[0.9], [0.1]]), torch.tensor([1, 0])).item(), 4)
        0.1054
    """

    task = "binary"

    def __init__(self, from_logits: bool = False, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.from_logits = bool(from_logits)

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of each prediction."""
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

    Raises:
        ValueError: the reduction is unknown, or predictions and labels differ in shape.

    Example:
        >>> import torch
        >>> loss_fn = CategoricalCrossentropy()
        >>> round(loss_fn(torch.tensor([[0.2, 0.8]]), torch.tensor([[0, 1]])).item(), 4)
        0.2231
    """

    task = "classes"

    def __init__(self, from_logits: bool = False, reduction: str = "mean", axis: int = -1) -> None:
        super().__init__(reduction)
        whole_number("axis", axis, least=-10, most=10)
        self.from_logits, self.axis = bool(from_logits), axis

    def values(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the cross entropy of each sample."""
        check_tensors(preds, labels)
        if preds.shape != labels.shape or preds.dim() < 2:
            raise shape_error(preds, labels,
                              "one-hot labels of the shape of the predictions, such as (N, C)",
                              "For class numbers, use sparse_categorical_crossentropy.")
        scores = log_probabilities(preds, self.from_logits, self.axis)
        return -(labels.to(preds.dtype) * scores).sum(self.axis)


class SparseCategoricalCrossentropy(Loss):
    """Learn one of several classes from class numbers, as in Keras.

    The same values as ``CategoricalCrossentropy`` of the one-hot labels.

    Args:
        from_logits: True when the net outputs logits, False when it outputs probabilities.
        reduction: "mean" over all labels, "sum", or "none".
        axis: the dimension of the classes: the last, as in Keras; 1 for ``(N, C, H, W)``.

    Raises:
        ValueError: the reduction is unknown, shapes do not fit, or a label is not a class of the
            net.

    Example:
        >>> import torch
        >>> loss_fn = SparseCategoricalCrossentropy()
        >>> round(loss_fn(torch.tensor([[0.2, 0.8]]), torch.tensor([1])).item(), 4)
        0.2231
    """

    task = "classes"

    def __init__(self, from_logits: bool = False, reduction: str = "mean", axis: int = -1) -> None:
        super().__init__(reduction)
        whole_number("axis", axis, least=-10, most=10)
        self.from_logits, self.axis = bool(from_logits), axis

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
        try:
            return -scores.gather(self.axis, index.unsqueeze(self.axis)).squeeze(self.axis)
        except RuntimeError:  # an accelerator ends the program instead
            check_classes(index, preds.shape[self.axis])
            raise


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
