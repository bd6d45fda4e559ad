"""How many binary decisions of each kind there were."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.metrics.answers import BinaryCounts
from torchkeras.metrics.base import MetricState
from torchkeras.metrics.shapes import paired
from torchkeras.metrics.task import Task, task_from_arguments
from torchkeras.metrics.yesno import ANY, NO, YES


class Decided(BinaryCounts):
    """The base of counts: of one decision at labels of one kind."""

    cheap = True
    positive: bool  # whether labels are positive
    decision: int  # what is predicted

    def __init__(self, threshold: float = 0.5, from_logits: bool = True, *,
                 ignore_index: int | None = None, task: Task | None = None) -> None:
        super().__init__()
        self.set_up(threshold, task_from_arguments(task, from_logits, None, ignore_index))

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return decision counts by label."""
        return self.count_single(*paired(preds, labels))

    def value(self, state: MetricState) -> Tensor:
        """Return the number of such decisions; NaN where nothing was seen."""
        yes, no = self.resolve(state)
        found = (yes if self.positive else no)[self.decision]
        return torch.where(yes[ANY] + no[ANY] > 0, found.double(), torch.nan)


class TruePositives(Decided):
    """See how many positives are predicted as positive.

    Args:
        threshold: the probability above which a prediction is positive.
        from_logits: True when the net's outputs are logits, False when they are probabilities.
        ignore_index: one more label to exclude.
        task: all of this as a loss defines it, in place of the arguments except threshold.

    Raises:
        ValueError: ``threshold`` is not between 0 and 1, or predictions and labels do not pair.

    Example:
        >>> metric = TruePositives(from_logits=False)
        >>> metric.update(torch.tensor([0.9, 0.8, 0.1]), torch.tensor([1, 0, 1]))
        >>> metric.compute().item()
        1.0
    """

    higher_is_better, positive, decision = True, True, YES


class FalsePositives(Decided):
    """See how many negatives are predicted as positive; arguments as of :class:`TruePositives`."""

    higher_is_better, positive, decision = False, False, YES


class TrueNegatives(Decided):
    """See how many negatives are predicted as negative; arguments as of :class:`TruePositives`."""

    higher_is_better, positive, decision = True, False, NO


class FalseNegatives(Decided):
    """See how many positives are predicted as negative; arguments as of :class:`TruePositives`."""

    higher_is_better, positive, decision = False, True, NO
