"""Hold out the last part of the data for validation."""

from __future__ import annotations

from fractions import Fraction
from math import floor
from typing import Any

import torch
from torch.utils.data import Subset

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Data
from torchkeras.data.arrays import ArrayDataset
from torchkeras.data.kinds import array_tree, check_samples, is_map_dataset, refuse


def split_validation(data: Data, fraction: float, *, name: str = "train_data",
                     dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """Hold out the last samples for validation, in the order in which they came.

    Nothing is shuffled: shuffle sorted data (say, by class) before. Of n samples, the first
    floor(n * (1 - fraction)) are for training, as in Keras.

    Args:
        data: Arrays, alone or in tuples and dicts (sample weights are split along), or a Dataset.
        fraction: The part to hold out, between 0 and 1.
        name: The name of the data in errors.
        dtype: The dtype of floats of 64 bits, see :class:`ArrayDataset`.

    Returns:
        ``(train, val)``: tensors nested like the arrays, or two ``Subset``s of the Dataset.

    Raises:
        ValueError: The fraction is not between 0 and 1, or leaves nothing to train on.
        TypeError: The data brings its own batches, so it has no samples to split.

    Example:
        >>> import numpy as np
        >>> train, val = split_validation((np.zeros((10, 3)), np.arange(10)), 0.2)
        >>> train[1].tolist(), val[1].tolist()
        ([0, 1, 2, 3, 4, 5, 6, 7], [8, 9])
    """
    number = isinstance(fraction, (int, float)) and not isinstance(fraction, bool)
    if not number or not 0 < fraction < 1:
        raise bad_value("validation_split", received=repr(fraction),
                        expected="a number between 0 and 1",
                        fix="Pass 0.2 to hold out the last fifth.")
    refuse(data, name)
    arrays = array_tree(data)
    if arrays is not None:
        dataset = ArrayDataset(arrays, name=name, dtype=dtype)
        cut = _cut(len(dataset), fraction)
        return (map_tree(lambda tensor: tensor[:cut], dataset.tree),
                map_tree(lambda tensor: tensor[cut:], dataset.tree))
    if not is_map_dataset(data):
        raise bad_type(name, received=f"a {type(data).__name__} together with validation_split",
                       expected="arrays or a Dataset with a length",
                       fix="Pass val_data, or split the Dataset before with "
                           "torch.utils.data.random_split.")
    check_samples(data, name)
    cut = _cut(len(data), fraction)
    return Part(data, range(cut)), Part(data, range(cut, len(data)))


class Part(Subset[Any]):
    """A part of a Dataset that was split here; samples added later belong to neither part."""

    def __init__(self, dataset: Data, indices: range) -> None:
        super().__init__(dataset, indices)
        self.whole = len(dataset)

    def check(self, name: str) -> None:
        """Raise if samples were added to the Dataset, or removed, since it was split."""
        samples = len(self.dataset)  # type: ignore[arg-type]
        if samples != self.whole:
            raise bad_value(name, received=f"{samples} samples in place of the {self.whole} that "
                            "validation_split divided",
                            expected="as many samples as when it was divided",
                            fix="Divide it yourself, pass val_data, and let only the training "
                                "part grow.")


def _cut(count: int, fraction: float) -> int:
    # with binary floats, 10 * (1 - 0.9) is less than 1
    cut = floor(count * (1 - Fraction(str(float(fraction)))))
    if cut == 0:
        raise bad_value("validation_split", received=f"{fraction} of {count} samples",
                        expected="at least one sample left for training",
                        fix="Hold out less, or pass val_data.")
    return cut
