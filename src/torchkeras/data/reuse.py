"""Copy batches whose memory their loader uses again: preallocated tensors, numpy's buffers."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import default_collate as torch_collate

from torchkeras.core.tree import map_tree
from torchkeras.core.types import Batch, Leaf, Source
from torchkeras.data.arrays import as_it_is

ALIGNED = 64  # bytes; kernels are chosen by how far from such an address a tensor begins
CONSTANT = (str, bytes, int, float, complex, bool, type(None), np.generic)


def gives_fresh(source: Source) -> bool:
    """Tell whether each batch of a source surely has memory of its own: torch's collate copies."""
    if isinstance(source, (list, tuple)):
        return True
    if not isinstance(source, DataLoader) or type(source).__iter__ is not DataLoader.__iter__:
        return False
    stacks = source.batch_sampler is not None and source.collate_fn is torch_collate
    return source.num_workers > 0 or stacks


def copier_for(loader: object) -> Callable[[Batch], Batch]:
    """Return a function that keeps a batch while more are read: it copies if memory is reused."""
    return as_it_is if getattr(loader, "fresh", False) else copy_batch




def copy_batch(batch: Batch) -> Batch:
    """Return a copy of a batch that a net computes bit-identical results from."""
    return map_tree(copy_leaf, batch)


def copy_leaf(leaf: Leaf) -> Leaf:
    """Return a copy of one value of a batch; a tensor keeps its strides and its alignment."""
    if isinstance(leaf, CONSTANT):
        return leaf
    ordinary = (type(leaf) is Tensor and leaf.layout == torch.strided and leaf.is_cpu
                and leaf.numel())
    if ordinary and not (leaf.requires_grad or leaf.is_conj() or leaf.is_neg()
                         or leaf.is_quantized or leaf.is_nested):
        return copy_aligned(leaf)
    try:
        return leaf.clone() if callable(getattr(leaf, "clone", None)) else copy.deepcopy(leaf)
    except Exception:  # a user's object may refuse in any way
        return leaf


def copy_aligned(tensor: Tensor) -> Tensor:
    """Return a copy with the same strides, as far from an aligned address as the original."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    extent = sum((size - 1) * stride for size, stride in sizes) + 1
    room = torch.empty(extent * tensor.element_size() + ALIGNED, dtype=torch.uint8)
    begin = (tensor.data_ptr() - room.data_ptr()) % ALIGNED
    if begin % tensor.element_size():
        return tensor.clone()
    flat = room[begin:begin + extent * tensor.element_size()].view(tensor.dtype)
    flat.copy_(tensor.as_strided((extent,), (1,)))
    return flat.as_strided(tensor.shape, tensor.stride())
