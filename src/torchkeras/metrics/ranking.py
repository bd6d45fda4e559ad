"""How well scores put positives before negatives: AUC, AUCPR, KS."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.metrics.base import Metric, State
from torchkeras.metrics.shapes import is_positive, paired, precise, wide


class Ranking(Metric):
    """Keeps every score and label; the number comes from the whole order, with equal scores taken together.

    Scores are compared as they come: a sigmoid would change no order, but make equal what it saturates.
    """

    higher_is_better = True

    def __init__(self, from_logits: bool = True) -> None:
        super().__init__()
        self.from_logits = from_logits  # logits and probabilities rank alike
        self.add_list("scores")
        self.add_list("labels")

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Scores in their own precision, labels as bools."""
        scores, truth = paired(preds, labels)
        return {"scores": precise(scores) if scores.is_floating_point() else wide(scores), "labels": is_positive(truth)}

    def value(self, state: State) -> Tensor:
        """The number of the order; NaN when a score is NaN, which has no place in any order."""
        scores, labels = state["scores"], state["labels"]
        if bool(scores.isnan().any()):
            return torch.tensor(torch.nan)
        return self.of_curve(*curve(scores, labels))

    def of_curve(self, hits: Tensor, alarms: Tensor) -> Tensor:
        """The number of a curve of positives and negatives found at each distinct score, from the highest down."""
        raise NotImplementedError


def curve(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """How many positives, and how many negatives, score at least as high as each distinct score; int64."""
    scores, order = scores.sort(descending=True)
    last_of_equals = torch.ones_like(labels)
    last_of_equals[:-1] = scores[1:] != scores[:-1]
    ends = last_of_equals.nonzero().squeeze(1)
    hits = labels[order].cumsum(0)[ends]
    return hits, ends + 1 - hits


def divided(part: Tensor, whole: Tensor, otherwise: float) -> Tensor:
    """A share in float64, or another number where the whole is nothing."""
    return torch.where(whole.cpu() > 0, part.cpu().double() / whole.cpu().clamp(min=1), otherwise)


class AUC(Ranking):
    """See how likely a positive scores above a negative: the area under the ROC curve, 0.5 for chance, 1 for perfect.

    Exact at any batch size: equal scores count half, and the area is added up in whole numbers. With one class only
    there is nothing to rank and the value is 0.5. A NaN score makes it NaN. Memory: 5 bytes a float32 score.

    Area of trapezoids between the points of the curve: Fawcett, "An introduction to ROC analysis", Pattern Recognition
    Letters 27, 2006, algorithm 3.

    Args:
        from_logits: whether scores are logits or probabilities; they rank alike, so the value is the same.

    Raises:
        ValueError: predictions and labels differ in shape.

    Example:
        >>> metric = AUC()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute().item()
        0.75
    """

    def of_curve(self, hits: Tensor, alarms: Tensor) -> Tensor:
        """Twice the area in whole numbers, over twice the whole square."""
        before = torch.cat([hits.new_zeros(1), hits[:-1]])
        widths = torch.diff(alarms, prepend=alarms.new_zeros(1))
        return divided((widths * (before + hits)).sum(), 2 * hits[-1] * alarms[-1], otherwise=0.5)


AUCROC = AUC


class AUCPR(Ranking):
    """See the quality of a ranking when positives are rare: average precision, the area under precision and recall.

    Each distinct score adds its step in recall times the precision there, without interpolation (as in Manning,
    Raghavan and Schuetze, "Introduction to Information Retrieval", 2008, section 8.4, with ties taken together). Chance
    gives the share of positives. Without any positive the value is 0; a NaN score makes it NaN.

    Args:
        from_logits: whether scores are logits or probabilities; they rank alike, so the value is the same.

    Raises:
        ValueError: predictions and labels differ in shape.

    Example:
        >>> metric = AUCPR()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> round(metric.compute().item(), 4)
        0.8333
    """

    def of_curve(self, hits: Tensor, alarms: Tensor) -> Tensor:
        """Steps in hits times precision, over all hits."""
        steps = torch.diff(hits, prepend=hits.new_zeros(1))
        precision = wide(hits) / (hits + alarms)
        return divided((steps * precision).sum(), hits[-1], otherwise=0.0)


class KS(Ranking):
    """See how far apart scores of positives and negatives lie: the largest gap between their distributions.

    The two-sample Kolmogorov-Smirnov statistic, max |share of positives - share of negatives| above a score. With one
    class only it is 0; a NaN score makes it NaN.

    Args:
        from_logits: whether scores are logits or probabilities; they rank alike, so the value is the same.

    Raises:
        ValueError: predictions and labels differ in shape.

    Example:
        >>> metric = KS()
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute().item()
        0.5
    """

    def of_curve(self, hits: Tensor, alarms: Tensor) -> Tensor:
        """The gap in whole numbers, over the product of both class sizes."""
        positives, negatives = hits[-1], alarms[-1]
        return divided((hits * negatives - alarms * positives).abs().max(), positives * negatives, otherwise=0.0)
