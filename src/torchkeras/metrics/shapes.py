"""Which prediction belongs to which label, told from shapes and types alone."""

from __future__ import annotations

import math

from torch import Tensor

from torchkeras.engine.checks import bad_value
from torchkeras.metrics.base import widest


def layout(tensor: Tensor) -> tuple[int, ...]:
    """A shape without the dimensions of size 1 that follow the first: ``(N, 1)`` reads as ``(N,)``."""
    first, *rest = tensor.shape or (1,)
    return (first, *(size for size in rest if size != 1))


def paired(preds: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and labels, one to one, as two vectors."""
    if layout(preds) != layout(labels):
        raise mismatch(preds, labels, "one prediction a label, such as (N,) or (N, 1) with labels (N,)")
    return preds.reshape(-1), labels.reshape(-1)


def is_class_scores(preds: Tensor, labels: Tensor) -> bool:
    """Whether predictions have one dimension more than labels, the second, with a score for each class."""
    return preds.dim() > 1 and preds.shape[1] > 1 and layout(preds[:, 0]) == layout(labels)


def mismatch(preds: Tensor, labels: Tensor, expected: str) -> ValueError:
    """The error for predictions and labels that do not belong together."""
    fix = "For the scores (N, 2) of two classes, pass preds[:, 1] - preds[:, 0]." if preds.shape[1:] == (2,) else ""
    return bad_value("preds", received=f"shape {tuple(preds.shape)} with labels of shape {tuple(labels.shape)}",
                     expected=expected, fix=fix)


def precise(tensor: Tensor) -> Tensor:
    """Floats in at least float32, which holds every half-precision number exactly; other types as they are."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor


def wide(tensor: Tensor) -> Tensor:
    """Numbers in the most precise float of their device."""
    return tensor.to(widest(tensor.device))


class Cut:
    """Where a score becomes a yes: at a probability of ``threshold`` and above.

    A logit is compared with the logit of the threshold, log(t / (1 - t)), so nothing saturates. Whole numbers and
    bools are taken as decisions already made.
    """

    def __init__(self, threshold: float, from_logits: bool) -> None:
        if not 0 < threshold < 1:
            raise bad_value("threshold", received=threshold, expected="a probability between 0 and 1")
        self.score = math.log(threshold / (1 - threshold)) if from_logits else threshold

    def __call__(self, preds: Tensor) -> Tensor:
        """Which predictions say yes."""
        return precise(preds) >= self.score if preds.is_floating_point() else preds >= 0.5


def is_positive(labels: Tensor) -> Tensor:
    """Which labels are of the positive class: those from 0.5 on."""
    return labels >= 0.5
