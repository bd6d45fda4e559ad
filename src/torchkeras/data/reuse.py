"""Copies of batches whose memory a loader uses again for the next one: preallocated tensors, buffers of numpy."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import default_collate as torch_collate

from torchkeras.core.tree import map_tree

ALIGNED = 64  # bytes; kernels are chosen by where a tensor begins between two such places
CONSTANT = (str, bytes, int, float, complex, bool, type(None), np.generic)


def gives_fresh(source: Any) -> bool:
    """Whether each batch of a source has memory of its own for sure: torch stacks samples to a new tensor."""
    if isinstance(source, (list, tuple)):
        return True
    return isinstance(source, DataLoader) and type(source).__iter__ is DataLoader.__iter__ and (
        source.num_workers > 0 or (source.batch_sampler is not None and source.collate_fn is torch_collate))


def holder(loader: Any) -> Callable[[Any], Any]:
    """What holds a batch while the next ones are read: a copy, unless its memory is not used again."""
    return same if getattr(loader, "fresh", False) else kept


def same(batch: Any) -> Any:
    """The batch itself."""
    return batch


def kept(batch: Any) -> Any:
    """A copy of a batch that stays as it is whatever its loader does, for a net to compute the same from."""
    return map_tree(copied, batch)


def copied(leaf: Any) -> Any:
    """A copy of one value in a batch; a tensor keeps its strides and its alignment."""
    if isinstance(leaf, CONSTANT):
        return leaf
    if type(leaf) is Tensor and leaf.layout == torch.strided and leaf.is_cpu and leaf.numel() and not (
            leaf.requires_grad or leaf.is_conj() or leaf.is_neg() or leaf.is_quantized or leaf.is_nested):
        return copied_alike(leaf)
    try:
        return leaf.clone() if callable(getattr(leaf, "clone", None)) else copy.deepcopy(leaf)
    except Exception:  # an object of somebody else's may refuse in any way
        return leaf


def copied_alike(tensor: Tensor) -> Tensor:
    """A copy with the same strides that begins as far from an aligned place."""
    extent = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    room = torch.empty(extent * tensor.element_size() + ALIGNED, dtype=torch.uint8)
    begin = (tensor.data_ptr() - room.data_ptr()) % ALIGNED
    if begin % tensor.element_size():
        return tensor.clone()
    flat = room[begin:begin + extent * tensor.element_size()].view(tensor.dtype)
    flat.copy_(tensor.as_strided((extent,), (1,)))
    return flat.as_strided(tensor.shape, tensor.stride())
