"""Several batches at a time for metrics whose every update costs much, where the numbers stay the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.metrics.base import Metric

BATCHES, ROOM = 64, 1 << 20  # batches that wait at most, and bytes
FEWEST = 16  # where there is not room for so many, a copy of each costs more than it saves


class Buffered(nn.Module):
    """A count of whole numbers that takes in the batches of several steps with one update.

    Each sample counts for itself; so the sums are the same at any split. Metrics that look at a batch as a whole
    (whether its scores are probabilities, say) are not among those. The first batch of each kind is counted at once:
    what a metric refuses by shape or type, it refuses with the batch that came.

    Args:
        metric: one of those for which :func:`adds_up` holds.
    """

    def __init__(self, metric: Any) -> None:
        super().__init__()
        self.metric = metric
        self.higher_is_better = metric.higher_is_better
        self.cheap = getattr(metric, "cheap", False)
        self.waiting: list[tuple[Tensor, Tensor]] = []
        self.kind: tuple[Any, ...] | None = None  # of the last batch
        self.most = 0  # batches of that kind that may wait

    def __getattr__(self, name: str) -> Any:
        """Give what a metric of ours has counted, or else what it is, to whoever asks it by name."""
        modules = vars(self).get("_modules", {})
        metric = modules.get("metric")
        if name in modules or not isinstance(metric, Metric):
            return super().__getattr__(name)
        if name in metric.sums:
            self.flush()
        return getattr(metric, name)

    def update(self, preds: Any, labels: Any) -> None:
        """Let a batch wait, or count at once what cannot."""
        kind = alike(preds, labels) if isinstance(preds, Tensor) and isinstance(labels, Tensor) else None
        if kind is None or kind != self.kind or not self.most:
            self.flush()
            self.metric.update(preds, labels)
            self.kind, self.most = kind, 0 if kind is None else room_for(preds, labels)
            return
        # a net may write into its output again
        self.waiting.append((copied(preds), copied(labels)))
        if len(self.waiting) >= self.most:
            self.flush()

    def leave_out(self, marks: tuple[float, ...]) -> None:
        """Tell a metric of ours which labels the loss leaves out, from the next batch on."""
        if isinstance(self.metric, Metric):
            self.flush()
            self.metric.leave_out(marks)

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


def room_for(preds: Tensor, labels: Tensor) -> int:
    """How many batches like this one may wait: none without a row for each sample, or where each is large."""
    if not preds.dim() or not labels.dim() or len(preds) != len(labels):
        return 0
    fitting = min(BATCHES, ROOM // max(preds.nbytes + labels.nbytes, 1))
    return fitting if fitting >= FEWEST else 0


def copied(tensor: Tensor) -> Tensor:
    """A copy that leads to no gradient."""
    return (tensor.detach() if tensor.requires_grad else tensor).clone()


def alike(preds: Tensor, labels: Tensor) -> tuple[Any, ...]:
    """What batches must have in common to be put together."""
    return preds.shape, labels.shape, preds.dtype, labels.dtype, preds.device, labels.device


def adds_up(metric: Any) -> bool:
    """Whether this is a metric of torchmetrics that adds up whole numbers of each sample: the multiclass ones."""
    counts = [one for one in type(metric).__mro__ if one.__module__ == "torchmetrics.classification.stat_scores"]
    return (any(one.__name__ == "MulticlassStatScores" for one in counts)
            and type(metric).__module__.startswith("torchmetrics.")
            and all(isinstance(start, Tensor) and not start.is_floating_point() for start in metric._defaults.values()))


def counts_apart(metric: Any) -> bool:
    """Whether this is a metric of ours that adds up whole numbers of each sample; a user's own kinds are not known.

    Those that ask whether predictions are probabilities add up the scores of a row, whose rounding may depend on how
    many rows there are.
    """
    return (isinstance(metric, Metric) and type(metric).__module__.startswith("torchkeras.metrics.")
            and bool(metric.sums) and not metric.lists and "outside" not in metric.sums
            and not {"update", "counted", "count", "absorb"} & vars(metric).keys()
            and not any(getattr(metric, name).dtype.is_floating_point for name in metric.sums))


def buffered(metrics: Mapping[str, Any], own: bool = True) -> dict[str, Any]:
    """Metrics, of which those that may take in several batches at a time do.

    Args:
        metrics: the metrics.
        own: whether ours do too: not where a compiled step counts for them.
    """
    return {name: Buffered(metric) if adds_up(metric) or (own and counts_apart(metric)) else metric
            for name, metric in metrics.items()}


@contextmanager
def settled(metrics: Iterable[Any]) -> Iterator[None]:
    """Let no batch wait in these metrics when the work with them ends, however it ends."""
    waiting = [one for one in metrics if isinstance(one, Buffered)]
    try:
        yield
    except BaseException:
        for metric in waiting:
            with suppress(Exception):  # the device may be what failed
                metric.flush()
        raise
    for metric in waiting:
        metric.flush()
