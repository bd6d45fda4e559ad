"""Move batches to an accelerator: all data at once if it fits, else beside the computation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchkeras.core.tree import map_tree
from torchkeras.core.types import Batch, Leaf
from torchkeras.data.batch import to_device

PART = 4  # data may take 1/4 of the memory that is free


def fits_on(tensors: list[Tensor], device: torch.device) -> bool:
    """Tell whether there is room for these tensors, which are not there yet, on an accelerator."""
    try:
        free, _ = torch.accelerator.get_memory_info(device)
    except Exception:  # Apple's devices do not tell; torch's error differs between releases
        return False
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) <= free // PART


class DevicePrefetcher:
    """Moves batches to a device; on CUDA in a stream beside the kernels of earlier steps.

    A copy from pageable memory would block the program, so batches are pinned first.

    Args:
        device: the device to move to.
        fresh: whether each batch has memory of its own. If not, a pinned batch is copied too, as
            the loader may write the next one into its memory before this one has arrived.
    """

    def __init__(self, device: torch.device, fresh: bool = False) -> None:
        self.device, self.pin = device, pinned if fresh else pinned_copy
        make_stream: Any = torch.cuda.Stream
        self.stream: Any = make_stream(device) if device.type == "cuda" else None

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch on the device."""
        if self.stream is None:
            return to_device(batch, self.device)
        with torch.cuda.stream(self.stream):
            moved = to_device(map_tree(self.pin, batch), self.device)
        working = torch.cuda.current_stream(self.device)
        working.wait_stream(self.stream)
        map_tree(lambda leaf: leaf.record_stream(working) if isinstance(leaf, Tensor) else None,
                 moved)
        return moved


def pinned(leaf: Leaf) -> Leaf:
    """Return a CPU tensor in page-locked memory; any other value as it is."""
    pageable = isinstance(leaf, Tensor) and leaf.is_cpu and not leaf.is_pinned()
    return leaf.pin_memory() if pageable else leaf


def pinned_copy(leaf: Leaf) -> Leaf:
    """Return the same; copy a tensor that is pinned already, as its loader may overwrite it."""
    reused = isinstance(leaf, Tensor) and leaf.is_cpu and leaf.is_pinned()
    return pinned(leaf.clone() if reused else leaf)
