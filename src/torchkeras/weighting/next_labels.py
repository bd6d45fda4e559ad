"""Predictions beside the labels that the loss of a language model compares them with: those of the next place."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from torchkeras.metrics.base import Metric
from torchkeras.metrics.buffered import Buffered
from torchkeras.metrics.function import FunctionMetric


def ready_made(metric: Any) -> bool:
    """Tell whether a metric is this library's or torchmetrics': one that cannot know which labels a loss compares.

    Functions, and objects of the user's own, get what the net put out: they may move it themselves.
    """
    home = type(metric).__module__
    ours = isinstance(metric, Metric) and not isinstance(metric, FunctionMetric) and home.startswith("torchkeras.")
    return ours or isinstance(metric, Buffered) or home.startswith("torchmetrics.")


def beside_next(metric: Any, preds: Any, labels: Any, *, classes_last: bool) -> tuple[Any, Any]:
    """Return predictions without the last place, and labels without the first, for a metric that cannot do so itself.

    Args:
        metric: for which they are; how it reads a shape decides where the shapes tell nothing.
        preds: scores ``(B, T, C)`` or ``(B, C, T)``, or one ``(B, T)``; others stay as they are.
        labels: ``(B, T)``.
        classes_last: whether the classes are known to be last, as in nets that bring their own loss.
    """
    if not (ready_made(metric) and isinstance(preds, Tensor) and isinstance(labels, Tensor) and labels.dim() == 2):
        return preds, labels
    last = preds.shape[:2] == labels.shape
    second = preds.dim() == 3 and (preds.shape[0], preds.shape[2]) == labels.shape
    if last and second and not classes_last:
        axis = getattr(getattr(metric, "task", None), "axis", None)
        if axis is None:
            return preds, labels  # the metric refuses them
        last = axis % 3 == 2
    if not last and not second:
        return preds, labels
    return (preds[:, :-1] if last else preds[:, :, :-1]), labels[:, 1:]
