"""Anything a user gives -> batches: arrays, frames, Datasets, DataLoaders, iterables."""

from torchkeras.data import batch
from torchkeras.data.arrays import ArrayDataset
from torchkeras.data.source import Batches, OutOfData, batches
from torchkeras.data.validation import split_validation

__all__ = ["ArrayDataset", "Batches", "OutOfData", "batch", "batches", "split_validation"]
