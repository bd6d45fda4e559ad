"""Turn arrays in ready batches, from generators, lists and DataLoaders, into tensors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from torchkeras.core.tree import leaves, map_tree
from torchkeras.core.types import Batch, Leaf
from torchkeras.data.arrays import array_to_tensor, as_it_is, is_array


class BatchReader:
    """Returns the batches of one pass with tensors in place of arrays of numbers.

    The first batch decides: if it holds no array, all are returned as they are. Dtypes are those of
    :class:`torchkeras.data.arrays.ArrayDataset`. Arrays of text and of objects stay as they are,
    for nets that take them.

    Args:
        dtype: the dtype of floats of 64 bits; None means torch's default.

    Example:
        >>> x, y = BatchReader()((np.zeros((2, 3)), np.arange(2, dtype=np.int32)))
        >>> x.dtype, y.dtype
        (torch.float32, torch.int64)
    """

    def __init__(self, dtype: torch.dtype | None = None) -> None:
        self.dtype = dtype
        self.convert: Callable[[Batch], Batch] | None = None

    def __call__(self, batch: Batch) -> Batch:
        """Return a batch of tensors."""
        if self.convert is None:
            self.convert = self.of_tensors if any(map(is_numbers, leaves(batch))) else as_it_is
        return self.convert(batch)

    def of_tensors(self, batch: Batch) -> Batch:
        """Return a batch with its arrays converted."""
        return map_tree(self.converted, batch)

    def converted(self, leaf: Leaf) -> Leaf:
        """Return a tensor for an array of numbers; anything else as it is."""
        if not is_numbers(leaf):
            return leaf
        array = leaf if isinstance(leaf, np.ndarray) else leaf.to_numpy()
        if not array.flags.writeable:  # a net that writes to its input must not reach this memory
            array = array.copy()
        return array_to_tensor(array, self.dtype or torch.get_default_dtype())


def is_numbers(leaf: Leaf) -> bool:
    """Tell whether a value is an array or frame of numbers or bools, none of them masked."""
    if isinstance(leaf, (Tensor, np.ma.MaskedArray)) or not is_array(leaf):
        return False
    array = leaf if isinstance(leaf, np.ndarray) else leaf.to_numpy()
    return array.dtype.kind in "biufc"
