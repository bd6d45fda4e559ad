"""How often the net is right: Accuracy and TopK."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value, whole_number
from torchkeras.metrics.answers import Answers
from torchkeras.metrics.base import Metric, State
from torchkeras.metrics.reading import Classes, as_classes
from torchkeras.metrics.shapes import mismatch, paired
from torchkeras.metrics.task import Task, asked
from torchkeras.metrics.yesno import ANY, NO, YES


class Accuracy(Answers):
    """See the share of right answers, for two classes, many classes, or many labels at once.

    The shapes decide. Predictions of the shape of the labels (``(N, 1)`` and ``(N,)`` are the same) are yes or no each,
    as in a binary or a multi-label task. Predictions with a dimension more than the labels are scores of C classes,
    ``(N, C, ...)`` or ``(N, ..., C)``, of which the highest is the answer. Labels of the shape of the predictions can
    also be one-hot, or mixed from several classes: then say ``one_hot=True``, and the highest score is compared with
    the largest share. By name, in a model, the loss says it.

    Labels that mean "not known" are left out: NaN, ``ignore_index``, and every negative number; but -1 means "no" where
    predictions are yes or no each and there is no label of 0 in the whole pass. A row of one-hot labels without a share
    is left out.
    A prediction that is NaN is never right, nor is any for a class that the net has no score for.

    Args:
        threshold: the probability above which a binary prediction is positive; labels are positive from 0.5 on.
        from_logits: True when the net's outputs are logits, False when they are probabilities.
        one_hot: what labels of the shape of the predictions are, where there are several columns: False: a yes or a
            no each; True: one-hot or mixed; None: such labels are refused.
        axis: the dimension of the classes, where the shapes do not tell: 1 or -1.
        ignore_index: one more label that means "not known", such as 255 or 0.
        task: what a loss says of all this, in place of the other arguments but for the threshold.

    Raises:
        ValueError: ``threshold`` is not between 0 and 1, shapes do not belong together or fit two readings, or (in
            ``compute``) labels of a yes or no are neither 0 and 1, nor -1 and 1, nor probabilities.

    Example:
        >>> metric = Accuracy()
        >>> metric.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        >>> metric.compute().item()
        0.5
        >>> Accuracy(one_hot=True)(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([[0.7, 0.3], [1, 0]])).item()
        0.5
    """

    higher_is_better = True
    cheap = True

    def __init__(self, threshold: float = 0.5, from_logits: bool = True, *, one_hot: bool | None = False,
                 axis: int | None = None, ignore_index: int | None = None, task: Task | None = None) -> None:
        super().__init__()
        self.add_sum("correct")
        self.add_sum("seen")
        self.set_up(threshold, asked(task, from_logits, axis, ignore_index, one_hot))

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return right answers and all answers; for yes and no, answers by label."""
        found = as_classes(preds, labels, self.task)
        if found is None:
            return self.count_single(*paired(preds, labels))
        return self.of_classes(found)

    def of_classes(self, found: Classes) -> dict[str, Tensor | int]:
        """Return how many of the highest scores are those of the true class, and how many classes are known."""
        best, answers = found.scores.max(found.axis)
        right = answers.reshape(-1) == found.truth
        if best.is_floating_point():
            right &= (best == best).reshape(-1)  # NaN counts as the highest score, and is none
        return {"correct": right.count_nonzero(), "seen": (found.truth >= 0).count_nonzero()}

    def value(self, state: State) -> Tensor:
        """Return right answers of all answers."""
        yes, no = self.settled(state)
        correct = state["correct"] + yes[YES] + no[NO]
        return correct.double() / (state["seen"] + yes[ANY] + no[ANY])


class TopK(Metric):
    """See how often the true class is among the net's k best guesses.

    Of equal scores the class with the lower number comes first, so ``TopK(1)`` is ``Accuracy``. Labels are left out and
    read as there; one whose score is NaN is missed.

    Args:
        k: the number of guesses.
        one_hot: True when labels of the shape of the predictions are one-hot or mixed; else they are refused.
        axis: the dimension of the classes, where the shapes do not tell: 1 or -1.
        ignore_index: one more label that means "not known", such as 255 or 0.
        task: what a loss says of all this, in place of the arguments but for k.

    Raises:
        ValueError: ``k`` is below 1 or above the number of classes, or predictions are no scores of classes,
            ``(N, C, ...)`` or ``(N, ..., C)``, for their labels.

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
        self.k, self.task = k, asked(task, True, axis, ignore_index, one_hot)
        self.add_sum("correct")
        self.add_sum("seen")

    def leave_out(self, marks: tuple[float, ...]) -> None:
        """Leave out the labels that the loss leaves out, if it did not say itself which these are."""
        if self.follows_loss:
            self.task = self.task.told(marks)

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return labels that fewer than k other classes come before, and how many are known."""
        found = as_classes(preds, labels, self.task)
        if found is None:
            raise mismatch(preds, labels, "scores (N, C, ...) of C classes with labels (N, ...)")
        return self.of_classes(found)

    def of_classes(self, found: Classes) -> dict[str, Tensor | int]:
        """Return the same for scores and true classes."""
        if self.k > found.size:
            raise bad_value("k", received=self.k, expected=f"at most the number of classes, {found.size}",
                            fix="Give a metric object with a smaller k, such as TopK(2).")
        scores, truth = found.rows(), found.numbers()[:, None]
        known = truth.clamp(0, found.size - 1)  # an index outside would end a CUDA program
        own = scores.gather(1, known)
        number = torch.arange(found.size, device=scores.device)
        passed = (scores < own) | ((scores == own) & (number >= known))
        hits = (passed.sum(1, keepdim=True) > found.size - self.k) & (known == truth)
        return {"correct": hits.count_nonzero(), "seen": (truth >= 0).count_nonzero()}

    def value(self, state: State) -> Tensor:
        """Return hits of all labels."""
        return state["correct"].double() / state["seen"]
