"""Shuffled batches for a loop of your own."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from torchkeras.core.errors import whole_number
from torchkeras.core.types import Data
from torchkeras.data.arrays import ArrayDataset


def data_iter(features: Data, labels: Data, batch_size: int = 8,
              shuffle: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
    """Go once through features and labels in batches, in a new order each time.

    Args:
        features: tensor, array, frame or list whose first dimension counts the samples.
        labels: the same for the labels.
        batch_size: samples a batch; the last may have fewer.
        shuffle: False keeps the order; else it is drawn from torch's global random state.

    Returns:
        An iterator over ``(features, labels)`` of each batch, as tensors on the device of what
        was given.

    Raises:
        TypeError: features or labels are no arrays of numbers, or ``batch_size`` is no int.
        ValueError: they differ in length, there is no sample, or ``batch_size`` is below 1.

    Example:
        >>> batches = data_iter(torch.arange(10.0)[:, None], torch.arange(10), batch_size=4)
        >>> [tuple(x.shape) for x, y in batches]
        [(4, 1), (4, 1), (2, 1)]
    """
    whole_number("batch_size", batch_size, least=1)
    dataset = ArrayDataset({"features": features, "labels": labels})
    x, y = dataset.tree["features"], dataset.tree["labels"]
    order = torch.randperm(len(dataset)) if shuffle else torch.arange(len(dataset))
    return ((x[index.to(x.device)], y[index.to(y.device)])
            for index in torch.split(order, batch_size))
