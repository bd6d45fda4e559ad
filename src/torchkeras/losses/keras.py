"""Losses under Keras's names and with Keras's values, called in torch's order: ``loss(preds, labels)``."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from torchkeras.engine.checks import bad_value, positive_number, whole_number
from torchkeras.losses.base import Loss, check_tensors, mismatch, reduced
from torchkeras.metrics.shapes import layout

EPSILON = 1e-7  # Keras's keras.config.epsilon()


class ElementLoss(Loss):
    """A loss of each number; a sample's is the mean over its last dimension, so "none" gives one dimension less.

    Predictions and labels pair as in Keras: ``(N, 1)`` goes with ``(N,)``, and ``(N,)`` with ``(N,)`` reads as
    ``(N, 1)``.
    """

    def forward(self, preds: Tensor, labels: Tensor) -> Tensor:
        """The losses of a batch, reduced."""
        elements = self.elements(*in_rows(preds, labels))
        return elements.mean() if self.reduction == "mean" else reduced(elements.mean(-1), self.reduction)

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """The loss of each number."""
        raise NotImplementedError


class BinaryCrossentropy(ElementLoss):
    """Learn yes or no, or several of them a sample, with Keras's ``binary_crossentropy``.

    Probabilities are clipped to 1e-7 from 0 and 1 on, which keeps the loss finite (about 16 at most) and leaves what is
    beyond without a gradient; from logits nothing is clipped.

    Args:
        from_logits: True when the net puts out logits, False when it puts out probabilities.
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
        """Cross entropy of each answer."""
        if self.from_logits:
            return F.binary_cross_entropy_with_logits(preds, labels, reduction="none")
        return F.binary_cross_entropy(preds.clamp(EPSILON, 1 - EPSILON), labels, reduction="none")


class CategoricalCrossentropy(Loss):
    """Learn one of several classes from one-hot labels, or from shares of classes, as in Keras.

    Probabilities are divided by their sum, then clipped to 1e-7 from 0 and 1 on; from logits nothing is clipped.

    Args:
        from_logits: True when the net puts out logits, False when it puts out probabilities.
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
        """Cross entropy of each sample."""
        check_tensors(preds, labels)
        if preds.shape != labels.shape or preds.dim() < 2:
            raise mismatch(preds, labels, "one-hot labels of the shape of the predictions, such as (N, C)",
                           "For class numbers, use sparse_categorical_crossentropy.")
        return -(labels.to(preds.dtype) * log_shares(preds, self.from_logits, self.axis)).sum(self.axis)


class SparseCategoricalCrossentropy(Loss):
    """Learn one of several classes from class numbers, as in Keras.

    The same values as ``CategoricalCrossentropy`` of the one-hot labels.

    Args:
        from_logits: True when the net puts out logits, False when it puts out probabilities.
        reduction: "mean" over all labels, "sum", or "none".
        axis: the dimension of the classes: the last, as in Keras; 1 for ``(N, C, H, W)``.

    Raises:
        ValueError: the reduction is unknown, shapes do not belong together, or a label is no class of the net.

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
        """Cross entropy of each label."""
        check_tensors(preds, labels)
        if labels.dim() == preds.dim() > 1 and labels.shape[self.axis] == 1:
            labels = labels.squeeze(self.axis)
        if preds.dim() < 2 or labels.shape != preds.select(self.axis, 0).shape:
            raise mismatch(preds, labels, f"class numbers, one for the scores along dimension {self.axis}",
                           "For channels first, (N, C, ...), use axis=1; for one-hot labels, categorical_crossentropy.")
        index, scores = labels.long(), log_shares(preds, self.from_logits, self.axis)
        try:
            return -scores.gather(self.axis, index.unsqueeze(self.axis)).squeeze(self.axis)
        except RuntimeError:  # an accelerator ends the program instead
            check_classes(index, preds.shape[self.axis])
            raise


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
        """Squared differences."""
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
        """Absolute differences."""
        return F.l1_loss(preds, labels, reduction="none")


class MeanAbsolutePercentageError(ElementLoss):
    """Fit numbers of very different size: the mean error in percent of the label, as in Keras.

    A label of 0 is divided by 1e-7. The metric ``MAPE`` gives a share of 1 instead of percent.

    Args:
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: the reduction is unknown, or predictions and labels differ in shape.

    Example:
        >>> import torch
        >>> round(MeanAbsolutePercentageError()(torch.tensor([1.1, 2.0]), torch.tensor([1.0, 4.0])).item(), 2)
        30.0
    """

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Percent of each label."""
        return 100 * (preds - labels).abs() / labels.abs().clamp(min=EPSILON)


class Huber(ElementLoss):
    """Fit numbers with a few outliers: squared up to ``delta``, straight from there on, as in Keras.

    Args:
        delta: the error at which the parabola goes over into a line.
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: ``delta`` is not above 0, the reduction is unknown, or predictions and labels differ in shape.

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
        """Halved squares, then lines."""
        return F.huber_loss(preds, labels, reduction="none", delta=self.delta)


class KLDivergence(Loss):
    """Fit one distribution to another: the sum of label x log(label / prediction), as in Keras.

    Both are probabilities along the last dimension, taken as at least 1e-7 and at most 1.

    Args:
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: the reduction is unknown, or predictions and labels are not both ``(N, ..., C)``.

    Example:
        >>> import torch
        >>> round(KLDivergence()(torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1]])).item(), 4)
        0.3681
    """

    task, from_logits, axis = "classes", False, -1

    def values(self, preds: Tensor, labels: Tensor) -> Tensor:
        """The divergence of each sample."""
        vectors(preds, labels)
        truth, guess = (one.clamp(EPSILON, 1) for one in (labels.to(preds.dtype), preds))
        return (truth * (truth / guess).log()).sum(-1)


class CosineSimilarity(Loss):
    """Fit directions, whatever the lengths: minus the cosine between prediction and label, as in Keras.

    From -1 for the same direction to 1 for the opposite one; 0 where either vector is zero.

    Args:
        reduction: "mean" over all samples, "sum", or "none".
        axis: the dimension of the vectors.

    Raises:
        ValueError: the reduction is unknown, or predictions and labels are not both ``(N, ..., D)``.

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
        """Minus the cosine of each pair."""
        vectors(preds, labels)
        given, truth = (F.normalize(one, dim=self.axis, eps=EPSILON) for one in (preds, labels.to(preds.dtype)))
        return -(given * truth).sum(self.axis)


def in_rows(preds: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and labels of one shape and type, with at least two dimensions."""
    check_tensors(preds, labels)
    if preds.shape != labels.shape:
        if layout(preds) != layout(labels):
            raise mismatch(preds, labels, "one label a prediction, such as (N, 1) with labels (N,)")
        shape = min(preds.shape, labels.shape, key=len)
        preds, labels = preds.reshape(shape), labels.reshape(shape)
    if preds.dim() < 2:
        preds, labels = preds.reshape(-1, 1), labels.reshape(-1, 1)
    return preds, labels.to(preds.dtype)


def log_shares(preds: Tensor, from_logits: bool, axis: int) -> Tensor:
    """The logarithm of the probability of each class."""
    if from_logits:
        return preds.log_softmax(axis)
    return (preds / preds.sum(axis, keepdim=True)).clamp(EPSILON, 1 - EPSILON).log()


def vectors(preds: Tensor, labels: Tensor) -> None:
    """Refuse what are no vectors of one shape."""
    check_tensors(preds, labels)
    if preds.shape != labels.shape or preds.dim() < 2:
        raise mismatch(preds, labels, "vectors of one shape, (N, ..., D)")


def check_classes(labels: Tensor, classes: int) -> None:
    """Refuse labels that are no class."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if wrong.numel():
        raise bad_value("labels", received=f"the class {int(wrong[0])} for scores of {classes} classes",
                        expected=f"classes from 0 to {classes - 1}", fix="Count classes from 0, or widen the net.")
