"""Copy CPU tensors to page-locked memory, from which a GPU reads while the program goes on."""

from __future__ import annotations

import copy
from collections import UserDict
from collections.abc import Iterable
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from torchkeras.core.tree import leaves
from torchkeras.core.types import Leaf


def is_ordinary(leaf: Leaf) -> bool:
    """Tell whether a value is a tensor whose numbers lie in one block of memory, without a graph.

    Sparse, nested and quantized tensors cannot be pinned, nor can their memory be kept for a
    stream; a copy of one that requires grad belongs to the stream of its backward.
    """
    return (type(leaf) is Tensor and leaf.layout is torch.strided and not leaf.is_nested
            and not leaf.is_quantized and not leaf.requires_grad)


def tensors_within(leaf: Leaf) -> list[Tensor]:
    """Return the tensors in a batch's leaf, if they are ordinary and surely all; else none.

    A PackedSequence and a UserDict, as tokenizers make, show all they hold. Other objects that move
    themselves may keep tensors anywhere.
    """
    if is_ordinary(leaf):
        return [leaf]
    items: Iterable[Leaf] = ()
    if type(leaf) is PackedSequence:
        items = leaf
    elif isinstance(leaf, UserDict):
        items = leaves(leaf.data)
    found = [one for one in items if isinstance(one, Tensor)]
    return found if all(map(is_ordinary, found)) else []


def pinned(tensor: Tensor) -> Tensor:
    """Return a CPU tensor in page-locked memory; the same object if it is there already."""
    return tensor if tensor.is_pinned() else pinned_copy(tensor)


def pinned_copy(tensor: Tensor) -> Tensor:
    """Return a copy in page-locked memory: dense, since pin_memory cannot write expanded ones."""
    return torch.empty_like(tensor, pin_memory=True).copy_(tensor)


def index_on(index: Tensor, device: torch.device) -> Tensor:
    """Return an index on a device; a copy to a GPU does not wait for the work that is queued."""
    if index.device == device or not index.is_cpu or device.type not in ("cuda", "xpu"):
        return index.to(device)
    return pinned(index).to(device, non_blocking=True)


def moved_by_itself(leaf: Leaf, device: torch.device) -> Leaf:
    """Return what the method ``to`` of an object makes, and leave the object where it is.

    The batches of tokenizers and of graph libraries move in place: data of the user's, which would
    stay on the device after training.
    """
    if device.type != "cpu" and not isinstance(leaf, nn.Module):
        with suppress(Exception):  # a user's class may refuse copies in any way
            leaf = copy.copy(leaf)
    return leaf.to(device)
