"""Reduce metrics over the ranks of a job: join their states, then compute the number once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from torchkeras.core import internals
from torchkeras.core.communicator import Communicator
from torchkeras.core.errors import bad_value
from torchkeras.core.types import Batch, Labels, Preds, Row, State, Value
from torchkeras.data import outputs
from torchkeras.data.batch import to_device
from torchkeras.metrics.base import Metric
from torchkeras.metrics.function import FunctionMetric
from torchkeras.metrics.structure import paths
from torchkeras.weighting.rows import metric_values, with_others

if TYPE_CHECKING:
    from torchkeras.core import types
    from torchkeras.engine.epoch import EpochRunner

Numbers = list[list[int]]  # for each rank, the numbers of the batches that it counted
broadcast_tensors: Callable[..., list[Tensor]] = torch.broadcast_tensors  # which has no types


class ReplayedMetric:
    """Store the batches of each rank and replay them on rank 0: for metrics that cannot be merged.

    Args:
        metric: an object with ``update``, ``compute`` and ``reset``, and a state of unknown kind.
    """

    def __init__(self, metric: types.Metric) -> None:
        self.metric: Any = metric
        self.kept: list[Any] = []
        self.higher_is_better = getattr(metric, "higher_is_better", None)

    def update(self, preds: Preds, labels: Labels) -> None:
        """Store a batch."""
        self.kept.append(outputs.to_cpu((preds, labels)))

    def __call__(self, preds: Preds, labels: Labels) -> Any:
        """Store a batch, and return what the metric itself returns when it is called with it."""
        self.update(preds, labels)
        return self.metric(preds, labels)

    def compute(self) -> Any:
        """Return the number for all batches, in the order of their updates."""
        self.metric.reset()
        for preds, labels in self.kept:
            self.metric.update(preds, labels)
        return self.metric.compute()

    def reset(self) -> None:
        """Drop the batches."""
        self.kept = []

    def leave_out(self, marks: tuple[float, ...]) -> None:
        """Pass on which labels the loss ignores, if the metric accepts it."""
        if callable(leave_out := getattr(self.metric, "leave_out", None)):
            leave_out(marks)


class Pieces(NamedTuple):
    """A list of tensors as one tensor, to be sent to another process."""

    whole: Tensor
    sizes: list[int]


def make_reducible(metrics: Mapping[str, Any], world: int) -> dict[str, Any]:
    """Return metrics that can be reduced over ranks; in a single process, the same ones."""
    return {name: metric if world == 1 or isinstance(metric, Metric) or torchmetrics_of(metric)
            else ReplayedMetric(metric) for name, metric in metrics.items()}


def torchmetrics_of(metric: object) -> list[Any]:
    """Return the torchmetrics objects in a metric: itself, or those that it is made of."""
    if not isinstance(metric, nn.Module):
        return []
    return [one for one in metric.modules() if internals.is_torchmetric(one)]


def local_state(metric: object) -> list[Any]:
    """Return this rank's state of a metric, to be sent: sums, and lists with an item a batch."""
    if isinstance(metric, ReplayedMetric):
        return metric.kept
    if isinstance(metric, Metric):
        kept: list[Any] = [
            packed({name: getattr(metric, name) for name in (*metric.sums, *metric.lists)})]
        return [*kept, paths(metric.layout)] if isinstance(metric, FunctionMetric) else kept
    return [packed({name: getattr(one, name) for name in internals.reductions(one)})
            if internals.num_updates(one) else {} for one in torchmetrics_of(metric)]


def packed(state: State) -> State:
    """Return a state in main memory, with lists of tensors concatenated where they can be.

    Sent one by one, tensors of 32 numbers cost 180 microseconds each, and three times their bytes.
    """
    return {name: concatenated(value) for name, value in to_device(state, "cpu").items()}


def concatenated(value: Value) -> Value:
    """Return a list of tensors as one tensor and their sizes; anything else as it is."""
    if not isinstance(value, list) or not all(
            type(one) is Tensor and one.dim() and one.layout is torch.strided for one in value):
        return value
    kinds = {(one.dtype, one.shape[1:]) for one in value}
    with torch.no_grad():
        return Pieces(torch.cat(value), [len(one) for one in value]) if len(kinds) == 1 else value


def reduced(metric: types.Metric, packs: list[list[Any]], counted: Numbers) -> Any:
    """Return a copy of a metric with the state of all ranks.

    Args:
        metric: this rank's metric.
        packs: the :func:`local_state` of each rank.
        counted: for each rank, the numbers of the batches that it counted.
    """
    whole: Any = copy.deepcopy(metric)
    if isinstance(whole, ReplayedMetric):
        whole.kept = rejoined_batches(packs, counted)
        return whole
    if isinstance(whole, Metric):
        check_same_structure(whole, packs)
        set_reduced_state(whole.cpu(), [pack[0] for pack in packs], counted,
                          dict.fromkeys(whole.sums, torch.sum))
        return whole
    for one, states in zip(torchmetrics_of(whole.cpu()), zip(*packs, strict=True), strict=True):
        used = [(state, numbers) for state, numbers in zip(states, counted, strict=True) if state]
        set_reduced_state(one, [state for state, _ in used], [numbers for _, numbers in used],
                          internals.reductions(one))
        internals.keep_local(one)
        internals.set_num_updates(one, 1)
    return whole


def check_same_structure(metric: Metric, packs: list[list[Any]]) -> None:
    """Refuse to join the states of a function metric if ranks saw batches of unlike structure."""
    if isinstance(metric, FunctionMetric):
        found = {tuple(sorted(pack[1].items())) for pack in packs if any(pack[0].values())}
        if len(found) > 1:
            raise bad_value(f"metric {metric.name!r}",
                            received="batches of unlike structure in several processes",
                            expected="the same keys and lengths in every batch")


def set_reduced_state(metric: nn.Module, states: list[State], counted: Numbers,
                      reductions: Mapping[str, Any]) -> None:
    """Set a metric's state to that of all ranks: tensors are reduced, lists joined in order."""
    for name in states[0] if states else ():
        # a rank without a batch may not have the name yet
        known = [(unpacked(state[name]), own) for state, own in zip(states, counted, strict=True)
                 if name in state]
        parts, numbers = [part for part, _ in known], [own for _, own in known]
        value: Any
        if isinstance(parts[0], Tensor):
            # a sum gets its shape from the first batch, and is a scalar before it
            reduce, value = reductions.get(name), torch.stack(broadcast_tensors(*parts))
            if reduce is not None:
                value = reduce(value, dim=0) if reduce is torch.sum else reduce(value)
        else:
            value = in_order(parts, numbers)
        setattr(metric, name, value)


def unpacked(value: Value) -> Value:
    """Return the list of tensors that :func:`concatenated` made one; anything else as it is."""
    return list(torch.split(value.whole, value.sizes)) if isinstance(value, Pieces) else value


def in_order(lists: list[list[Any]], counted: Numbers) -> list[Any]:
    """Return the items of all ranks in the order in which a single process would have got them."""
    if [len(items) for items in lists] != [len(numbers) for numbers in counted]:
        return [item for items in lists for item in items]  # not an item a batch: rank after rank
    pairs = enumerate(zip(lists, counted, strict=True))
    found = [(number, rank, item) for rank, (items, numbers) in pairs
             for item, number in zip(items, numbers, strict=True)]
    return [item for _, _, item in sorted(found, key=lambda one: one[:2])]


def rejoined_batches(lists: list[list[Any]], counted: Numbers) -> list[Any]:
    """Return the stored batches in order, with the shards of each joined again."""
    numbers = in_order(counted, counted)
    items = in_order(lists, counted)
    if len(numbers) != len(items):
        return items
    groups: dict[int, list[Any]] = {}
    for number, item in zip(numbers, items, strict=True):
        groups.setdefault(number, []).append(item)
    return [outputs.merge_parts(group) for group in groups.values()]


def dummy_step(step: Any, batch: Batch) -> Any:
    """Run a step only so that the other ranks' all-reduce completes; nothing is counted."""
    metrics, step.metrics_dict = step.metrics_dict, copy.deepcopy(step.metrics_dict)
    try:
        return step(batch)
    finally:
        step.metrics_dict = metrics


def reduced_row(runner: EpochRunner, communicator: Communicator) -> Row:
    """Return the row of a pass over all ranks, from what each of them counted."""
    states = {name: local_state(metric) for name, metric in runner.metrics_dict.items()}
    own = (runner.losses.sums(), runner.parts.sums(), states, runner.counted, runner.last_numbers())

    def combined(ranks: list[Any]) -> Row:
        losses, parts, states, counted, last = map(list, zip(*ranks, strict=True))
        metrics = {name: reduced(metric, [state[name] for state in states], counted)
                   for name, metric in runner.metrics_dict.items()}
        row = {**runner.losses.combine(losses), **metric_values(metrics, runner.stage)}
        newest = max(range(len(last)), key=lambda rank: counted[rank][-1:])  # of the last batch
        return with_others(row, last[newest], runner.parts.combine(parts))

    row: Row = communicator.reduce_on_main(combined, own)
    return row
