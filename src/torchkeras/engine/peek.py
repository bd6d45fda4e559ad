"""Read the first batch of data before its turn, and leave the data as they were."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from torchkeras.data import Batches
from torchkeras.data.tree import map_tree
from torchkeras.engine.memento import Memento

# a DataLoader with these reads in this process, and starts no workers
ALONE = {"num_workers": 0, "persistent_workers": False, "prefetch_factor": None, "timeout": 0, "pin_memory": False,
         "_iterator": None}


class Unread(Exception):
    """Data whose first batch cannot be read before its turn; the text says why."""


def first_batch(data: Batches) -> Any:
    """Return a copy of the first batch; the next pass gives the same batches as if nothing had been read.

    Data that can start again is read here and put back: samplers, datasets, their generators and counters. What can be
    read only once (a generator) gives a batch that the next pass begins with. The global random state is left to the
    caller.

    Args:
        data: the batches.

    Returns:
        The batch, as it comes from the source.

    Raises:
        Unread: the batch could be read, but not twice; or only by workers.
        Exception: what reading raises.
    """
    source = data.source
    if isinstance(source, list):
        return map_tree(copied, source[0])
    if isinstance(source, DataLoader):
        return from_loader(data, source)
    if isinstance(source, Iterator):
        return pushed_back(data, source)
    memento = Memento(source)
    if not memento.once:
        return put_back(memento, source)
    rest = iter(source)
    if any(rest is one for one in memento.held.values()):
        return pushed_back(data, rest)
    raise Unread(f"a {type(source).__name__} holds what can be read only once")


def from_loader(data: Batches, loader: DataLoader[Any]) -> Any:
    """Return the first batch of a DataLoader, read in this process."""
    if hasattr(loader, "gradient_state"):
        raise Unread(f"a {type(loader).__name__} of accelerate keeps account of who reads it")
    alone = copy.copy(loader)
    alone.__dict__.update(ALONE)  # torch refuses to set them on a finished DataLoader
    memento = Memento(alone)
    if memento.once:
        if loader.num_workers == 0 and isinstance(loader.dataset, IterableDataset) and (
                isinstance(loader.dataset, Iterator)):
            with generator_kept(loader):
                return pushed_back(data, iter(alone))
        raise Unread("its DataLoader holds what can be read only once")
    try:
        return put_back(memento, alone)
    except Exception as error:
        if loader.num_workers:
            raise Unread(f"only its workers can read it ({type(error).__name__}: {error})") from error
        raise


@contextmanager
def generator_kept(loader: DataLoader[Any]) -> Iterator[None]:
    """Put a loader's own generator back, from which it draws a seed whenever it begins."""
    state = None if loader.generator is None else loader.generator.get_state()
    yield
    if state is not None:
        loader.generator.set_state(state)


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


def pushed_back(data: Batches, rest: Iterator[Any]) -> Any:
    """Return the first batch of what can be read only once; the next pass begins with it."""
    batch = taken(rest)
    data.start.peeked.append(batch)
    return map_tree(copied, batch)


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
