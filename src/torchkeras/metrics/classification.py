"""How often the net is right: Accuracy, Precision, Recall, F1, TopK."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.engine.checks import bad_value, whole_number
from torchkeras.metrics.base import Metric, State
from torchkeras.metrics.shapes import Cut, is_class_scores, is_positive, mismatch, paired


class Accuracy(Metric):
    """See the share of right answers, for two classes, many classes, or many labels at once.

    The shapes decide. Predictions of the shape of the labels (``(N, 1)`` and ``(N,)`` are the same) are yes or no each,
    as in a binary or a multi-label task. Predictions ``(N, C, ...)`` with labels ``(N, ...)`` are scores of C classes,
    of which the highest is the answer; places with a negative label, such as torch's ``ignore_index`` of -100, are left
    out.

    Args:
        threshold: the probability from which on a binary prediction is positive; labels are positive from 0.5 on.
        from_logits: True when the net's outputs are logits, False when they are probabilities.

    Raises:
        ValueError: ``threshold`` is not between 0 and 1, or shapes do not belong together.

    Example:
        >>> metric = Accuracy()
        >>> metric.update(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0]))
        >>> metric.compute().item()
        0.5
    """

    higher_is_better = True
    cheap = True

    def __init__(self, threshold: float = 0.5, from_logits: bool = True) -> None:
        super().__init__()
        self.cut = Cut(threshold, from_logits)
        self.add_sum("correct")
        self.add_sum("seen")

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Right answers and all answers."""
        if is_class_scores(preds, labels):
            answers, truth = preds.argmax(1).reshape(-1), labels.reshape(-1)
            return {"correct": (answers == truth).sum(), "seen": (truth >= 0).sum()}
        scores, truth = paired(preds, labels)
        return {"correct": (self.cut(scores) == is_positive(truth)).sum(), "seen": scores.numel()}

    def value(self, state: State) -> Tensor:
        """Right answers of all answers."""
        return state["correct"].double() / state["seen"]


class Decisions(Metric):
    """Counts what a binary classifier said yes to, and what was right of it."""

    higher_is_better = True
    cheap = True

    def __init__(self, threshold: float = 0.5, from_logits: bool = True) -> None:
        super().__init__()
        self.cut = Cut(threshold, from_logits)
        self.add_sum("counts", (3,))
        self.add_sum("seen")

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Right yes, said yes, true yes."""
        scores, truth = paired(preds, labels)
        said, true = self.cut(scores), is_positive(truth)
        return {"counts": torch.stack([said & true, said, true]).sum(1), "seen": scores.numel()}

    def value(self, state: State) -> Tensor:
        """The metric's ratio; 0/0 is 0, and NaN only where nothing was seen."""
        share, whole = self.ratio(*state["counts"].double())
        return torch.where(state["seen"] > 0, share / whole.clamp(min=1), torch.nan)

    def ratio(self, right: Tensor, said: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """What is divided by what."""
        raise NotImplementedError


class Precision(Decisions):
    """See how much of what the net calls positive is so: right yes / said yes; 0 when it never says yes.

    Args:
        threshold: the probability from which on a prediction is positive; labels are positive from 0.5 on.
        from_logits: True when the net's outputs are logits, False when they are probabilities.

    Raises:
        ValueError: ``threshold`` is not between 0 and 1, or predictions and labels differ in shape.

    Example:
        >>> metric = Precision(from_logits=False)
        >>> metric.update(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1, 0, 1]))
        >>> metric.compute().item()
        0.5
    """

    def ratio(self, right: Tensor, said: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Right yes of said yes."""
        return right, said


class Recall(Decisions):
    """See how much of what is positive the net finds: right yes / true yes; 0 when nothing is positive.

    Args:
        threshold: the probability from which on a prediction is positive; labels are positive from 0.5 on.
        from_logits: True when the net's outputs are logits, False when they are probabilities.

    Raises:
        ValueError: ``threshold`` is not between 0 and 1, or predictions and labels differ in shape.

    Example:
        >>> metric = Recall(from_logits=False)
        >>> metric.update(torch.tensor([0.9, 0.8, 0.1, 0.2]), torch.tensor([1, 0, 1, 0]))
        >>> metric.compute().item()
        0.5
    """

    def ratio(self, right: Tensor, said: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Right yes of true yes."""
        return right, true


class F1(Decisions):
    """See precision and recall in one number, their harmonic mean; 0 when there is nothing to find and nothing found.

    F1 = 2 x right yes / (said yes + true yes).

    Args:
        threshold: the probability from which on a prediction is positive; labels are positive from 0.5 on.
        from_logits: True when the net's outputs are logits, False when they are probabilities.

    Raises:
        ValueError: ``threshold`` is not between 0 and 1, or predictions and labels differ in shape.

    Example:
        >>> metric = F1(from_logits=False)
        >>> metric.update(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1, 0, 1]))
        >>> metric.compute().item()
        0.5
    """

    def ratio(self, right: Tensor, said: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Twice right yes of said yes and true yes."""
        return 2 * right, said + true


class TopK(Metric):
    """See how often the true class is among the net's k best guesses.

    Of equal scores the class with the lower number comes first, so ``TopK(1)`` is ``Accuracy``. A place with a negative
    label is left out; a label whose score is NaN is missed.

    Args:
        k: the number of guesses.

    Raises:
        ValueError: ``k`` is below 1 or above the number of classes, or shapes are not ``(N, C, ...)`` and ``(N, ...)``.

    Example:
        >>> metric = TopK(k=2)
        >>> metric.update(torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]), torch.tensor([1, 2]))
        >>> metric.compute().item()
        0.5
    """

    higher_is_better = True
    cheap = True

    def __init__(self, k: int = 5) -> None:
        super().__init__()
        whole_number("k", k, least=1)
        self.k = k
        self.add_sum("correct")
        self.add_sum("seen")

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Labels that fewer than k other classes come before."""
        if not is_class_scores(preds, labels):
            raise mismatch(preds, labels, "scores (N, C, ...) of C classes with labels (N, ...)")
        classes = preds.shape[1]
        if self.k > classes:
            raise bad_value("k", received=self.k, expected=f"at most the number of classes, {classes}")
        scores, truth = preds.movedim(1, -1).reshape(-1, classes), labels.reshape(-1, 1).long()
        known = truth.clamp(0, classes - 1)  # an index outside would end a CUDA program
        own = scores.gather(1, known)
        number = torch.arange(classes, device=preds.device)
        passed = (scores < own) | ((scores == own) & (number >= known))
        hits = (passed.sum(1, keepdim=True) > classes - self.k) & (known == truth)
        return {"correct": hits.sum(), "seen": (truth >= 0).sum()}

    def value(self, state: State) -> Tensor:
        """Hits of all labels."""
        return state["correct"].double() / state["seen"]
