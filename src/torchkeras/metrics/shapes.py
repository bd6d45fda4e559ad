"""Which prediction belongs to which label, told from shapes and types alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.metrics.base import widest


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without the dimensions of size 1 that follow the first: ``(N, 1)`` reads as ``(N,)``."""
    first, *rest = shape or (1,)
    return (first, *[size for size in rest if size != 1])


def layout(tensor: Tensor) -> tuple[int, ...]:
    """Return a tensor's shape without the dimensions of size 1 that follow the first."""
    return squeezed(tensor.shape)


def paired(preds: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return predictions and labels, one to one, as two vectors."""
    if layout(preds) != layout(labels):
        raise mismatch(preds, labels, "one prediction a label, such as (N,) or (N, 1) with labels (N,)")
    return preds.reshape(-1), labels.reshape(-1)


def mismatch(preds: Tensor, labels: Tensor, expected: str, fix: str = "") -> ValueError:
    """Return the error for predictions and labels that do not belong together."""
    return bad_value("preds", received=f"shape {tuple(preds.shape)} with labels of shape {tuple(labels.shape)}",
                     expected=expected, fix=fix)


def precise(tensor: Tensor) -> Tensor:
    """Return floats in at least float32, which holds every half-precision number exactly; other types as they are."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor


def wide(tensor: Tensor) -> Tensor:
    """Return numbers in the most precise float of their device."""
    return tensor.to(widest(tensor.device))
