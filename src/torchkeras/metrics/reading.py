"""Reading of labels and predictions, as classes or as binary, from shapes and dtypes only."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.metrics.shapes import at_least_float32, shape_error, squeezed
from torchkeras.metrics.task import Task

UNKNOWN = -100  # torch's default ignore_index; never a class, and never a negative


class Classes(NamedTuple):
    """Scores of several classes, with the number of the true one for each row of them.

    Attributes:
        scores: with the classes along ``axis``.
        axis: the dimension of the classes.
        truth: ``(M,)``, in the order of the scores without that dimension; negative or NaN where it
            is unknown.
    """

    scores: Tensor
    axis: int
    truth: Tensor

    @property
    def size(self) -> int:
        """Return the number of classes."""
        return self.scores.shape[self.axis]

    def rows(self) -> Tensor:
        """Return the scores as ``(M, C)``."""
        return self.scores.movedim(self.axis, -1).reshape(-1, self.size)

    def numbers(self) -> Tensor:
        """Return the true classes as int64, with -100 for unknown ones."""
        truth = self.truth if self.truth.is_floating_point() else self.truth.long()
        return torch.where(truth >= 0, truth, UNKNOWN).long()

    def pair(self) -> tuple[Tensor, Tensor]:
        """Return the scores of the two classes that there are."""
        no, yes = self.scores.unbind(self.axis)
        return at_least_float32(no).reshape(-1), at_least_float32(yes).reshape(-1)


def as_classes(preds: Tensor, labels: Tensor, task: Task) -> Classes | None:
    """Return scores and true classes; None where each prediction is binary."""
    axis = class_axis(preds, labels, task)
    if axis is not None:
        return Classes(preds, axis, mask_left_out(labels.reshape(-1), task.left_out))
    axis = one_hot_axis(preds, labels, task)
    return None if axis is None else Classes(
        preds, axis, classes_of_one_hot(labels.reshape(preds.shape), axis, task.marks))


def class_axis(preds: Tensor, labels: Tensor, task: Task) -> int | None:
    """Return the class dimension for labels that are class numbers; None where there is none.

    Torch has the classes second, ``(N, C, ...)``; Keras and transformers last, ``(N, ..., C)``.
    """
    shape, own = preds.shape, labels.shape
    if len(shape) == 2 and len(own) == 1 and task.axis is None:  # the common case, quickly
        return 1 if shape[1] > 1 and shape[0] == own[0] else None
    if task.axis is not None:
        return given_axis(preds, labels, task.axis)
    fits = [dim for dim in {1, len(shape) - 1} if 0 < dim < len(shape) and shape[dim] > 1
            and fits_axis(shape, own, dim)]
    if len(fits) < 2:
        return fits[0] if fits else None
    if task.likely_axis is None:
        raise bad_value(
            "axis", received=f"scores of shape {tuple(shape)} with labels of shape {tuple(own)}",
            expected="shapes that determine the class dimension: it may be the second or the last",
            fix="Give a metric object with axis=1 or axis=-1, such as Accuracy(axis=1).")
    return task.likely_axis % len(shape)


def fits_axis(shape: torch.Size, labels: torch.Size, dim: int) -> bool:
    """Return whether labels have the shape of the predictions without a dimension."""
    return squeezed((*shape[:dim], *shape[dim + 1:])) == squeezed(labels)


def given_axis(preds: Tensor, labels: Tensor, axis: int) -> int | None:
    """Return the given axis as a number from 0 on; None where labels pair with predictions."""
    if -preds.dim() <= axis < preds.dim() and fits_axis(
            preds.shape, labels.shape, axis % preds.dim()):
        return axis % preds.dim()
    if squeezed(preds.shape) == squeezed(labels.shape):
        return None
    raise shape_error(preds, labels, f"one class number for the scores along dimension {axis}")


def one_hot_axis(preds: Tensor, labels: Tensor, task: Task) -> int | None:
    """Return the class dimension for labels of the predictions' shape; None if binary."""
    if task.one_hot is False or preds.dim() < 2 or squeezed(preds.shape) != squeezed(labels.shape):
        return None
    axis = task.axis if task.axis is not None else task.likely_axis
    if axis is None and (preds.dim() == 2 or task.one_hot is None):
        axis = 1
    if axis is None:
        raise bad_value("axis", received=f"one-hot labels of shape {tuple(labels.shape)}",
                        expected="the dimension of the classes",
                        fix="Give a metric object with axis=1 or axis=-1.")
    if not -preds.dim() <= axis < preds.dim():
        raise shape_error(preds, labels, f"a dimension {axis} of classes")
    if preds.shape[axis] < 2:
        return None
    if task.one_hot is None:
        raise bad_value(
            "metrics_dict",
            received=f"labels of the shape of the predictions, {tuple(preds.shape)}, and "
            "a loss that does not define what they mean",
            expected="a metric object that does",
            fix="Such as Accuracy(one_hot=True) for one-hot or mixed labels, "
            "Accuracy(one_hot=False) for a binary label in each column; the same for Precision, "
            "Recall, F1, AUC, AUCPR and KS.")
    return axis % preds.dim()


def mask_left_out(labels: Tensor, left_out: tuple[float, ...]) -> Tensor:
    """Return class numbers with the excluded ones set to -1 (negative ones are excluded too)."""
    for mark in left_out:
        if mark >= 0:
            # an unsigned type knows no -1
            labels = labels if labels.is_floating_point() else labels.long()
            labels = torch.where(labels == mark, -1, labels)
    return labels


def classes_of_one_hot(labels: Tensor, axis: int, marks: tuple[float, ...] = ()) -> Tensor:
    """Return the class with the largest share in each row; -1 for rows that are excluded."""
    share, number = (mask_left_out(labels, marks) if labels.is_floating_point() else
                     mask_left_out(labels.long(), marks)).max(axis)
    return torch.where(share > 0, number, -1).reshape(-1)
