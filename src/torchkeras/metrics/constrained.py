"""The best of one number where another one is good enough, exact at any batch size.

Keras looks at 200 thresholds between 0 and 1; these look at every score.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.metrics.ranking import Ranking
from torchkeras.metrics.task import Task


class Constrained(Ranking):
    """The base: the highest of one number over the thresholds at which another is high enough."""

    bound: str  # the name of the argument

    def __init__(self, least: float, from_logits: bool = True, *, task: Task | None = None) -> None:
        super().__init__(from_logits, task=task)
        if not 0 <= least <= 1:
            raise bad_value(self.bound, received=least, expected="a number from 0 to 1")
        self.least = float(least)

    def of_curve(self, hits: Tensor, alarms: Tensor) -> Tensor:
        """Return the highest value; 0 where the other number is nowhere high enough."""
        nothing = hits.new_zeros(1)
        hits, alarms = (torch.cat([nothing, one]).cpu().double() for one in (hits, alarms))
        given, wanted = self.pair(hits, alarms)
        return torch.where(given >= self.least, wanted, 0.0).max()

    def pair(self, hits: Tensor, alarms: Tensor) -> tuple[Tensor, Tensor]:
        """Return, at each threshold, the number that must be high enough, and the other."""
        raise NotImplementedError


class PrecisionAtRecall(Constrained):
    """See the best precision at which the net finds a share of the positives.

    Args:
        recall: that share.
        from_logits: whether scores are logits or probabilities; single scores rank the same.
        task: how a loss reads labels and predictions.

    Raises:
        ValueError: ``recall`` is not from 0 to 1.

    Example:
        >>> metric = PrecisionAtRecall(0.5)
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute().item()
        1.0
    """

    bound = "recall"

    def __init__(self, recall: float, from_logits: bool = True, *,
                 task: Task | None = None) -> None:
        super().__init__(recall, from_logits, task=task)

    def pair(self, hits: Tensor, alarms: Tensor) -> tuple[Tensor, Tensor]:
        """Return recall and precision."""
        return ratio(hits, hits[-1]), ratio(hits, hits + alarms)


class RecallAtPrecision(Constrained):
    """See the share of the positives that the net finds at a precision.

    Args:
        precision: that precision.
        from_logits: whether scores are logits or probabilities; single scores rank the same.
        task: how a loss reads labels and predictions.

    Raises:
        ValueError: ``precision`` is not from 0 to 1.

    Example:
        >>> metric = RecallAtPrecision(0.9)
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute().item()
        0.5
    """

    bound = "precision"

    def __init__(self, precision: float, from_logits: bool = True, *,
                 task: Task | None = None) -> None:
        super().__init__(precision, from_logits, task=task)

    def pair(self, hits: Tensor, alarms: Tensor) -> tuple[Tensor, Tensor]:
        """Return precision and recall."""
        return ratio(hits, hits + alarms), ratio(hits, hits[-1])


class SensitivityAtSpecificity(Constrained):
    """See the share of the positives that the net finds where it clears a share of the negatives.

    Args:
        specificity: that share of the negatives.
        from_logits: whether scores are logits or probabilities; single scores rank the same.
        task: how a loss reads labels and predictions.

    Raises:
        ValueError: ``specificity`` is not from 0 to 1.

    Example:
        >>> metric = SensitivityAtSpecificity(0.5)
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute().item()
        1.0
    """

    bound = "specificity"

    def __init__(self, specificity: float, from_logits: bool = True, *,
                 task: Task | None = None) -> None:
        super().__init__(specificity, from_logits, task=task)

    def pair(self, hits: Tensor, alarms: Tensor) -> tuple[Tensor, Tensor]:
        """Return specificity and sensitivity."""
        return ratio(alarms[-1] - alarms, alarms[-1]), ratio(hits, hits[-1])


class SpecificityAtSensitivity(Constrained):
    """See the share of the negatives that the net clears where it finds a share of the positives.

    Args:
        sensitivity: that share of the positives.
        from_logits: whether scores are logits or probabilities; single scores rank the same.
        task: how a loss reads labels and predictions.

    Raises:
        ValueError: ``sensitivity`` is not from 0 to 1.

    Example:
        >>> metric = SpecificityAtSensitivity(1.0)
        >>> metric.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
        >>> metric.compute().item()
        0.5
    """

    bound = "sensitivity"

    def __init__(self, sensitivity: float, from_logits: bool = True, *,
                 task: Task | None = None) -> None:
        super().__init__(sensitivity, from_logits, task=task)

    def pair(self, hits: Tensor, alarms: Tensor) -> tuple[Tensor, Tensor]:
        """Return sensitivity and specificity."""
        return ratio(hits, hits[-1]), ratio(alarms[-1] - alarms, alarms[-1])


def ratio(part: Tensor, whole: Tensor) -> Tensor:
    """Return a ratio, 0 where the denominator is 0."""
    return part / whole.clamp(min=1)
