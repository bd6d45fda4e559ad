"""Count the samples of a batch: by its own attribute, by its labels, or by its features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from torchkeras.core.errors import bad_value
from torchkeras.core.types import Batch, Value
from torchkeras.data.batch import Items, fields_of, split


def size(batch: Batch, net: nn.Module | None = None) -> int:
    """Count the samples of a batch, the weight of its mean loss in the mean of an epoch.

    Args:
        batch: one batch in any of the layouts that :func:`torchkeras.data.batch.split` knows.
        net: the net, whose forward tells inputs from labels.

    Returns:
        The attribute ``num_graphs`` or ``batch_size`` of the batch; else the number of its labels;
        else the length of its features. A list with one item per sample, such as images of unequal
        sizes, counts its items.

    Raises:
        ValueError: the number of samples cannot be read from the batch.

    Example:
        >>> import torch
        >>> size({"scale": torch.tensor(2.0), "image": torch.ones(5, 3)})
        5
        >>> images, boxes = torch.ones(3, 8, 9), {"box": torch.ones(4)}
        >>> size(((images, images[:, 1:]), (boxes, boxes)))
        2
    """
    if type(batch) is list and len(batch) == 2 and type(batch[1]) is Tensor and batch[1].ndim:
        return batch[1].shape[0]  # the usual batch of a DataLoader, without the checks below
    found = declared_size(batch)
    if found is None:
        features, labels, _ = split_any_layout(batch, net)
        listed = isinstance(features, Items) and isinstance(labels, (list, tuple))
        found = len(labels) if listed else length(labels, ragged=True)
        found = length(features) if found is None else found
    if found is None:
        raise bad_value("batch", received=f"a {type(batch).__name__} whose number of samples is "
                                          "not known",
                        expected="a tensor of shape (N, ...) somewhere in it",
                        fix="Let collate_fn return tensors, or say it in StepRunner.count(batch).")
    return found


def split_any_layout(batch: Batch, net: nn.Module | None = None) -> tuple[Any, Any, Any]:
    """Return features, labels and the rest of a batch, also in a layout that only users know."""
    if type(batch) is list and len(batch) == 2 and type(batch[0]) is Tensor:
        return batch[0], batch[1], None  # the usual batch of a DataLoader, as split does it
    try:
        return split(batch, net, whole_numbers=True)
    except ValueError:
        if type(batch) in (tuple, list) and len(batch) > 1:
            return batch[0], batch[1], batch[2:]
        return batch, None, None




def declared_size(value: Value) -> int | None:
    """Return the number of samples that an object has as an attribute; None if it has none."""
    if isinstance(value, PackedSequence):
        return int(value.batch_sizes[0])
    if isinstance(value, (Tensor, np.ndarray, list, tuple, dict, str)):
        return None
    for name in ("num_graphs", "batch_size"):
        count = getattr(value, name, None)
        if isinstance(count, tuple) and count:  # of a TensorDict
            count = count[0]
        if isinstance(count, int) and not isinstance(count, bool):
            return count
    return None


def length(value: Value, ragged: bool = False) -> int | None:
    """Return how many samples a part of a batch has, by its tensors or lists; None if unknown.

    Args:
        value: features or labels.
        ragged: whether tensors of unequal lengths in a list are one per sample, as labels are.
            Several inputs of a net may be of unequal lengths (the edges of a graph), which tells
            nothing.
    """
    if isinstance(value, (Tensor, np.ndarray)):
        return int(value.shape[0]) if value.ndim else None
    if (count := declared_size(value)) is not None:
        return count
    if isinstance(value, Items):
        return len(value)
    if isinstance(value, (tuple, list)) and not hasattr(value, "_asdict"):
        return length_of_list(value, ragged)
    found = {one for one in map(length, (fields_of(value) or {}).values()) if one is not None}
    return found.pop() if len(found) == 1 else None


def length_of_list(value: Sequence[Any], ragged: bool) -> int | None:
    """Return the samples of a list: the rows of its tensors, or its items if they have no rows."""
    rows = [length(item) for item in value
            if isinstance(item, (Tensor, np.ndarray, PackedSequence)) or declared_size(item)]
    known = {one for one in rows if one is not None}
    if len(known) == 1:
        return known.pop()
    if known:
        return len(value) if ragged else None
    inner = {len(item) for item in value if isinstance(item, (tuple, list))}
    if type(value) is tuple and len(inner) == 1 and all(
            isinstance(item, (tuple, list)) for item in value):
        return inner.pop()  # several lists, each with an item per sample
    return len(value) or None
