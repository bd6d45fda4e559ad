"""Ranking metrics, which compare the scores of positives and negatives: AUC, AUCPR, KS."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.metrics.answers import are_probabilities, count_outside_rows
from torchkeras.metrics.base import MetricState
from torchkeras.metrics.reading import Classes, as_classes
from torchkeras.metrics.shapes import at_least_float32, paired, wide
from torchkeras.metrics.task import Task, task_from_arguments
from torchkeras.metrics.task_metric import TaskMetric
from torchkeras.metrics.yesno import MINUS, encode_labels, negative_kind

PIECES = 64  # tensors that are concatenated: each costs 500 bytes beside its scores


class Ranking(TaskMetric):
    """The base of ranking metrics: keeps every score and label; ties are taken together.

    Scores are compared as they are: a sigmoid would change no order, but make saturated scores
    equal. For several classes, softmax makes scores comparable between samples.
    """

    higher_is_better = True

    def __init__(self, from_logits: bool = True, *, one_hot: bool | None = False,
                 axis: int | None = None, ignore_index: int | None = None,
                 task: Task | None = None) -> None:
        super().__init__()
        self.task = task_from_arguments(task, from_logits, axis, ignore_index, one_hot)
        self.unjoined = 0  # batches since the pieces were concatenated
        self.add_list("scores")
        self.add_list("labels")
        if self.task.from_logits is None:
            self.add_sum("outside")

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return scores, ``(M,)`` or ``(M, C)``, and encoded labels or class numbers."""
        found = as_classes(preds, labels, self.task)
        if found is None:
            scores, truth = paired(preds, labels)
            return {
                "scores": as_float_scores(scores),
                "labels": encode_labels(truth, self.task.no_answers)}
        if self.task.from_logits is None:
            return {
                "scores": as_float_scores(found.rows()), "labels": compact_labels(found),
                "outside": count_outside_rows(found)}
        if found.size == 2:
            return {"scores": as_float_scores(binary_scores(found.pair(), self.task.from_logits)),
                    "labels": encode_labels(found.numbers())}
        return {"scores": as_float_scores(found.rows()), "labels": compact_labels(found)}

    def absorb(self, added: dict[str, Tensor | int]) -> None:
        """Keep a batch, and concatenate the small pieces now and then."""
        super().absorb(added)
        self.unjoined += 1
        if self.unjoined >= PIECES:
            for name in self.lists:  # both at once: scores and labels stay aligned
                pieces = getattr(self, name)
                setattr(self, name, [*pieces[:-self.unjoined], torch.cat(pieces[-self.unjoined:])])
            self.unjoined = 0

    def reset(self) -> None:
        """Drop all kept scores and labels."""
        super().reset()
        self.unjoined = 0

    def value(self, state: MetricState) -> Tensor:
        """Return the metric's value; NaN when a score is NaN, which cannot be ranked."""
        scores, labels = state["scores"], state["labels"]
        if scores.dim() == 1:
            return self.of_kinds(scores, labels.to(torch.int8))
        from_logits = not are_probabilities(state, self.task)
        if scores.shape[1] == 2:
            return self.of_kinds(binary_scores((scores[:, 0], scores[:, 1]), from_logits),
                                 encode_labels(labels))
        return self.of_classes(scores, labels, from_logits)

    def of_kinds(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the value for one score per label."""
        counts = [(labels == code).count_nonzero() for code in (2, 1, 0, -1)]
        no = negative_kind(torch.stack(counts), self.task.minus_is_no)
        known = (labels == 1) | (labels == (-1 if no == MINUS else 0))
        return self.of_order(scores[known], labels[known] == 1)

    def of_classes(self, scores: Tensor, labels: Tensor, from_logits: bool) -> Tensor:
        """Return the mean over classes, each against all others, where both have samples."""
        size = scores.shape[1]
        if bool((labels >= size).any()):
            raise bad_value("labels",
                            received=f"the class {int(labels.max())} for scores of {size} classes",
                            expected=f"classes from 0 to {size - 1}",
                            fix="Pass a value that means 'unknown' as the metric's ignore_index.")
        scores, labels = scores[labels >= 0], labels[labels >= 0]
        if not len(labels):
            return torch.tensor(torch.nan)
        if from_logits:
            scores = wide(scores).softmax(1)
        numbers = [self.of_order(scores[:, one], labels == one) for one in range(size)
                   if 0 < int((labels == one).sum()) < len(labels)]
        only = labels == labels[0]  # one class alone cannot be ranked, but has a value
        if numbers:
            return torch.stack(numbers).mean()
        return self.of_order(scores[:, int(labels[0])], only)

    def of_order(self, scores: Tensor, positive: Tensor) -> Tensor:
        """Return the value for scores and bools (positive or not)."""
        if not len(scores) or bool(scores.isnan().any()):
            return torch.tensor(torch.nan, dtype=torch.float64)
        return self.of_curve(*curve(scores, positive))

    def of_curve(self, hits: Tensor, alarms: Tensor) -> Tensor:
        """Return the value for cumulative counts of positives and negatives by falling score."""
        raise NotImplementedError


def binary_scores(pair: tuple[Tensor, Tensor], from_logits: bool) -> Tensor:
    """Return one score from the scores of two classes."""
    no, yes = pair
    return yes - no if from_logits else yes


def compact_labels(found: Classes) -> Tensor:
    """Return the true classes in the smallest dtype that holds them."""
    dtype = torch.int8 if found.size < 100 else torch.int32
    return found.numbers().clamp(max=found.size).to(dtype)


def as_float_scores(scores: Tensor) -> Tensor:
    """Return scores as floats of at least 32 bits."""
    return at_least_float32(scores) if scores.is_floating_point() else wide(scores)


def curve(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many positives and negatives score at least as high as each distinct score."""
    scores, order = scores.sort(descending=True)
    last_of_equals = torch.ones_like(labels)
    last_of_equals[:-1] = scores[1:] != scores[:-1]
    ends = last_of_equals.nonzero().squeeze(1)
    hits = labels[order].cumsum(0)[ends]
    return hits, ends + 1 - hits


def safe_ratio(part: Tensor, whole: Tensor, otherwise: float) -> Tensor:
    """Return a ratio in float64, or another number where the denominator is 0."""
    return torch.where(whole.cpu() > 0, part.cpu().double() / whole.cpu().clamp(min=1), otherwise)


class AUC(Ranking):
    """See how likely a positive scores above a negative: the area under the ROC curve.

    Exact at any batch size: ties count half, and the area is added up in integers. (Keras's AUC
    goes by 200 thresholds, so the two may differ in the third digit.) With one class only there is
    nothing to rank and the value is 0.5. A NaN score makes it NaN. Memory: 5 bytes for each float32
    score (with C classes, 4 x C + 1 for each sample).

    Predictions of the shape of the labels are binary. Of scores of two classes, the second is the
    positive one; of more, each class is ranked against all others, by softmax probabilities, and
    the value is the mean over the classes for which there are samples of both kinds (scikit-learn's
    ``multi_class="ovr"``). See :class:`Accuracy` for which labels are excluded, and how one-hot
    ones are read.

    The area is that of trapezoids between the points of the curve: Fawcett, "An introduction to ROC
    analysis", Pattern Recognition Letters 27, 2006, algorithm 3.

    Args:
        from_logits: whether scores are logits or probabilities; single scores rank the same.
        one_hot: what labels of the shape of the predictions are, where there are several columns:
            False: one binary label each; True: one-hot or mixed; None: such labels are refused.
        axis: the class dimension, where the shapes do not determine it: 1 or -1.
        ignore_index: one more label to exclude, such as 255 or 0.
        task: all of this as a loss defines it, in place of the other arguments.

    Raises:
        ValueError: shapes do not fit, or (in ``compute``) a label is no class, or neither positive
            nor negative.

    Example:
        >>> metric = AUC()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute().item()
        0.75
    """

    def of_curve(self, hits: Tensor, alarms: Tensor) -> Tensor:
        """Return twice the area in whole numbers, over twice the whole square."""
        before = torch.cat([hits.new_zeros(1), hits[:-1]])
        widths = torch.diff(alarms, prepend=alarms.new_zeros(1))
        return safe_ratio((widths * (before + hits)).sum(), 2 * hits[-1] * alarms[-1],
                          otherwise=0.5)


AUCROC = AUC


class AUCPR(Ranking):
    """See the quality of a ranking when positives are rare: average precision.

    Each distinct score adds its step in recall times the precision there, without interpolation (as
    in Manning, Raghavan and Schuetze, "Introduction to Information Retrieval", 2008, section 8.4,
    with ties taken together). Chance gives the share of positives. Without any positive the value
    is 0; a NaN score makes it NaN. Several classes are read, and labels excluded, as in
    :class:`AUC`.

    Args:
        from_logits: whether scores are logits or probabilities; single scores rank the same.
        one_hot: what labels of the shape of the predictions are, where there are several columns.
        axis: the class dimension, where the shapes do not determine it: 1 or -1.
        ignore_index: one more label to exclude, such as 255 or 0.
        task: all of this as a loss defines it, in place of the other arguments.

    Raises:
        ValueError: as at :class:`AUC`.

    Example:
        >>> metric = AUCPR()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> round(metric.compute().item(), 4)
        0.8333
    """

    def of_curve(self, hits: Tensor, alarms: Tensor) -> Tensor:
        """Return steps in hits times precision, over all hits."""
        steps = torch.diff(hits, prepend=hits.new_zeros(1))
        precision = wide(hits) / (hits + alarms)
        return safe_ratio((steps * precision).sum(), hits[-1], otherwise=0.0)


class KS(Ranking):
    """See how far the score distributions of positives and negatives lie apart.

    The two-sample Kolmogorov-Smirnov statistic, max |share of positives - share of negatives| above
    a score. With one class only it is 0; a NaN score makes it NaN. Several classes are read, and
    labels excluded, as in :class:`AUC`.

    Args:
        from_logits: whether scores are logits or probabilities; single scores rank the same.
        one_hot: what labels of the shape of the predictions are, where there are several columns.
        axis: the class dimension, where the shapes do not determine it: 1 or -1.
        ignore_index: one more label to exclude, such as 255 or 0.
        task: all of this as a loss defines it, in place of the other arguments.

    Raises:
        ValueError: as at :class:`AUC`.

    Example:
        >>> metric = KS()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute().item()
        0.5
    """

    def of_curve(self, hits: Tensor, alarms: Tensor) -> Tensor:
        """Return the gap in whole numbers, over the product of both class sizes."""
        positives, negatives = hits[-1], alarms[-1]
        return safe_ratio((hits * negatives - alarms * positives).abs().max(),
                          positives * negatives, otherwise=0.0)
