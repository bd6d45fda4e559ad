"""Take single samples out of a batch of any layout, and replace its labels."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from torchkeras.core.tree import map_tree
from torchkeras.core.types import Batch, Leaf
from torchkeras.data.batch import LABEL_KEYS, Items, as_inputs, label_key


class Indivisible(Exception):
    """A batch out of which single samples cannot be taken."""

    def __str__(self) -> str:
        return "single samples cannot be taken of its batches"


def take_samples(batch: Batch, rows: list[int], samples: int, inside: bool = False) -> Batch:
    """Return some samples of a batch.

    Raises:
        Indivisible: a tensor in it does not have a row for each sample.
    """
    if type(batch) in (tuple, list):
        if has_item_per_sample(batch, samples, inside):
            return type(batch)(batch[row] for row in rows)
        items = len(batch) == 2 and isinstance(batch[0], (tuple, list)) and isinstance(
            as_inputs(batch[0], batch[1], None), Items)
        if items:
            return type(batch)(type(value)(value[row] for row in rows) for value in batch)
        return type(batch)(take_samples(value, rows, samples, inside=True) for value in batch)
    if isinstance(batch, Mapping):
        return {name: take_samples(value, rows, samples, inside=True)
                for name, value in batch.items()}
    return map_tree(lambda leaf: take_rows(leaf, rows, samples), batch)


def has_item_per_sample(batch: Batch, samples: int, inside: bool) -> bool:
    """Tell whether a list in a batch has an item for each sample, not for each input."""
    rows = [isinstance(one, (Tensor, np.ndarray, tuple, list)) and bool(getattr(one, "ndim", 1))
            and len(one) == samples for one in batch]
    if inside and len(batch) == samples > 1 and all(rows):
        raise Indivisible  # it may be either
    return inside and len(batch) == samples and not any(rows)


def take_rows(leaf: Leaf, rows: list[int], samples: int) -> Leaf:
    """Return some rows of a tensor or array; return anything else as it is."""
    if isinstance(leaf, (Tensor, np.ndarray)) and leaf.ndim:
        if len(leaf) != samples or (isinstance(leaf, Tensor) and not has_rows(leaf)):
            raise Indivisible
        return leaf[rows]
    if hasattr(leaf, "to") and not isinstance(leaf, Tensor):
        raise Indivisible
    return leaf


def with_labels(batch: Batch, labels: Tensor | None, net: nn.Module) -> Batch:
    """Return a batch with other labels."""
    if labels is None:
        return batch
    if isinstance(batch, Mapping):
        return {**batch, label_key(batch, net) or LABEL_KEYS[0]: labels}
    if type(batch) in (tuple, list) and len(batch) > 1:
        return type(batch)([batch[0], labels, *batch[2:]])
    raise Indivisible


def has_rows(tensor: Tensor) -> bool:
    """Tell whether a tensor can be indexed by row: it is neither nested nor sparse."""
    return not tensor.is_nested and tensor.layout == torch.strided and tensor.dim() > 0
