"""Anything a user gives -> batches: arrays, frames, Datasets, DataLoaders, iterables."""

from torchkeras.data import batch
from torchkeras.data.arrays import ArrayDataset
from torchkeras.data.cache import cache
from torchkeras.data.seeded import seeded
from torchkeras.data.source import Batches, OutOfData, batches
from torchkeras.data.validation import split_validation

__all__ = ["ArrayDataset", "Batches", "OutOfData", "batch", "batches", "cache", "seeded", "split_validation"]
