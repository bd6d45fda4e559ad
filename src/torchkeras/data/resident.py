"""Move batches to an accelerator: all data at once if it fits, else beside the computation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from torchkeras.core.tree import map_tree
from torchkeras.core.types import Batch, Leaf
from torchkeras.data.batch import to_device
from torchkeras.data.pinning import pinned, pinned_copy, tensors_within

PART, MOST = 4, 4 << 30  # data may take 1/4 of the memory that is free, and no more bytes than this


def fits_on(size: int, device: torch.device) -> bool:
    """Tell whether there is room on an accelerator for so many bytes of data.

    It is asked before the net's activations and the optimizer's state are there.
    """
    try:
        free, _ = torch.accelerator.get_memory_info(device)
    except Exception:  # Apple's devices do not tell; torch's error differs between releases
        return False
    return size <= min((free + cached(device)) // PART, MOST)


def cached(device: torch.device) -> int:
    """Return the bytes that torch's allocator holds unused: free to this process alone."""
    try:
        reserved = torch.accelerator.memory_reserved(device)
        return max(reserved - torch.accelerator.memory_allocated(device), 0)
    except Exception:  # not every device counts
        return 0


class DevicePrefetcher:
    """Moves batches to a device; on CUDA in a stream beside the kernels of earlier steps.

    A copy from pageable memory would block the program, so tensors are pinned first. The memory of
    a copy is that stream's: torch must know which other stream reads it, or it gives the memory to
    the next copy while a step still reads. So an object that moves itself, and may hold tensors out
    of sight, moves in the stream that computes.

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
        copies: list[Tensor] = []

        def begin(leaf: Leaf) -> Leaf:
            tensors = tensors_within(leaf)
            if not tensors or not all(one.is_cpu for one in tensors):
                return leaf
            ready = self.pin(leaf) if isinstance(leaf, Tensor) else leaf
            moved = to_device(ready, self.device)
            copies.extend(tensors_within(moved))
            return moved

        with torch.cuda.stream(self.stream):
            moved = map_tree(begin, batch)
        working = torch.cuda.current_stream(self.device)
        working.wait_stream(self.stream)
        for one in copies:
            if not one.is_cpu:  # lengths of a PackedSequence stay there
                one.record_stream(working)
        return to_device(moved, self.device)
