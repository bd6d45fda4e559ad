"""Several batches at a time for metrics whose every update costs much, where the numbers stay the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

BATCHES, ROOM = 16, 1 << 20  # batches that wait at most, and bytes


class Buffered(nn.Module):
    """A torchmetrics count of classes that takes in the batches of several steps with one update.

    What it counts are whole numbers, and each sample counts for itself; so the sums are the same at any split. Metrics
    that look at a batch as a whole (whether its scores are probabilities, say) are not among those.

    Args:
        metric: one of those for which :func:`adds_up` holds.
    """

    def __init__(self, metric: Any) -> None:
        super().__init__()
        self.metric = metric
        self.higher_is_better = metric.higher_is_better
        self.waiting: list[tuple[Tensor, Tensor]] = []

    def update(self, preds: Any, labels: Any) -> None:
        """Let a batch wait, or count at once what cannot."""
        if not (isinstance(preds, Tensor) and isinstance(labels, Tensor) and preds.dim() and labels.dim()
                and (preds.nbytes + labels.nbytes) * BATCHES <= ROOM):
            self.flush()
            self.metric.update(preds, labels)
            return
        if self.waiting and alike(preds, labels) != alike(*self.waiting[0]):
            self.flush()
        self.waiting.append((preds.detach().clone(), labels.clone()))  # a net may write into its output again
        if len(self.waiting) == BATCHES:
            self.flush()

    def flush(self) -> None:
        """Count what waits."""
        if self.waiting:
            preds, labels = zip(*self.waiting, strict=True)
            self.waiting = []
            self.metric.update(torch.cat(preds), torch.cat(labels))

    def compute(self) -> Any:
        """The number so far."""
        self.flush()
        return self.metric.compute()

    def reset(self) -> None:
        """Forget all that was counted."""
        self.waiting = []
        self.metric.reset()

    def forward(self, preds: Any, labels: Any) -> Any:
        """Count one batch and give its own number."""
        self.flush()
        return self.metric(preds, labels)


def alike(preds: Tensor, labels: Tensor) -> tuple[Any, ...]:
    """What batches must have in common to be put together."""
    return preds.shape[1:], labels.shape[1:], preds.dtype, labels.dtype, preds.device, labels.device


def adds_up(metric: Any) -> bool:
    """Whether this is a metric of torchmetrics that adds up whole numbers of each sample: the multiclass ones."""
    counts = [one for one in type(metric).__mro__ if one.__module__ == "torchmetrics.classification.stat_scores"]
    return (any(one.__name__ == "MulticlassStatScores" for one in counts)
            and type(metric).__module__.startswith("torchmetrics.")
            and all(isinstance(start, Tensor) and not start.is_floating_point() for start in metric._defaults.values()))


def buffered(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics, of which those that may take in several batches at a time do."""
    return {name: Buffered(metric) if adds_up(metric) else metric for name, metric in metrics.items()}
