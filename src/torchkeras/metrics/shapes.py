"""Pairing of predictions and labels by shape, and conversions of precision."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.metrics.base import widest


def squeezed(shape: Sequence[int]) -> tuple[int, ...]:
    """Return a shape without dimensions of size 1 after the first: ``(N, 1)`` becomes ``(N,)``."""
    first, *rest = shape or (1,)
    return (first, *[size for size in rest if size != 1])


def layout(tensor: Tensor) -> tuple[int, ...]:
    """Return a tensor's shape without the dimensions of size 1 that follow the first."""
    return squeezed(tensor.shape)


def paired(preds: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return predictions and labels, one to one, as two vectors."""
    if layout(preds) != layout(labels):
        raise shape_error(preds, labels,
                          "one prediction a label, such as (N,) or (N, 1) with labels (N,)")
    return preds.reshape(-1), labels.reshape(-1)


def shape_error(preds: Tensor, labels: Tensor, expected: str, fix: str = "") -> ValueError:
    """Return the error for predictions and labels whose shapes do not fit."""
    return bad_value(
        "preds", received=f"shape {tuple(preds.shape)} with labels of shape {tuple(labels.shape)}",
        expected=expected, fix=fix)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return floats in at least float32, which holds half precision exactly; others unchanged."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor


def wide(tensor: Tensor) -> Tensor:
    """Return numbers in the most precise float of their device."""
    return tensor.to(widest(tensor.device))
