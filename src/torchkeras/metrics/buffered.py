"""Buffering for metrics with a costly update: several batches at a time, the same values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.core import internals
from torchkeras.core.types import Labels, Preds
from torchkeras.metrics.base import Metric

BATCHES, ROOM = 64, 1 << 20  # limits of a buffer: batches, and bytes
FEWEST = 16  # where fewer batches fit, copying them costs more than it saves


class Buffered(nn.Module):
    """A metric of integer counts that takes in the batches of several steps with one update.

    Each sample is counted independently, so the sums are the same for any split into batches.
    Metrics that look at a batch as a whole (to see whether its scores are probabilities, for
    example) do not qualify. The first batch of each shape and dtype is counted at once: a metric
    that refuses it raises in the step that the batch came in.

    Args:
        metric: one for which :func:`is_countable_torchmetric` or :func:`is_countable` holds.
    """

    def __init__(self, metric: Any) -> None:
        super().__init__()
        self.metric = metric
        self.higher_is_better = metric.higher_is_better
        self.cheap = getattr(metric, "cheap", False)
        self.rows: list[tuple[Tensor, Tensor]] = []  # the places of batches in the buffer
        self.waiting: list[tuple[Tensor, Tensor]] = []  # those that hold one
        self.signature: tuple[Any, ...] | None = None  # of the last batch
        self.capacity = 0  # batches of that signature that fit into the buffer

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the wrapped metric, its state after a flush."""
        modules = vars(self).get("_modules", {})
        metric = modules.get("metric")
        if name in modules or not isinstance(metric, Metric):
            return super().__getattr__(name)
        if name in metric.sums:
            self.flush()
        return getattr(metric, name)

    def update(self, preds: Preds, labels: Labels) -> None:
        """Buffer a batch, or count it at once where it cannot be buffered."""
        tensors = isinstance(preds, Tensor) and isinstance(labels, Tensor)
        kind = batch_signature(preds, labels) if tensors else None
        if kind is None or kind != self.signature or not self.capacity:
            self.flush()
            self.metric.update(preds, labels)
            self.signature, self.capacity = kind, 0 if kind is None else max_waiting(preds, labels)
            self.rows = []
            return
        if not self.rows:
            self.rows = list(zip(rows_like(preds, self.capacity), rows_like(labels, self.capacity),
                                 strict=True))
        # copies, since a net may write into its output again; into memory that is there: half the
        # time of a clone
        waiting = self.waiting
        row = self.rows[len(waiting)]
        row[0].copy_(preds.detach() if preds.requires_grad else preds)
        row[1].copy_(labels.detach() if labels.requires_grad else labels)
        waiting.append(row)
        if len(waiting) >= self.capacity:
            self.flush()

    def leave_out(self, marks: tuple[float, ...]) -> None:
        """Pass on which labels the loss excludes, from the next batch on."""
        if isinstance(self.metric, Metric):
            self.flush()
            self.metric.leave_out(marks)

    def flush(self) -> None:
        """Count the buffered batches."""
        if self.waiting:
            preds, labels = zip(*self.waiting, strict=True)
            self.waiting.clear()
            self.metric.update(torch.cat(preds), torch.cat(labels))

    def compute(self) -> Any:
        """Count the buffered batches and return the value."""
        self.flush()
        return self.metric.compute()

    def reset(self) -> None:
        """Reset the metric and drop buffered batches."""
        self.waiting.clear()
        self.metric.reset()

    def forward(self, preds: Preds, labels: Labels) -> Any:
        """Count one batch and return its own value."""
        self.flush()
        return self.metric(preds, labels)


def max_waiting(preds: Tensor, labels: Tensor) -> int:
    """Return how many batches like this one may be buffered; 0 for large ones."""
    if not preds.dim() or not labels.dim() or len(preds) != len(labels):
        return 0
    if any(type(one) is not Tensor or one.layout != torch.strided for one in (preds, labels)):
        return 0
    fitting = min(BATCHES, ROOM // max(preds.nbytes + labels.nbytes, 1))
    return fitting if fitting >= FEWEST else 0


def rows_like(tensor: Tensor, count: int) -> tuple[Tensor, ...]:
    """Return memory for so many tensors like this one, in one piece."""
    with torch.inference_mode(False):  # memory made in inference mode can be written there only
        room = torch.empty((count, *tensor.shape), dtype=tensor.dtype, device=tensor.device)
    return room.unbind(0)


def batch_signature(preds: Tensor, labels: Tensor) -> tuple[Any, ...]:
    """Return what batches must have in common to be concatenated."""
    return preds.shape, labels.shape, preds.dtype, labels.dtype, preds.device, labels.device


def is_countable_torchmetric(metric: Any) -> bool:
    """Tell whether a torchmetrics metric adds up integer counts of single samples."""
    counts = [
        one for one in type(metric).__mro__
        if one.__module__ == "torchmetrics.classification.stat_scores"]
    return (any(one.__name__ == "MulticlassStatScores" for one in counts)
            and type(metric).__module__.startswith("torchmetrics.") and all(
                isinstance(start, Tensor) and not start.is_floating_point()
                for start in internals.defaults(metric).values()))


def is_countable(metric: object) -> bool:
    """Tell whether a metric of this package adds up integer counts of single samples.

    Users' own subclasses are not known. Metrics that ask whether predictions are probabilities add
    up the scores of a row, whose rounding may depend on the number of rows.
    """
    return (isinstance(metric, Metric) and type(metric).__module__.startswith("torchkeras.metrics.")
            and bool(metric.sums) and not metric.lists and "outside" not in metric.sums
            and not {"update", "counted", "count", "absorb"} & vars(metric).keys()
            and not any(getattr(metric, name).dtype.is_floating_point for name in metric.sums))


def buffered(metrics: Mapping[str, Any], own: bool = True) -> dict[str, Any]:
    """Wrap each metric that may take in several batches at a time in :class:`Buffered`.

    Args:
        metrics: the metrics.
        own: whether to wrap this package's metrics too; not where a compiled step updates them.
    """
    def fits(metric: Any) -> bool:
        return is_countable_torchmetric(metric) or (own and is_countable(metric))

    return {name: Buffered(metric) if fits(metric) else metric for name, metric in metrics.items()}


@contextmanager
def flushed(metrics: Iterable[Any]) -> Iterator[None]:
    """Count all buffered batches of these metrics at exit, also after an exception."""
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
