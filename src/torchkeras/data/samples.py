"""Count the samples of a batch: what it says itself, its labels, its features."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from torchkeras.core.errors import bad_value
from torchkeras.data.batch import Items, fields_of, split


def size(batch: Any, net: nn.Module | None = None) -> int:
    """Count the samples of a batch, so that means over an epoch weigh each sample once.

    Args:
        batch: one batch in any of the layouts that :func:`torchkeras.data.batch.split` knows.
        net: whose forward tells inputs from labels.

    Returns:
        What the batch says itself (``num_graphs``, ``batch_size``); else the number of its labels; else the length of
        its features. A list that holds one item a sample counts its items, such as images of unlike sizes.

    Raises:
        ValueError: nothing in the batch tells.

    Example:
        >>> import torch
        >>> size({"scale": torch.tensor(2.0), "image": torch.ones(5, 3)})
        5
        >>> size(((torch.ones(3, 8, 9), torch.ones(3, 6, 7)), ({"box": torch.ones(4)}, {"box": torch.ones(4)})))
        2
    """
    if type(batch) is list and len(batch) == 2 and type(batch[1]) is Tensor and batch[1].ndim:
        return batch[1].shape[0]  # what a DataLoader gives, without a walk through it
    found = declared(batch)
    if found is None:
        features, labels, _ = parts_of(batch, net)
        found = len(labels) if isinstance(features, Items) and isinstance(labels, (list, tuple)) else length(
            labels, ragged=True)
        found = length(features) if found is None else found
    if found is None:
        raise bad_value("batch", received=f"a {type(batch).__name__} in which nothing tells how many samples it has",
                        expected="a tensor of shape (N, ...) somewhere in it",
                        fix="Let collate_fn return tensors, or say it in StepRunner.count(batch).")
    return found


def parts_of(batch: Any, net: nn.Module | None = None) -> tuple[Any, Any, Any]:
    """Return features, labels and what else there is, of a batch in any layout: a step of one's own takes others."""
    try:
        return split(batch, net, whole_numbers=True)
    except ValueError:
        if type(batch) in (tuple, list) and len(batch) > 1:
            return batch[0], batch[1], batch[2:]
        return batch, None, None


def declared(value: Any) -> int | None:
    """Return the number of samples that an object tells of itself; None for one that does not."""
    if isinstance(value, (Tensor, np.ndarray, list, tuple, dict, str)) and not isinstance(value, PackedSequence):
        return None
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    for name in ("num_graphs", "batch_size"):
        count = getattr(value, name, None)
        if isinstance(count, tuple) and count:  # of a TensorDict
            count = count[0]
        if isinstance(count, int) and not isinstance(count, bool):
            return count
    return None


def length(value: Any, ragged: bool = False) -> int | None:
    """Return how many samples a part of a batch has: rows of its tensors, or items of a list; None if nothing tells.

    Args:
        value: features or labels.
        ragged: whether tensors of unlike lengths in a list are one a sample, as labels are; several inputs of a net
            may be of unlike lengths (the edges of a graph), which tells nothing.
    """
    if isinstance(value, (Tensor, np.ndarray)):
        return int(value.shape[0]) if value.ndim else None
    if (count := declared(value)) is not None:
        return count
    if isinstance(value, Items):
        return len(value)
    if isinstance(value, (tuple, list)) and not hasattr(value, "_asdict"):
        return length_of_list(value, ragged)
    found = {one for one in map(length, (fields_of(value) or {}).values()) if one is not None}
    return found.pop() if len(found) == 1 else None


def length_of_list(value: Any, ragged: bool) -> int | None:
    """Return the number of samples of a list: the rows of its tensors, or its items where they have no rows."""
    rows = [length(item) for item in value if isinstance(item, (Tensor, np.ndarray, PackedSequence)) or declared(item)]
    known = {one for one in rows if one is not None}
    if len(known) == 1:
        return known.pop()
    if known:
        return len(value) if ragged else None
    inner = {len(item) for item in value if isinstance(item, (tuple, list))}
    if type(value) is tuple and len(inner) == 1 and all(isinstance(item, (tuple, list)) for item in value):
        return inner.pop()  # several lists, each with an item a sample
    return len(value) or None
