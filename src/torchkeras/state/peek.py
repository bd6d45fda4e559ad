"""Read the first batch of data before its turn, and restore the data."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from torchkeras.core import internals
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Batch, Leaf, Source
from torchkeras.data import Batches
from torchkeras.data.ready import BatchReader
from torchkeras.state.memento import Memento

# a DataLoader with these attributes reads in this process
IN_THIS_PROCESS = {"num_workers": 0, "persistent_workers": False, "prefetch_factor": None,
                   "timeout": 0, "pin_memory": False, internals.LOADER_ITERATOR: None}


class CannotPeek(Exception):
    """Data whose first batch cannot be read before its turn; the text says why."""


def first_batch(data: Batches) -> Batch:
    """Return a copy of the first batch; the next pass yields the same batches as without this.

    Data that can be read again is read here and restored: samplers, datasets, their generators and
    counters. What can be read only once (a generator) is not read, since what it draws or shares
    with other data would change. The caller restores the global random state.

    Args:
        data: the batches.

    Returns:
        The batch, as a pass yields it but for the device.

    Raises:
        CannotPeek: the data can be read only once, or only by workers.
        Exception: an error in reading.
    """
    return BatchReader(data.dtype)(first_of(data.source))


def first_of(source: Source) -> Batch:
    """Return a copy of the first batch of a source, as it comes from there."""
    if isinstance(source, list):
        return map_tree(clone_leaf, source[0])
    if isinstance(source, DataLoader):
        return first_of_loader(source)
    memento = Memento(source)
    if memento.one_shot or isinstance(source, Iterator):
        raise CannotPeek(f"a {type(source).__name__} can be read only once")
    return read_and_restore(memento, source)


def first_of_loader(loader: DataLoader[Any]) -> Batch:
    """Return the first batch of a DataLoader, read in this process."""
    if hasattr(loader, "gradient_state"):
        raise CannotPeek(f"a {type(loader).__name__} of accelerate keeps account of who reads it")
    alone = copy.copy(loader)
    alone.__dict__.update(IN_THIS_PROCESS)  # torch refuses to set them on a finished DataLoader
    memento = Memento(alone)
    if memento.one_shot or isinstance(loader.dataset, Iterator):
        raise CannotPeek("its DataLoader holds what can be read only once")
    try:
        return read_and_restore(memento, alone)
    except Exception as error:
        if loader.num_workers:
            raise CannotPeek(f"only its workers can read it ({type(error).__name__}: "
                             f"{error})") from error
        raise


def read_and_restore(memento: Memento, source: Source) -> Batch:
    """Return the first batch of a source, and restore the source."""
    try:
        found = iter(source)
        batch = map_tree(clone_leaf, next_batch(found))
        close = getattr(found, "close", None)
        if callable(close) and found is not source:
            close()
        return batch
    finally:
        memento.restore()


def next_batch(rest: Iterator[Batch]) -> Batch:
    """Return the next batch."""
    try:
        return next(rest)
    except StopIteration:
        raise CannotPeek("it has no batch yet") from None


def clone_leaf(leaf: Leaf) -> Leaf:
    """Copy a tensor or another value: a net may write into its features."""
    if isinstance(leaf, Tensor):
        return leaf.clone()
    try:
        return copy.copy(leaf)
    except TypeError:
        return leaf
