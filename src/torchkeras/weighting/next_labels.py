"""Align predictions with the next label, as language models compare them."""

from __future__ import annotations

from torch import Tensor

from torchkeras.core.types import Labels, Preds
from torchkeras.metrics.base import Metric
from torchkeras.metrics.buffered import Buffered
from torchkeras.metrics.function import FunctionMetric


def is_library_metric(metric: object) -> bool:
    """Tell whether a metric is this library's or torchmetrics', and so takes aligned labels.

    Functions, and objects of a user's own, get the net's output, and may align it themselves.
    """
    home = type(metric).__module__
    ours = isinstance(metric, Metric) and home.startswith("torchkeras.") and (
        not isinstance(metric, FunctionMetric))
    return ours or isinstance(metric, Buffered) or home.startswith("torchmetrics.")


def align_with_next(metric: object, preds: Preds, labels: Labels, *,
                    classes_last: bool) -> tuple[Preds, Labels]:
    """Drop the last prediction and the first label, for a metric that cannot do so itself.

    Args:
        metric: the metric; where shapes are ambiguous, its own reading of them decides.
        preds: scores ``(B, T, C)`` or ``(B, C, T)``, or one ``(B, T)``; others are returned as is.
        labels: ``(B, T)``.
        classes_last: whether the classes are known to be last, as in nets that return their loss.
    """
    if not (is_library_metric(metric) and isinstance(preds, Tensor)
            and isinstance(labels, Tensor) and labels.dim() == 2):
        return preds, labels
    last = preds.shape[:2] == labels.shape
    second = preds.dim() == 3 and (preds.shape[0], preds.shape[2]) == labels.shape
    if last and second and not classes_last:
        axis = getattr(getattr(metric, "task", None), "axis", None)
        if axis is None:
            return preds, labels  # the metric raises
        last = axis % 3 == 2
    if not last and not second:
        return preds, labels
    return (preds[:, :-1] if last else preds[:, :, :-1]), labels[:, 1:]
