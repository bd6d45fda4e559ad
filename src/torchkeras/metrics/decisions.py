"""What the net says yes to, and what of it is right: Precision, Recall, F1."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value, one_of
from torchkeras.metrics.answers import Answers
from torchkeras.metrics.base import State
from torchkeras.metrics.reading import Classes, as_classes
from torchkeras.metrics.shapes import paired
from torchkeras.metrics.task import Task, asked
from torchkeras.metrics.yesno import ANY, YES

AVERAGES = ("auto", "macro", "micro")


class Decisions(Answers):
    """Counts what a classifier said yes to, and what was right of it; for several classes, of each of them."""

    higher_is_better = True
    cheap = True

    def __init__(self, threshold: float = 0.5, from_logits: bool = True, *, average: str = "auto",
                 one_hot: bool | None = False, axis: int | None = None, ignore_index: int | None = None,
                 task: Task | None = None) -> None:
        super().__init__()
        one_of("average", average, AVERAGES)
        self.average = average
        self.set_up(threshold, asked(task, from_logits, axis, ignore_index, one_hot))
        self.add_sum("classes")  # becomes (3, C) with the first batch: a scalar zero goes with every shape
        # Version 5.0 counted these, and a run that it saved may go on here.
        self.add_sum("counts", (3,))
        self.add_sum("seen")

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return answers by label; for several classes: right yes, said yes and true yes of each."""
        found = as_classes(preds, labels, self.task)
        if found is None:
            if self.average != "auto":
                raise bad_value("average", received=f"{self.average!r} for predictions of shape {tuple(preds.shape)} "
                                f"and labels of shape {tuple(labels.shape)}", expected="scores of several classes",
                                fix="For a yes or a no each, leave the average out.")
            return self.count_single(*paired(preds, labels))
        if found.size == 2 and self.average == "auto":
            return self.count_two(found)
        return {"classes": self.of_classes(found)}

    def of_classes(self, found: Classes) -> Tensor:
        """Return right yes, said yes and true yes, ``(3, C + 1)``; labels that are no class come last."""
        if self.cut.threshold != 0.5:
            raise bad_value("threshold", received=f"{self.cut.threshold} with scores of {found.size} classes",
                            expected="0.5: the highest score is the answer")
        best, answers = found.scores.max(found.axis)
        truth, nothing = found.numbers(), found.size
        known = truth >= 0
        said = torch.where(known & (best == best).reshape(-1), answers.reshape(-1), nothing + 1)
        truth = torch.where(known, truth.clamp(max=nothing), nothing + 1)
        right = torch.where(said == truth, truth, nothing + 1)
        # Three times C + 2 bins, of which the last takes what is left out; bincount would wait for the device.
        cells = torch.stack([right, said, truth])
        bins = torch.zeros(3, nothing + 2, dtype=torch.int64, device=cells.device)
        return bins.scatter_add(1, cells, torch.ones_like(cells))[:, :-1]

    def value(self, state: State) -> Tensor:
        """Return the metric's ratio; 0/0 is 0, and NaN only where nothing was seen."""
        classes = state["classes"]
        if classes.dim() == 2:
            return self.of_counts(classes)
        yes, no = self.settled(state)
        right, said, true = torch.stack([yes[YES], yes[YES] + no[YES], yes[ANY]]) + state["counts"]
        return torch.where(yes[ANY] + no[ANY] + state["seen"] > 0, self.share(right, said, true), torch.nan)

    def of_counts(self, classes: Tensor) -> Tensor:
        """Return the average over classes; of two, where nothing else is asked for, the number of the second."""
        right, said, true = classes[:, :-1]
        if int(classes[2, -1]):
            raise bad_value("labels", received=f"{int(classes[2, -1])} labels that are no class",
                            expected=f"classes from 0 to {len(right) - 1}",
                            fix="A value that means 'not known' goes into the metric's ignore_index.")
        if not int(true.sum()):
            return torch.tensor(torch.nan)
        if self.average == "micro":
            return self.share(right.sum(), said.sum(), true.sum())
        return self.share(right, said, true)[said + true > 0].mean()

    def share(self, right: Tensor, said: Tensor, true: Tensor) -> Tensor:
        """Return the ratio in float64."""
        part, whole = self.ratio(right, said, true)
        return part.double() / whole.clamp(min=1)

    def ratio(self, right: Tensor, said: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is divided by what."""
        raise NotImplementedError


class Precision(Decisions):
    """See how much of what the net calls positive is so: right yes / said yes; 0 when it never says yes.

    Predictions of the shape of the labels are yes or no each. Of scores of two classes, the second class is the
    positive one. Of more classes, the highest score is the answer, and the number is the mean over the classes: those
    that occur neither in labels nor in answers are left out, as in scikit-learn and torchmetrics. Which labels are left
    out, and how one-hot ones are read, is told at :class:`Accuracy`.

    Args:
        threshold: the probability above which a prediction is positive; labels are positive from 0.5 on.
        from_logits: True when the net's outputs are logits, False when they are probabilities.
        average: for scores of classes: "macro", the mean over classes; "micro", all classes counted as one; "auto", the
            second of two classes, and "macro" for more.
        one_hot: what labels of the shape of the predictions are, where there are several columns: False: a yes or a
            no each; True: one-hot or mixed; None: such labels are refused.
        axis: the dimension of the classes, where the shapes do not tell: 1 or -1.
        ignore_index: one more label that means "not known", such as 255 or 0.
        task: what a loss says of all this, in place of the other arguments but for threshold and average.

    Raises:
        ValueError: ``threshold`` is not between 0 and 1, ``average`` is unknown, shapes do not belong together, or (in
            ``compute``) a label is no class, or neither a yes nor a no.

    Example:
        >>> metric = Precision(from_logits=False)
        >>> metric.update(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1, 0, 1]))
        >>> metric.compute().item()
        0.5
        >>> Precision(average="macro")(torch.eye(3), torch.tensor([0, 1, 1])).item()
        0.6666666666666666
    """

    def ratio(self, right: Tensor, said: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Return right yes and said yes."""
        return right, said


class Recall(Decisions):
    """See how much of what is positive the net finds: right yes / true yes; 0 when nothing is positive.

    What is a yes, what is left out and how classes are averaged is told at :class:`Precision`.

    Args:
        threshold: the probability above which a prediction is positive; labels are positive from 0.5 on.
        from_logits: True when the net's outputs are logits, False when they are probabilities.
        average: for scores of classes: "macro", "micro", or "auto".
        one_hot: what labels of the shape of the predictions are, where there are several columns.
        axis: the dimension of the classes, where the shapes do not tell: 1 or -1.
        ignore_index: one more label that means "not known", such as 255 or 0.
        task: what a loss says of all this, in place of the other arguments but for threshold and average.

    Raises:
        ValueError: as at :class:`Precision`.

    Example:
        >>> metric = Recall(from_logits=False)
        >>> metric.update(torch.tensor([0.9, 0.8, 0.1, 0.2]), torch.tensor([1, 0, 1, 0]))
        >>> metric.compute().item()
        0.5
    """

    def ratio(self, right: Tensor, said: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Return right yes and true yes."""
        return right, true


class F1(Decisions):
    """See precision and recall in one number, their harmonic mean; 0 when there is nothing to find and nothing found.

    F1 = 2 x right yes / (said yes + true yes). What is a yes, what is left out and how classes are averaged is told at
    :class:`Precision`.

    Args:
        threshold: the probability above which a prediction is positive; labels are positive from 0.5 on.
        from_logits: True when the net's outputs are logits, False when they are probabilities.
        average: for scores of classes: "macro", "micro", or "auto".
        one_hot: what labels of the shape of the predictions are, where there are several columns.
        axis: the dimension of the classes, where the shapes do not tell: 1 or -1.
        ignore_index: one more label that means "not known", such as 255 or 0.
        task: what a loss says of all this, in place of the other arguments but for threshold and average.

    Raises:
        ValueError: as at :class:`Precision`.

    Example:
        >>> metric = F1(from_logits=False)
        >>> metric.update(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1, 0, 1]))
        >>> metric.compute().item()
        0.5
    """

    def ratio(self, right: Tensor, said: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Return twice right yes, and said yes with true yes."""
        return 2 * right, said + true
