"""Accuracy and TopK."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value, whole_number
from torchkeras.metrics.answers import BinaryCounts
from torchkeras.metrics.base import MetricState
from torchkeras.metrics.reading import Classes, as_classes
from torchkeras.metrics.shapes import paired, shape_error
from torchkeras.metrics.task import Task, task_from_arguments
from torchkeras.metrics.task_metric import TaskMetric
from torchkeras.metrics.yesno import ANY, NO, YES


class Accuracy(BinaryCounts):
    """See the share of correct predictions, for two classes, many classes, or many labels at once.

    The shapes decide. Predictions of the shape of the labels (``(N, 1)`` and ``(N,)`` are the same)
    are binary, as in a binary or a multi-label task. Predictions with one dimension more than the
    labels are scores of C classes, ``(N, C, ...)`` or ``(N, ..., C)``, of which the highest is the
    predicted class. Labels of the shape of the predictions can also be one-hot, or mixed from
    several classes: then pass ``one_hot=True``, and the highest score is compared with the largest
    share. A metric given to a model by name takes this from the loss.

    Unknown labels are excluded: NaN, ``ignore_index``, and every negative number; but -1 means
    "negative" where predictions are binary and there is no label of 0 in the whole pass. Rows of
    one-hot labels that are all 0 are excluded. A prediction that is NaN is never correct; nor is
    one for a label beyond the classes of the net.

    Args:
        threshold: the probability above which a binary prediction is positive; labels are positive
            from 0.5 on.
        from_logits: True when the net's outputs are logits, False when they are probabilities.
        one_hot: what labels of the shape of the predictions are, where there are several columns:
            False: one binary label each; True: one-hot or mixed; None: such labels are refused.
        axis: the class dimension, where the shapes do not determine it: 1 or -1.
        ignore_index: one more label to exclude, such as 255 or 0.
        task: all of this as a loss defines it, in place of the other arguments except the
            threshold.

    Raises:
        ValueError: ``threshold`` is not between 0 and 1, shapes do not fit or fit two readings, or
            (in ``compute``) binary labels are neither 0 and 1, nor -1 and 1, nor probabilities.

    Example:
        >>> metric = Accuracy()
        >>> metric.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        >>> metric.compute().item()
        0.5
        >>> preds = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
        >>> labels = torch.tensor([[0.7, 0.3], [1.0, 0.0]])
        >>> Accuracy(one_hot=True)(preds, labels).item()
        0.5
    """

    higher_is_better = True
    cheap = True

    def __init__(self, threshold: float = 0.5, from_logits: bool = True, *,
                 one_hot: bool | None = False, axis: int | None = None,
                 ignore_index: int | None = None, task: Task | None = None) -> None:
        super().__init__()
        self.add_sum("correct")
        self.add_sum("seen")
        self.set_up(threshold, task_from_arguments(task, from_logits, axis, ignore_index, one_hot))

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return the number of correct and of all predictions; binary ones by label."""
        found = as_classes(preds, labels, self.task)
        if found is None:
            return self.count_single(*paired(preds, labels))
        return self.of_classes(found)

    def of_classes(self, found: Classes) -> dict[str, Tensor | int]:
        """Return the number of correct predictions, and of known classes."""
        best, answers = found.scores.max(found.axis)
        right = answers.reshape(-1) == found.truth
        if best.is_floating_point():
            right &= (best == best).reshape(-1)  # max() returns NaN where there is one
        return {"correct": right.count_nonzero(), "seen": (found.truth >= 0).count_nonzero()}

    def value(self, state: MetricState) -> Tensor:
        """Return correct over all predictions."""
        yes, no = self.resolve(state)
        correct = state["correct"] + yes[YES] + no[NO]
        return correct.double() / (state["seen"] + yes[ANY] + no[ANY])


class TopK(TaskMetric):
    """See how often the true class is among the net's k best guesses.

    Of equal scores the class with the lower number comes first, so ``TopK(1)`` is ``Accuracy``.
    Labels are read and excluded as there; one whose score is NaN counts as missed.

    Args:
        k: the number of guesses.
        one_hot: True when labels of the shape of the predictions are one-hot or mixed; else they
            are refused.
        axis: the class dimension, where the shapes do not determine it: 1 or -1.
        ignore_index: one more label to exclude, such as 255 or 0.
        task: all of this as a loss defines it, in place of the arguments except k.

    Raises:
        ValueError: ``k`` is below 1 or above the number of classes, or predictions are no scores of
            classes, ``(N, C, ...)`` or ``(N, ..., C)``, for their labels.

    Example:
        >>> metric = TopK(k=2)
        >>> metric.update(torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]), torch.tensor([1, 2]))
        >>> metric.compute().item()
        0.5
    """

    higher_is_better = True
    cheap = True

    def __init__(self, k: int = 5, *, one_hot: bool | None = False, axis: int | None = None,
                 ignore_index: int | None = None, task: Task | None = None) -> None:
        super().__init__()
        whole_number("k", k, least=1)
        self.k, self.task = k, task_from_arguments(task, True, axis, ignore_index, one_hot)
        self.add_sum("correct")
        self.add_sum("seen")

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return the number of labels among the k best, and of known labels."""
        found = as_classes(preds, labels, self.task)
        if found is None:
            raise shape_error(preds, labels, "scores (N, C, ...) of C classes with labels (N, ...)")
        return self.of_classes(found)

    def of_classes(self, found: Classes) -> dict[str, Tensor | int]:
        """Return the same for scores and true classes."""
        if self.k > found.size:
            raise bad_value("k", received=self.k,
                            expected=f"at most the number of classes, {found.size}",
                            fix="Give a metric object with a smaller k, such as TopK(2).")
        scores, truth = found.rows(), found.numbers()[:, None]
        known = truth.clamp(0, found.size - 1)  # an index outside would end a CUDA program
        own = scores.gather(1, known)
        number = torch.arange(found.size, device=scores.device)
        passed = (scores < own) | ((scores == own) & (number >= known))
        hits = (passed.sum(1, keepdim=True) > found.size - self.k) & (known == truth)
        return {"correct": hits.count_nonzero(), "seen": (truth >= 0).count_nonzero()}

    def value(self, state: MetricState) -> Tensor:
        """Return hits of all labels."""
        return state["correct"].double() / state["seen"]
