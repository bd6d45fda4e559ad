"""Accuracy under Keras's names: by the form of the labels, or by the shapes."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from torchkeras.core.errors import whole_number
from torchkeras.metrics.classification import Accuracy, TopK
from torchkeras.metrics.reading import Classes, classes_of_one_hot, fits_axis, mask_left_out
from torchkeras.metrics.shapes import paired, shape_error
from torchkeras.metrics.task import Task


class BinaryAccuracy(Accuracy):
    """See the share of correct predictions where each prediction is binary.

    See :class:`Accuracy` for which labels are excluded.

    Args:
        threshold: the probability above which a prediction is positive; labels are positive from
            0.5 on.
        from_logits: True when the net's outputs are logits, False when they are probabilities.

    Raises:
        ValueError: ``threshold`` is not between 0 and 1, or predictions and labels differ in shape.

    Example:
        >>> import torch
        >>> metric = BinaryAccuracy(from_logits=False)
        >>> metric.update(torch.tensor([[0.9, 0.2], [0.4, 0.6]]), torch.tensor([[1, 0], [1, 1]]))
        >>> metric.compute().item()
        0.75
    """

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return decision counts by label."""
        scores, truth = paired(preds, labels)
        return self.count_single(scores, truth)


class CategoricalAccuracy(Accuracy):
    """See how often the highest score is that of the true class, with one-hot labels.

    Args:
        axis: the dimension of the classes: the last, as in Keras; 1 for ``(N, C, H, W)``.

    Raises:
        ValueError: predictions and labels differ in shape.

    Example:
        >>> import torch
        >>> metric = CategoricalAccuracy()
        >>> metric.update(torch.tensor([[0.2, 0.8], [0.7, 0.3]]), torch.tensor([[0, 1], [0, 1]]))
        >>> metric.compute().item()
        0.5
    """

    def __init__(self, axis: int = -1) -> None:
        super().__init__()
        whole_number("axis", axis, least=-10, most=10)
        self.axis = axis

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return the number of correct and of all predictions."""
        return self.of_classes(of_one_hot(preds, labels, self.axis))


class SparseCategoricalAccuracy(Accuracy):
    """See how often the highest score is that of the true class, with class numbers as labels.

    Positions with a negative label, NaN or ``ignore_index`` are excluded.

    Args:
        axis: the dimension of the classes: the last, as in Keras; 1 for ``(N, C, H, W)``.
        ignore_index: one more label to exclude, such as 255 or 0.

    Raises:
        ValueError: labels are not one number for each row of scores.

    Example:
        >>> import torch
        >>> metric = SparseCategoricalAccuracy()
        >>> metric.update(torch.tensor([[0.2, 0.8], [0.7, 0.3]]), torch.tensor([1, 1]))
        >>> metric.compute().item()
        0.5
    """

    def __init__(self, axis: int = -1, ignore_index: int | None = None) -> None:
        super().__init__(ignore_index=ignore_index)
        whole_number("axis", axis, least=-10, most=10)
        self.axis = axis

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return the number of correct and of all predictions."""
        return self.of_classes(of_numbers(preds, labels, self.axis, self.task.left_out))


class TopKCategoricalAccuracy(TopK):
    """See how often the true class (one-hot labels) is among the net's k best guesses.

    Args:
        k: the number of guesses.
        axis: the dimension of the classes: the last, as in Keras; 1 for ``(N, C, H, W)``.

    Raises:
        ValueError: ``k`` is below 1 or above the number of classes, or predictions and labels
            differ in shape.

    Example:
        >>> import torch
        >>> metric = TopKCategoricalAccuracy(k=2)
        >>> metric.update(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0, 1, 0]]))
        >>> metric.compute().item()
        1.0
    """

    def __init__(self, k: int = 5, axis: int = -1) -> None:
        super().__init__(k)
        whole_number("axis", axis, least=-10, most=10)
        self.axis = axis

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return the number of labels among the k best, and of known labels."""
        return self.of_classes(of_one_hot(preds, labels, self.axis))


class SparseTopKCategoricalAccuracy(TopK):
    """See how often the true class (class numbers as labels) is among the net's k best guesses.

    Positions with a negative label, NaN or ``ignore_index`` are excluded.

    Args:
        k: the number of guesses.
        axis: the dimension of the classes: the last, as in Keras; 1 for ``(N, C, H, W)``.
        ignore_index: one more label to exclude, such as 255 or 0.

    Raises:
        ValueError: ``k`` is below 1 or above the number of classes, or labels are not one number
            for each row.

    Example:
        >>> import torch
        >>> metric = SparseTopKCategoricalAccuracy(k=2)
        >>> metric.update(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([1]))
        >>> metric.compute().item()
        1.0
    """

    def __init__(self, k: int = 5, axis: int = -1, ignore_index: int | None = None) -> None:
        super().__init__(k, ignore_index=ignore_index)
        whole_number("axis", axis, least=-10, most=10)
        self.axis = axis

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return the number of labels among the k best, and of known labels."""
        return self.of_classes(of_numbers(preds, labels, self.axis, self.task.left_out))


class AccuracyByShape(Accuracy):
    """See the share of correct predictions, read by shape, which is what "accuracy" means in Keras.

    Predictions ``(N,)`` or ``(..., 1)`` are binary. Of others the highest score along the last
    dimension is the predicted class. It is compared with class numbers when labels have one
    dimension less (or a last one of size 1), and with the highest of one-hot labels when they have
    the same shape. Scores ``(N, C, ...)`` with the classes second are recognised by labels
    ``(N, ...)``. Unlike ``Accuracy``, this reads labels of several columns as one-hot.

    Args:
        threshold: the probability above which a binary prediction is positive; labels are positive
            from 0.5 on.
        from_logits: True when the net's outputs are logits, False when they are probabilities.
        task: labels and predictions as a loss defines them; where it says classes or binary, that
            decides.

    Raises:
        ValueError: ``threshold`` is not between 0 and 1, or shapes do not fit.

    Example:
        >>> import torch
        >>> metric = AccuracyByShape()
        >>> metric.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([[1, 0], [1, 0]]))
        >>> metric.compute().item()
        0.5
    """

    def __init__(self, threshold: float = 0.5, from_logits: bool = True, *,
                 task: Task | None = None) -> None:
        by_shape = Task(from_logits=bool(from_logits)) if task is None else task
        if by_shape.kind not in ("classes", "binary"):
            by_shape = replace(by_shape, one_hot=True, likely_axis=-1)
        super().__init__(threshold, task=by_shape)


def of_one_hot(preds: Tensor, labels: Tensor, axis: int) -> Classes:
    """Return scores and true classes from one-hot labels of the shape of the scores."""
    if preds.shape != labels.shape or not -preds.dim() <= axis < preds.dim() or preds.dim() < 2:
        raise shape_error(
            preds, labels, "one-hot labels of the shape of the predictions, or class numbers "
            "for a sparse metric")
    return Classes(preds, axis % preds.dim(), classes_of_one_hot(labels, axis))


def of_numbers(preds: Tensor, labels: Tensor, axis: int, left_out: tuple[float, ...]) -> Classes:
    """Return scores and true classes from one class number for each row of scores."""
    dim = axis % max(preds.dim(), 1)
    if preds.dim() < 2 or not -preds.dim() <= axis < preds.dim() or not fits_axis(
            preds.shape, labels.shape, dim):
        raise shape_error(preds, labels, f"one class number for the scores along dimension {axis}")
    return Classes(preds, dim, mask_left_out(labels.reshape(-1), left_out))
