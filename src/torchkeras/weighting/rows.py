"""Build the row of a pass from the numbers of its steps and metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchkeras.core.types import Count, Logs, Metric, Row
from torchkeras.weighting.averages import number
from torchkeras.weighting.weighing import Terms


def metric_values(metrics: Mapping[str, Metric], stage: str) -> Row:
    """Return each metric's number under its stage; a metric that gives a dict fills several."""
    row: Row = {}
    for name, metric in metrics.items():
        value = metric.compute()
        if isinstance(value, dict):
            row.update({f"{stage}_{name}_{key}": number(name, one) for key, one in value.items()})
        else:
            row[f"{stage}_{name}"] = number(name, value)
    return row


def cheap_ones(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metrics that cost little to compute."""
    return {name: one for name, one in metrics.items() if getattr(one, "cheap", False)}


def averaged(last: Logs, metrics: Mapping[str, Any], stage: str) -> Row:
    """Return the numbers of a step that are averaged: no loss, rate or metric."""
    measured = {f"{stage}_{name}" for name in metrics}
    return {name: number(name, value) for name, value in last.items()
            if not is_rate(name) and name not in measured}


def with_others(row: Row, last: Logs, means: Row) -> Row:
    """Return a row with the other numbers of steps: their means over samples, the last rates."""
    found = {name: number(name, value) for name, value in last.items()}
    others = {name: value if is_rate(name) else means.get(name, value)
              for name, value in found.items()}
    others |= {name: value for name, value in means.items() if name not in last}
    return row | {name: value for name, value in others.items() if name not in row}


def is_rate(name: str) -> bool:
    """Tell whether a number is a learning rate; an epoch has its last value, not its mean."""
    return name in ("lr", "learning_rate") or name.endswith("_lr")


def counted_anew(now: Count, before: Count) -> Count:
    """Return the new count of a batch, with the losses that its step gave before."""
    return now._replace(losses=before.losses, scales=before.scales) if (
        isinstance(before, Terms)) else now
