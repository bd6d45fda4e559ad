"""Recognise the kind of data that was given, and turn it into an iterable of batches."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from numbers import Number
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.types import Data
from torchkeras.data.arrays import ArrayDataset, is_array, is_number_list

ACCEPTED = ("a DataLoader, a Dataset, arrays of numpy, torch or pandas (one, (x, y), "
            "(x, y, sample_weight) or a dict), or an iterable of batches")


def loader_of(data: Data, *, name: str, batch_size: int | None, shuffle: bool,
              dtype: torch.dtype | None = None, draws: bool = True) -> Iterable[Any]:
    """Return an iterable of batches for any data; ``batch_size`` None means 32 if made here.

    A DataLoader draws a seed for its workers in each pass, from torch's global generator unless it
    has its own.
    """
    generator = None if draws else torch.Generator()
    refuse(data, name)
    arrays = array_tree(data)
    if arrays is not None:
        dataset = ArrayDataset(arrays, name=name, dtype=dtype)
        return dataset.loader(batch_size or 32, shuffle, generator=generator)
    if isinstance(data, IterableDataset):
        return _stream_loader(data, name, batch_size, shuffle, generator)
    if is_map_dataset(data):
        check_samples(data, name)
        return DataLoader(data, batch_size or 32, shuffle, generator=generator)
    _refuse_options(data, name, batch_size, shuffle)
    ready: Iterable[Any] = data
    return ready


def refuse(data: Data, name: str) -> None:
    """Raise for values that cannot be data."""
    if isinstance(data, type):
        raise bad_type(name, received=f"the class {data.__name__}", expected=ACCEPTED,
                       fix=f"Did you mean {data.__name__}(...)?")
    if inspect.isroutine(data):
        raise bad_type(name, received=f"the function {data.__name__}", expected=ACCEPTED,
                       fix=f"Did you mean {data.__name__}()?")
    if isinstance(data, (str, bytes, Number, nn.Module)) or not _iterable(data):
        kind = "None" if data is None else f"a {type(data).__name__}"
        raise bad_type(name, received=kind, expected=ACCEPTED,
                       fix="For samples of another kind, write a Dataset.")
    if isinstance(data, (list, tuple, Mapping)) and not data:
        raise bad_value(name, received=f"an empty {type(data).__name__}",
                        expected="at least one batch or array", fix="Check the code that fills it.")


def _iterable(data: Data) -> bool:
    return hasattr(data, "__iter__") or hasattr(data, "__getitem__") or isinstance(data, Dataset)


def array_tree(data: Data) -> Any | None:
    """Return the arrays in the data, nested for :class:`ArrayDataset`; None for other data.

    A tuple or dict is arrays. A list is arrays when one of its elements is an array, or when it
    holds numbers; any other list is a list of ready batches.
    """
    if isinstance(data, ArrayDataset):
        return data.tree
    if is_array(data) or is_number_list(data) or isinstance(data, (tuple, Mapping)):
        return data
    if isinstance(data, list) and any(is_array(item) for item in data):
        return tuple(data)
    return None


def is_map_dataset(data: Data) -> bool:
    """Tell whether samples are read by index: from a Dataset, or an object written like one."""
    if isinstance(data, (IterableDataset, list)):
        return False
    if isinstance(data, Dataset) or hasattr(data, "__getitems__"):
        return True
    indexed = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    return indexed and not hasattr(data, "__iter__")


def check_samples(dataset: Data, name: str) -> None:
    """Raise for a Dataset without a length or without samples."""
    try:
        count = len(dataset)
    except (TypeError, NotImplementedError) as error:
        raise bad_type(
            name, received=f"a {type(dataset).__name__} without a length",
            expected="a Dataset with __len__",
            fix="Define __len__, or derive from IterableDataset and define __iter__.") from error
    if count == 0:
        raise bad_value(name, received=f"a {type(dataset).__name__} of 0 samples",
                        expected="at least one sample",
                        fix="Check the path or the filter that it was made with.")


def _stream_loader(data: IterableDataset[Any], name: str, batch_size: int | None, shuffle: bool,
                   generator: torch.Generator | None) -> DataLoader[Any]:
    if shuffle:
        raise bad_value("shuffle", received=f"True for {name}, an IterableDataset",
                        expected="False",
                        fix="A stream has its own order: shuffle inside its __iter__.")
    return DataLoader(data, batch_size or 32, generator=generator)


def _refuse_options(data: Data, name: str, batch_size: int | None, shuffle: bool) -> None:
    """Raise for options of batches that a DataLoader or iterable makes itself."""
    kind = f"{name}, a {type(data).__name__} that yields ready batches"
    fix = f"Set it where you make this {type(data).__name__}, or pass a Dataset or arrays."
    if batch_size is not None:
        raise bad_value("batch_size", received=f"{batch_size} for {kind}", expected="None",
                        fix=fix)
    if shuffle:
        raise bad_value("shuffle", received=f"True for {kind}", expected="False", fix=fix)
