"""What a metric has counted so far, as values that can be saved in mid-epoch and put back."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

from torchkeras.distributed.reducible_metrics import Replayed, torchmetrics_of
from torchkeras.metrics.base import Metric
from torchkeras.metrics.buffered import Buffered
from torchkeras.metrics.function import Accumulating

LEARNED = ("layout", "waiting")  # what a FunctionMetric knows of its batches beside them


def counted(metric: Any) -> Any:
    """The state of a metric of any make."""
    if isinstance(metric, Buffered):
        metric.flush()
        return counted(metric.metric)
    if isinstance(metric, Accumulating):
        return counted(metric.inner)
    if isinstance(metric, Replayed):
        return metric.kept
    if isinstance(metric, Metric):
        return {"kept": {name: getattr(metric, name) for name in (*metric.sums, *metric.lists)}, "lists": metric.lists,
                "learned": {name: vars(metric)[name] for name in LEARNED if name in vars(metric)}}
    if found := torchmetrics_of(metric):
        return [{"updates": one._update_count, "kept": {name: getattr(one, name) for name in one._reductions}}
                for one in found]
    if has_own_state(metric):
        return metric.state_dict()
    return dict(metric.named_buffers()) if isinstance(metric, nn.Module) else dict(vars(metric))


def has_own_state(metric: Any) -> bool:
    """Whether a metric says itself what its state is; a module whose buffers are not in it does not."""
    return callable(getattr(metric, "state_dict", None)) and bool(metric.state_dict())


def put_counted(metric: Any, state: Any) -> None:
    """Put back what :func:`counted` gave."""
    if isinstance(metric, (Buffered, Accumulating)):
        metric.reset()
        put_counted(metric.metric if isinstance(metric, Buffered) else metric.inner, state)
    elif isinstance(metric, Replayed):
        metric.kept = list(state)
    elif isinstance(metric, Metric):
        put_ours(metric, state)
    elif found := torchmetrics_of(metric):
        for one, own in zip(found, state, strict=True):
            put_attributes(one, own["kept"], one.device)
            one._update_count, one._computed = own["updates"], None
    else:
        put_others(metric, state)


def put_others(metric: Any, state: Any) -> None:
    """Put back the state of a metric of another make."""
    if has_own_state(metric):
        metric.load_state_dict(state)
    elif isinstance(metric, nn.Module):
        for name, buffer in metric.named_buffers():
            buffer.copy_(state[name])
    else:
        vars(metric).update(copy.deepcopy(state))


def put_ours(metric: Metric, state: Any) -> None:
    """Put back the state of one of our own metrics, whose lists may come into being with the first batch."""
    device = metric.device
    for name in state["lists"][len(metric.lists):]:
        metric.add_list(name)
    put_attributes(metric, state["kept"], device)
    vars(metric).update(state["learned"])


def put_attributes(metric: Any, values: dict[str, Any], device: Any) -> None:
    """Set tensors, and lists of them, copied to where a metric counts."""
    for name, value in values.items():
        setattr(metric, name, [one.to(device, copy=True) for one in value] if isinstance(value, list)
                else value.to(device, copy=True) if isinstance(value, Tensor) else value)
