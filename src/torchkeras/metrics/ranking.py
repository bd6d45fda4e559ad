"""How well scores put positives before negatives: AUC, AUCPR, KS."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.metrics.answers import are_probabilities, outside_rows
from torchkeras.metrics.base import Metric, State
from torchkeras.metrics.reading import Classes, as_classes
from torchkeras.metrics.shapes import paired, precise, wide
from torchkeras.metrics.task import Task, asked
from torchkeras.metrics.yesno import MINUS, coded, negatives

PIECES = 64  # kept tensors that are joined into one: a tensor of 32 scores costs 500 bytes beside them


class Ranking(Metric):
    """Keeps every score and label; the number comes from the whole order, with equal scores taken together.

    Scores are compared as they come: a sigmoid would change no order, but make equal what it saturates. Of several
    classes, softmax makes scores that can be compared over samples.
    """

    higher_is_better = True

    def __init__(self, from_logits: bool = True, *, one_hot: bool | None = False, axis: int | None = None,
                 ignore_index: int | None = None, task: Task | None = None) -> None:
        super().__init__()
        self.task = asked(task, from_logits, axis, ignore_index, one_hot)
        self.loose = 0  # batches since pieces were joined
        self.add_list("scores")
        self.add_list("labels")
        if self.task.from_logits is None:
            self.add_sum("outside")

    def leave_out(self, marks: tuple[float, ...]) -> None:
        """Leave out the labels that the loss leaves out, if it did not say itself which these are."""
        if self.follows_loss:
            self.task = self.task.told(marks)

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return scores in their own precision, ``(M,)`` or ``(M, C)``, and kinds or numbers of labels."""
        found = as_classes(preds, labels, self.task)
        if found is None:
            scores, truth = paired(preds, labels)
            return {"scores": comparable(scores), "labels": coded(truth, self.task.no_answers)}
        if self.task.from_logits is None:
            return {"scores": comparable(found.rows()), "labels": small(found), "outside": outside_rows(found)}
        if found.size == 2:
            return {"scores": comparable(of_two(found.pair(), self.task.from_logits)),
                    "labels": coded(found.numbers())}
        return {"scores": comparable(found.rows()), "labels": small(found)}

    def absorb(self, added: dict[str, Tensor | int]) -> None:
        """Keep a batch, and join the small pieces now and then."""
        super().absorb(added)
        self.loose += 1
        if self.loose >= PIECES:
            for name in self.lists:  # both at once: what belongs together stays at the same place
                pieces = getattr(self, name)
                setattr(self, name, [*pieces[:-self.loose], torch.cat(pieces[-self.loose:])])
            self.loose = 0

    def reset(self) -> None:
        """Forget all that was counted."""
        super().reset()
        self.loose = 0

    def value(self, state: State) -> Tensor:
        """Return the number of the order; NaN when a score is NaN, which has no place in any order."""
        scores, labels = state["scores"], state["labels"]
        if scores.dim() == 1:
            return self.of_kinds(scores, labels.to(torch.int8))
        from_logits = not are_probabilities(state, self.task)
        if scores.shape[1] == 2:
            return self.of_kinds(of_two((scores[:, 0], scores[:, 1]), from_logits), coded(labels))
        return self.of_classes(scores, labels, from_logits)

    def of_kinds(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Return the number for one score a label."""
        no = negatives(torch.stack([(labels == code).count_nonzero() for code in (2, 1, 0, -1)]), self.task.minus_is_no)
        known = (labels == 1) | (labels == (-1 if no == MINUS else 0))
        return self.of_order(scores[known], labels[known] == 1)

    def of_classes(self, scores: Tensor, labels: Tensor, from_logits: bool) -> Tensor:
        """Return the mean over classes, each against all others, of those that can be told from others."""
        size = scores.shape[1]
        if bool((labels >= size).any()):
            raise bad_value("labels", received=f"the class {int(labels.max())} for scores of {size} classes",
                            expected=f"classes from 0 to {size - 1}",
                            fix="A value that means 'not known' goes into the metric's ignore_index.")
        scores, labels = scores[labels >= 0], labels[labels >= 0]
        if not len(labels):
            return torch.tensor(torch.nan)
        if from_logits:
            scores = wide(scores).softmax(1)
        numbers = [self.of_order(scores[:, one], labels == one) for one in range(size)
                   if 0 < int((labels == one).sum()) < len(labels)]
        only = labels == labels[0]  # one class alone is no ranking, but has a number
        return torch.stack(numbers).mean() if numbers else self.of_order(scores[:, int(labels[0])], only)

    def of_order(self, scores: Tensor, positive: Tensor) -> Tensor:
        """Return the number for scores and bools."""
        if not len(scores) or bool(scores.isnan().any()):
            return torch.tensor(torch.nan, dtype=torch.float64)
        return self.of_curve(*curve(scores, positive))

    def of_curve(self, hits: Tensor, alarms: Tensor) -> Tensor:
        """Return the number of a curve of positives and negatives found at each score, from the highest down."""
        raise NotImplementedError


def of_two(pair: tuple[Tensor, Tensor], from_logits: bool) -> Tensor:
    """Return one score for those of two classes."""
    no, yes = pair
    return yes - no if from_logits else yes


def small(found: Classes) -> Tensor:
    """Return the true classes in as few bytes as they need."""
    dtype = torch.int8 if found.size < 100 else torch.int32
    return found.numbers().clamp(max=found.size).to(dtype)


def comparable(scores: Tensor) -> Tensor:
    """Return scores as floats of at least 32 bits."""
    return precise(scores) if scores.is_floating_point() else wide(scores)


def curve(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many positives, and how many negatives, score at least as high as each distinct score; int64."""
    scores, order = scores.sort(descending=True)
    last_of_equals = torch.ones_like(labels)
    last_of_equals[:-1] = scores[1:] != scores[:-1]
    ends = last_of_equals.nonzero().squeeze(1)
    hits = labels[order].cumsum(0)[ends]
    return hits, ends + 1 - hits


def divided(part: Tensor, whole: Tensor, otherwise: float) -> Tensor:
    """Return a share in float64, or another number where the whole is nothing."""
    return torch.where(whole.cpu() > 0, part.cpu().double() / whole.cpu().clamp(min=1), otherwise)


class AUC(Ranking):
    """See how likely a positive scores above a negative: the area under the ROC curve, 0.5 for chance, 1 for perfect.

    Exact at any batch size: equal scores count half, and the area is added up in whole numbers. With one class only
    there is nothing to rank and the value is 0.5. A NaN score makes it NaN. Memory: 5 bytes a
    float32 score (of C classes, 4 x C + 1 a sample).

    Predictions of the shape of the labels are yes or no each. Of scores of two classes, the second is the positive one;
    of more, each class against all others, by the probabilities of softmax, and the mean over the classes for which
    there are samples of both kinds (scikit-learn's ``multi_class="ovr"``). Which labels are left out, and how one-hot
    ones are read, is told at :class:`Accuracy`.

    Area of trapezoids between the points of the curve: Fawcett, "An introduction to ROC analysis", Pattern Recognition
    Letters 27, 2006, algorithm 3.

    Args:
        from_logits: whether scores are logits or probabilities; single scores rank alike.
        one_hot: what labels of the shape of the predictions are, where there are several columns: False: a yes or a
            no each; True: one-hot or mixed; None: such labels are refused.
        axis: the dimension of the classes, where the shapes do not tell: 1 or -1.
        ignore_index: one more label that means "not known", such as 255 or 0.
        task: what a loss says of all this, in place of the other arguments.

    Raises:
        ValueError: shapes do not belong together, or (in ``compute``) a label is no class, or neither a yes nor a no.

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
        return divided((widths * (before + hits)).sum(), 2 * hits[-1] * alarms[-1], otherwise=0.5)


AUCROC = AUC


class AUCPR(Ranking):
    """See the quality of a ranking when positives are rare: average precision, the area under precision and recall.

    Each distinct score adds its step in recall times the precision there, without interpolation (as in Manning,
    Raghavan and Schuetze, "Introduction to Information Retrieval", 2008, section 8.4, with ties taken together). Chance
    gives the share of positives. Without any positive the value is 0; a NaN score makes it NaN. Several classes are
    read, and labels left out, as in :class:`AUC`.

    Args:
        from_logits: whether scores are logits or probabilities; single scores rank alike.
        one_hot: what labels of the shape of the predictions are, where there are several columns.
        axis: the dimension of the classes, where the shapes do not tell: 1 or -1.
        ignore_index: one more label that means "not known", such as 255 or 0.
        task: what a loss says of all this, in place of the other arguments.

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
        return divided((steps * precision).sum(), hits[-1], otherwise=0.0)


class KS(Ranking):
    """See how far apart scores of positives and negatives lie: the largest gap between their distributions.

    The two-sample Kolmogorov-Smirnov statistic, max |share of positives - share of negatives| above a score. With one
    class only it is 0; a NaN score makes it NaN. Several classes are read, and labels left out, as in :class:`AUC`.

    Args:
        from_logits: whether scores are logits or probabilities; single scores rank alike.
        one_hot: what labels of the shape of the predictions are, where there are several columns.
        axis: the dimension of the classes, where the shapes do not tell: 1 or -1.
        ignore_index: one more label that means "not known", such as 255 or 0.
        task: what a loss says of all this, in place of the other arguments.

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
        return divided((hits * negatives - alarms * positives).abs().max(), positives * negatives, otherwise=0.0)
