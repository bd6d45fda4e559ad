"""Read what a metric has accumulated so far as values that can be saved, and load them again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeGuard

import torch
from torch import Tensor, nn

from torchkeras.core import internals
from torchkeras.core.types import Stateful, Value
from torchkeras.distributed.reducible_metrics import ReplayedMetric, torchmetrics_of
from torchkeras.metrics.base import Metric
from torchkeras.metrics.buffered import Buffered
from torchkeras.metrics.function import Accumulating

LAZY_ATTRIBUTES = ("layout", "waiting")  # that a FunctionMetric learns from its first batch


def metric_state_dict(metric: object) -> Value:
    """Return the state of a metric: ours, torchmetrics' or any other."""
    if isinstance(metric, Buffered):
        metric.flush()
        return metric_state_dict(metric.metric)
    if isinstance(metric, Accumulating):
        return metric_state_dict(metric.inner)
    if isinstance(metric, ReplayedMetric):
        return metric.kept
    if isinstance(metric, Metric):
        return {"kept": {name: getattr(metric, name) for name in (*metric.sums, *metric.lists)},
                "lists": metric.lists, "learned": {
                    name: vars(metric)[name] for name in LAZY_ATTRIBUTES if name in vars(metric)}}
    if found := torchmetrics_of(metric):
        return [{"updates": internals.num_updates(one),
                 "kept": {name: getattr(one, name) for name in internals.reductions(one)}}
                for one in found]
    if has_own_state(metric):
        return metric.state_dict()
    return dict(metric.named_buffers()) if isinstance(metric, nn.Module) else dict(vars(metric))


def has_own_state(metric: object) -> TypeGuard[Stateful]:
    """Tell whether a metric has a ``state_dict`` that is not empty.

    That of a module without persistent buffers is empty.
    """
    state_dict = getattr(metric, "state_dict", None)
    return callable(state_dict) and bool(state_dict())


def load_metric_state_dict(metric: object, state: Value) -> None:
    """Load what :func:`metric_state_dict` returned."""
    if isinstance(metric, (Buffered, Accumulating)):
        metric.reset()
        inner = metric.metric if isinstance(metric, Buffered) else metric.inner
        load_metric_state_dict(inner, state)
    elif isinstance(metric, ReplayedMetric):
        metric.kept = list(state)
    elif isinstance(metric, Metric):
        load_own_metric(metric, state)
    elif found := torchmetrics_of(metric):
        for one, own in zip(found, state, strict=True):
            set_tensors(one, own["kept"], one.device)
            internals.set_num_updates(one, own["updates"])
    else:
        load_foreign_metric(metric, state)


def load_foreign_metric(metric: object, state: Value) -> None:
    """Load the state of a metric that is neither ours nor torchmetrics'."""
    if has_own_state(metric):
        metric.load_state_dict(state)
    elif isinstance(metric, nn.Module):
        for name, buffer in metric.named_buffers():
            buffer.copy_(state[name])
    else:
        vars(metric).update(copy.deepcopy(state))


def load_own_metric(metric: Metric, state: Value) -> None:
    """Load the state of one of our metrics; some create their lists with the first batch."""
    device = metric.device
    for name in state["lists"][len(metric.lists):]:
        metric.add_list(name)
    set_tensors(metric, state["kept"], device)
    vars(metric).update(state["learned"])


def set_tensors(metric: object, values: Mapping[str, Value], device: torch.device) -> None:
    """Set attributes of a metric, with tensors and lists of tensors copied to its device."""
    for name, value in values.items():
        if isinstance(value, list):
            value = [one.to(device, copy=True) for one in value]
        elif isinstance(value, Tensor):
            value = value.to(device, copy=True)
        setattr(metric, name, value)
