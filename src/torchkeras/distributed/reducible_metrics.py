"""Metrics of several processes as one: states are added or put together, then the number is computed once."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchkeras.core.errors import bad_value
from torchkeras.data import outputs
from torchkeras.data.batch import to_device
from torchkeras.metrics.base import Metric
from torchkeras.metrics.function import FunctionMetric
from torchkeras.metrics.structure import paths


class Replayed:
    """A metric of unknown make, in one of several processes: batches are kept, and one process shows it all of them.

    Args:
        metric: an object with ``update``, ``compute`` and ``reset``, whose state nobody else can join.
    """

    def __init__(self, metric: Any) -> None:
        self.metric = metric
        self.kept: list[Any] = []
        self.higher_is_better = getattr(metric, "higher_is_better", None)

    def update(self, preds: Any, labels: Any) -> None:
        """Keep a batch."""
        self.kept.append(outputs.to_cpu((preds, labels)))

    def __call__(self, preds: Any, labels: Any) -> Any:
        """Keep a batch, and give what the metric itself says when it is called with it."""
        self.update(preds, labels)
        return self.metric(preds, labels)

    def compute(self) -> Any:
        """The number for all batches, in the order in which they were given."""
        self.metric.reset()
        for preds, labels in self.kept:
            self.metric.update(preds, labels)
        return self.metric.compute()

    def reset(self) -> None:
        """Forget the batches."""
        self.kept = []

    def leave_out(self, marks: tuple[float, ...]) -> None:
        """Tell the metric which labels the loss leaves out, if it can be told."""
        if callable(told := getattr(self.metric, "leave_out", None)):
            told(marks)


class Pieces(NamedTuple):
    """A list of tensors on their way to another process."""

    whole: Tensor
    sizes: list[int]


def joinable(metrics: Mapping[str, Any], world: int) -> dict[str, Any]:
    """Metrics that several processes can count with; one process takes them as they are."""
    return {name: metric if world == 1 or isinstance(metric, Metric) or torchmetrics_of(metric) else Replayed(metric)
            for name, metric in metrics.items()}


def torchmetrics_of(metric: Any) -> list[Any]:
    """The torchmetrics objects in a metric, itself or those that it is made of."""
    if not isinstance(metric, nn.Module):
        return []
    return [one for one in metric.modules() if hasattr(one, "_reductions") and hasattr(one, "sync_on_compute")]


def packed(metric: Any) -> Any:
    """What one process counted, to be sent: sums, and lists with an item for each batch."""
    if isinstance(metric, Replayed):
        return metric.kept
    if isinstance(metric, Metric):
        kept = [in_pieces({name: getattr(metric, name) for name in (*metric.sums, *metric.lists)})]
        return [*kept, paths(metric.layout)] if isinstance(metric, FunctionMetric) else kept
    return [in_pieces({name: getattr(one, name) for name in one._reductions})
            if one._update_count else {} for one in torchmetrics_of(metric)]


def in_pieces(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state in main memory, with one tensor in the place of each list that allows it.

    Sent one by one, tensors of 32 numbers cost 180 microseconds each, and three times their bytes.
    """
    return {name: in_one(value) for name, value in to_device(state, "cpu").items()}


def in_one(value: Any) -> Any:
    """Return a list of tensors as one tensor and their sizes; all else as it is."""
    if not isinstance(value, list) or not all(
            type(one) is Tensor and one.dim() and one.layout is torch.strided for one in value):
        return value
    kinds = {(one.dtype, one.shape[1:]) for one in value}
    with torch.no_grad():
        return Pieces(torch.cat(value), [len(one) for one in value]) if len(kinds) == 1 else value


def joined(metric: Any, packs: list[Any], counted: list[list[int]]) -> Any:
    """A copy of a metric that counted what all processes did."""
    whole = copy.deepcopy(metric)
    if isinstance(whole, Replayed):
        whole.kept = batchwise(packs, counted)
        return whole
    if isinstance(whole, Metric):
        check_alike(metric, packs)
        put_together(whole.cpu(), [pack[0] for pack in packs], counted, dict.fromkeys(whole.sums, torch.sum))
        return whole
    for one, states in zip(torchmetrics_of(whole.cpu()), zip(*packs, strict=True), strict=True):
        used = [(state, numbers) for state, numbers in zip(states, counted, strict=True) if state]
        put_together(one, [state for state, _ in used], [numbers for _, numbers in used], one._reductions)
        one._to_sync = one.sync_on_compute = False  # what it would gather by itself is here
        one._computed, one._update_count = None, 1
    return whole


def check_alike(metric: Metric, packs: list[Any]) -> None:
    """Refuse to join what a function metric kept, where processes met batches of unlike structure."""
    if isinstance(metric, FunctionMetric):
        found = {tuple(sorted(pack[1].items())) for pack in packs if any(pack[0].values())}
        if len(found) > 1:
            raise bad_value(f"metric {metric.name!r}", received="batches of unlike structure in several processes",
                            expected="the same keys and lengths in every batch")


def put_together(metric: Any, states: list[dict[str, Any]], counted: list[list[int]],
                 reductions: Mapping[str, Any]) -> None:
    """Set a metric's state to that of all: tensors by their reductions, lists in the order of the batches."""
    for name in states[0] if states else ():
        # a process without a batch may not know the name yet
        parts, numbers = zip(*((apart(state[name]), own) for state, own in zip(states, counted, strict=True)
                               if name in state), strict=True)
        if isinstance(parts[0], Tensor):
            # a sum without a size has that of its first batch, and is a scalar where there was none
            reduce, stacked = reductions.get(name), torch.stack(torch.broadcast_tensors(*parts))
            value = stacked if reduce is None else reduce(stacked, dim=0) if reduce is torch.sum else reduce(stacked)
        else:
            value = in_order(list(parts), list(numbers))
        setattr(metric, name, value)


def apart(value: Any) -> Any:
    """Return what :func:`in_one` put together as the list that it was."""
    return list(value.whole.split(value.sizes)) if isinstance(value, Pieces) else value


def in_order(lists: list[list[Any]], counted: list[list[int]]) -> list[Any]:
    """Items of several processes in the order in which one process would have met them."""
    if [len(items) for items in lists] != [len(numbers) for numbers in counted]:
        return [item for items in lists for item in items]  # not an item a batch: process after process
    found = [(number, rank, item) for rank, (items, numbers) in enumerate(zip(lists, counted, strict=True))
             for item, number in zip(items, numbers, strict=True)]
    return [item for _, _, item in sorted(found, key=lambda one: one[:2])]


def batchwise(lists: list[list[Any]], counted: list[list[int]]) -> list[Any]:
    """The kept batches in order, the parts of a divided one joined again."""
    numbers = in_order(counted, counted)
    items = in_order(lists, counted)
    if len(numbers) != len(items):
        return items
    groups: dict[int, list[Any]] = {}
    for number, item in zip(numbers, items, strict=True):
        groups.setdefault(number, []).append(item)
    return [outputs.whole(group) for group in groups.values()]


def stand_in(step: Any, batch: Any) -> Any:
    """A step for the sake of the other processes, which wait for its gradients: it counts nowhere."""
    metrics, step.metrics_dict = step.metrics_dict, copy.deepcopy(step.metrics_dict)
    try:
        return step(batch)
    finally:
        step.metrics_dict = metrics
