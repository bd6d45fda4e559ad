"""Precision, Recall and F1."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value, one_of, positive_number
from torchkeras.metrics.answers import BinaryCounts
from torchkeras.metrics.base import MetricState
from torchkeras.metrics.reading import Classes, as_classes
from torchkeras.metrics.shapes import paired
from torchkeras.metrics.task import Task, task_from_arguments
from torchkeras.metrics.yesno import ANY, YES

AVERAGES = ("auto", "macro", "micro")


class Decisions(BinaryCounts):
    """The base of metrics from true positives, predicted positives and positives, of each class."""

    higher_is_better = True
    cheap = True

    def __init__(self, threshold: float = 0.5, from_logits: bool = True, *, average: str = "auto",
                 one_hot: bool | None = False, axis: int | None = None,
                 ignore_index: int | None = None, task: Task | None = None) -> None:
        super().__init__()
        one_of("average", average, AVERAGES)
        self.average = average
        self.set_up(threshold, task_from_arguments(task, from_logits, axis, ignore_index, one_hot))
        self.add_sum("classes")  # becomes (3, C + 1) with the first batch: a scalar zero broadcasts
        # States of version 5.0, which a resumed run may load.
        self.add_sum("counts", (3,))
        self.add_sum("seen")

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return decision counts by label, or for each class (see ``of_classes``)."""
        found = as_classes(preds, labels, self.task)
        if found is None:
            if self.average != "auto":
                raise bad_value(
                    "average",
                    received=f"{self.average!r} for predictions of shape {tuple(preds.shape)} "
                    f"and labels of shape {tuple(labels.shape)}",
                    expected="scores of several classes",
                    fix="For binary predictions, leave the average out.")
            return self.count_single(*paired(preds, labels))
        if found.size == 2 and self.average == "auto":
            return self.count_two(found)
        return {"classes": self.of_classes(found)}

    def of_classes(self, found: Classes) -> Tensor:
        """Return true positives, predicted positives and positives of each class, and of none."""
        if self.cut.threshold != 0.5:
            raise bad_value("threshold",
                            received=f"{self.cut.threshold} with scores of {found.size} classes",
                            expected="0.5: the highest score decides")
        best, answers = found.scores.max(found.axis)
        truth, nothing = found.numbers(), found.size
        known = truth >= 0
        said = torch.where(known & (best == best).reshape(-1), answers.reshape(-1), nothing + 1)
        truth = torch.where(known, truth.clamp(max=nothing), nothing + 1)
        right = torch.where(said == truth, truth, nothing + 1)
        # Three times C + 2 bins, the last for excluded labels; bincount would wait for the device.
        cells = torch.stack([right, said, truth])
        bins = torch.zeros(3, nothing + 2, dtype=torch.int64, device=cells.device)
        return bins.scatter_add(1, cells, torch.ones_like(cells))[:, :-1]

    def value(self, state: MetricState) -> Tensor:
        """Return the metric's ratio; 0/0 is 0, and NaN only where nothing was seen."""
        classes = state["classes"]
        if classes.dim() == 2:
            return self.of_counts(classes)
        yes, no = self.resolve(state)
        right, said, true = torch.stack([yes[YES], yes[YES] + no[YES], yes[ANY]]) + state["counts"]
        return torch.where(yes[ANY] + no[ANY] + state["seen"] > 0, self.share(right, said, true),
                           torch.nan)

    def of_counts(self, classes: Tensor) -> Tensor:
        """Return the average over classes; with ``average="auto"``, of two the second's value."""
        right, said, true = classes[:, :-1]
        if int(classes[2, -1]):
            raise bad_value("labels", received=f"{int(classes[2, -1])} labels that are no class",
                            expected=f"classes from 0 to {len(right) - 1}",
                            fix="Pass a value that means 'unknown' as the metric's ignore_index.")
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
        """Return numerator and denominator."""
        raise NotImplementedError


class Precision(Decisions):
    """See how many predicted positives are positive: true / predicted positives; 0 without any.

    Predictions of the shape of the labels are binary. Of scores of two classes, the second class is
    the positive one. Of more classes, the highest score is the predicted class, and the value is
    the mean over the classes: those that occur neither in labels nor in predictions are excluded,
    as in scikit-learn and torchmetrics. See :class:`Accuracy` for which labels are excluded, and
    how one-hot ones are read.

    Args:
        threshold: the probability above which a prediction is positive; labels are positive from
            0.5 on.
        from_logits: True when the net's outputs are logits, False when they are probabilities.
        average: for scores of classes: "macro", the mean over classes; "micro", all classes counted
            as one; "auto", the second of two classes, and "macro" for more.
        one_hot: what labels of the shape of the predictions are, where there are several columns:
            False: one binary label each; True: one-hot or mixed; None: such labels are refused.
        axis: the class dimension, where the shapes do not determine it: 1 or -1.
        ignore_index: one more label to exclude, such as 255 or 0.
        task: all of this as a loss defines it, in place of the arguments except threshold and
            average.

    Raises:
        ValueError: ``threshold`` is not between 0 and 1, ``average`` is unknown, shapes do not fit,
            or (in ``compute``) a label is no class, or neither positive nor negative.

    Example:
        >>> metric = Precision(from_logits=False)
        >>> metric.update(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1, 0, 1]))
        >>> metric.compute().item()
        0.5
        >>> Precision(average="macro")(torch.eye(3), torch.tensor([0, 1, 1])).item()
        0.6666666666666666
    """

    def ratio(self, right: Tensor, said: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Return true positives and predicted positives."""
        return right, said


class Recall(Decisions):
    """See how many positives the net finds: true positives / positives; 0 without any.

    See :class:`Precision` for what counts as positive, what is excluded, and the averages.

    Args:
        threshold: the probability above which a prediction is positive; labels are positive from
            0.5 on.
        from_logits: True when the net's outputs are logits, False when they are probabilities.
        average: for scores of classes: "macro", "micro", or "auto".
        one_hot: what labels of the shape of the predictions are, where there are several columns.
        axis: the class dimension, where the shapes do not determine it: 1 or -1.
        ignore_index: one more label to exclude, such as 255 or 0.
        task: all of this as a loss defines it, in place of the arguments except threshold and
            average.

    Raises:
        ValueError: as at :class:`Precision`.

    Example:
        >>> metric = Recall(from_logits=False)
        >>> metric.update(torch.tensor([0.9, 0.8, 0.1, 0.2]), torch.tensor([1, 0, 1, 0]))
        >>> metric.compute().item()
        0.5
    """

    def ratio(self, right: Tensor, said: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Return true positives and positives."""
        return right, true


class F1(Decisions):
    """See the harmonic mean of precision and recall; 0 without positives and predicted positives.

    F1 = 2 x true positives / (predicted positives + positives). See :class:`Precision` for what
    counts as positive, what is excluded, and the averages.

    Args:
        threshold: the probability above which a prediction is positive; labels are positive from
            0.5 on.
        from_logits: True when the net's outputs are logits, False when they are probabilities.
        average: for scores of classes: "macro", "micro", or "auto".
        one_hot: what labels of the shape of the predictions are, where there are several columns.
        axis: the class dimension, where the shapes do not determine it: 1 or -1.
        ignore_index: one more label to exclude, such as 255 or 0.
        task: all of this as a loss defines it, in place of the arguments except threshold and
            average.

    Raises:
        ValueError: as at :class:`Precision`.

    Example:
        >>> metric = F1(from_logits=False)
        >>> metric.update(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1, 0, 1]))
        >>> metric.compute().item()
        0.5
    """

    def ratio(self, right: Tensor, said: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
        """Return twice the true positives, and predicted positives plus positives."""
        return 2 * right, said + true


class FBetaScore(F1):
    """See precision and recall as one number, with recall ``beta`` times as important.

    (1 + beta^2) x precision x recall / (beta^2 x precision + recall), of counts; with ``beta=1``
    it is :class:`F1`, which says what counts as positive, what is excluded, and the averages.
    (Keras's FBetaScore returns the value of each class unless it is given an average.)

    Args:
        beta: how much more important recall is.
        threshold: the probability above which a prediction is positive.
        from_logits: True when the net's outputs are logits, False when they are probabilities.
        average: for scores of classes: "macro", "micro", or "auto".
        one_hot: what labels of the shape of the predictions are, where there are several columns.
        axis: the class dimension, where the shapes do not determine it: 1 or -1.
        ignore_index: one more label to exclude, such as 255 or 0.
        task: all of this as a loss defines it, in place of the arguments except threshold and
            average.

    Raises:
        ValueError: ``beta`` is not above 0, or as at :class:`Precision`.

    Example:
        >>> metric = FBetaScore(beta=2.0, from_logits=False)
        >>> metric.update(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1, 0, 0]))
        >>> round(metric.compute().item(), 4)
        0.8333
    """

    def __init__(self, beta: float = 1.0, threshold: float = 0.5, from_logits: bool = True, *,
                 average: str = "auto", one_hot: bool | None = False, axis: int | None = None,
                 ignore_index: int | None = None, task: Task | None = None) -> None:
        super().__init__(threshold, from_logits, average=average, one_hot=one_hot, axis=axis,
                         ignore_index=ignore_index, task=task)
        positive_number("beta", beta)
        self.beta = float(beta)

    def share(self, right: Tensor, said: Tensor, true: Tensor) -> Tensor:
        """Return the ratio in float64; 0 where there are neither positives nor predictions."""
        square = self.beta ** 2
        whole = square * true.double() + said
        return torch.where(whole > 0, (1 + square) * right.double() / whole.clamp(min=1e-300), 0.0)
