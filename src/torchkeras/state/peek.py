"""Read the first batch of data before its turn, and leave the data as they were."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from torchkeras.core.tree import map_tree
from torchkeras.data import Batches
from torchkeras.state.memento import Memento

# a DataLoader with these reads in this process, and starts no workers
ALONE = {"num_workers": 0, "persistent_workers": False, "prefetch_factor": None, "timeout": 0, "pin_memory": False,
         "_iterator": None}


class Unread(Exception):
    """Data whose first batch cannot be read before its turn; the text says why."""


def first_batch(data: Batches) -> Any:
    """Return a copy of the first batch; the next pass gives the same batches as if nothing had been read.

    Data that can start again is read here and put back: samplers, datasets, their generators and counters. What can be
    read only once (a generator) is left alone: what it draws or shares with other data would come out another. The
    global random state is left to the caller.

    Args:
        data: the batches.

    Returns:
        The batch, as it comes from the source.

    Raises:
        Unread: the data can be read only once; or only by workers.
        Exception: what reading raises.
    """
    source = data.source
    if isinstance(source, list):
        return map_tree(copied, source[0])
    if isinstance(source, DataLoader):
        return from_loader(data, source)
    memento = Memento(source)
    if memento.once or isinstance(source, Iterator):
        raise Unread(f"a {type(source).__name__} can be read only once")
    return put_back(memento, source)


def from_loader(data: Batches, loader: DataLoader[Any]) -> Any:
    """Return the first batch of a DataLoader, read in this process."""
    if hasattr(loader, "gradient_state"):
        raise Unread(f"a {type(loader).__name__} of accelerate keeps account of who reads it")
    alone = copy.copy(loader)
    alone.__dict__.update(ALONE)  # torch refuses to set them on a finished DataLoader
    memento = Memento(alone)
    if memento.once or isinstance(loader.dataset, Iterator):
        raise Unread("its DataLoader holds what can be read only once")
    try:
        return put_back(memento, alone)
    except Exception as error:
        if loader.num_workers:
            raise Unread(f"only its workers can read it ({type(error).__name__}: {error})") from error
        raise


def put_back(memento: Memento, source: Any) -> Any:
    """Return the first batch of a source; then let everything be as it was."""
    try:
        found = iter(source)
        batch = map_tree(copied, taken(found))
        close = getattr(found, "close", None)
        if callable(close) and found is not source:
            close()
        return batch
    finally:
        memento.restore()


def taken(rest: Iterator[Any]) -> Any:
    """Return the next batch."""
    try:
        return next(rest)
    except StopIteration:
        raise Unread("it has no batch yet") from None


def copied(leaf: Any) -> Any:
    """Return a copy of a tensor: a net may write into its features."""
    if isinstance(leaf, Tensor):
        return leaf.clone()
    try:
        return copy.copy(leaf)
    except TypeError:
        return leaf
