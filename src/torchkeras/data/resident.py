"""Batches on an accelerator: from data that lives there where it fits, else copied beside the computation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchkeras.core.tree import map_tree
from torchkeras.data.batch import to_device

PART = 4  # data may take one part in so many of the memory that is free


def fits(tensors: list[Tensor], device: torch.device) -> bool:
    """Whether these tensors, which are not there yet, may live on an accelerator."""
    try:
        free, _ = torch.accelerator.get_memory_info(device)
    except Exception:  # Apple's devices do not tell, and torch has another error for it with every release
        return False
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= free // PART


class Mover:
    """Moves batches to a device; on CUDA on a stream of its own, which runs beside the kernels of earlier steps.

    A copy from memory that the system may page out would hold up the program, so batches are pinned first.

    Args:
        device: where to.
        fresh: whether each batch has memory of its own; else pinned memory is copied too, which the loader may write
            the next batch into before this one has arrived.
    """

    def __init__(self, device: torch.device, fresh: bool = False) -> None:
        self.device, self.pin = device, pinned if fresh else pinned_copy
        self.stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Any) -> Any:
        """The batch on the device."""
        if self.stream is None:
            return to_device(batch, self.device)
        with torch.cuda.stream(self.stream):
            moved = to_device(map_tree(self.pin, batch), self.device)
        working = torch.cuda.current_stream(self.device)
        working.wait_stream(self.stream)
        map_tree(lambda leaf: leaf.record_stream(working) if isinstance(leaf, Tensor) else None, moved)
        return moved


def pinned(leaf: Any) -> Any:
    """A tensor of the CPU in memory that is never paged out."""
    return leaf.pin_memory() if isinstance(leaf, Tensor) and leaf.is_cpu and not leaf.is_pinned() else leaf


def pinned_copy(leaf: Any) -> Any:
    """The same of a tensor in pinned memory that its loader may use again."""
    return pinned(leaf.clone() if isinstance(leaf, Tensor) and leaf.is_cpu and leaf.is_pinned() else leaf)
