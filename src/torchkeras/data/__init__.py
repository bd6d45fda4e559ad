"""Anything a user gives -> batches: arrays, frames, Datasets, DataLoaders, iterables, texts, folders of images."""

from torchkeras.data import batch
from torchkeras.data.arrays import ArrayDataset
from torchkeras.data.cache import cache
from torchkeras.data.images import ImageFolder
from torchkeras.data.iterate import data_iter
from torchkeras.data.seeded import seeded
from torchkeras.data.source import Batches, OutOfData, batches
from torchkeras.data.text import Vocabulary, clean_text, pad, text_dataset
from torchkeras.data.validation import split_validation

__all__ = ["ArrayDataset", "Batches", "ImageFolder", "OutOfData", "Vocabulary", "batch", "batches", "cache",
           "clean_text", "data_iter", "pad", "seeded", "split_validation", "text_dataset"]
