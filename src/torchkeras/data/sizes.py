"""Count the batches and samples of a source, as far as it can tell them without being read."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, IterableDataset

from torchkeras.core.errors import whole_number
from torchkeras.core.types import Batch, Source
from torchkeras.data.samples import size


def steps_set_by_user(source: Source) -> int | None:
    """Return the batches an epoch that a user wrote on a DataLoader as ``size``."""
    if type(source) is not DataLoader:  # a subclass may mean something else by its size
        return None
    steps: int | None = vars(source).get("size")
    whole_number("DataLoader.size", steps, least=1, optional=True)
    return steps


def length_of(source: Source) -> int | None:
    """Return ``len(source)``, None where it has none."""
    try:
        return len(source)
    except (TypeError, NotImplementedError):
        return None


def count_samples(source: Source, length: int | None) -> tuple[int | None, int | None]:
    """Return the samples of an epoch and of its last batch, each None when not known."""
    if length is None:
        return None, None
    if isinstance(source, list):
        return samples_of_list(source[:length])
    if not isinstance(source, DataLoader) or source.batch_size is None:
        return None, None
    total = samples_of_loader(source)
    if total is None:
        return None, None
    taken = min(total, length * source.batch_size)
    return taken, taken - (length - 1) * source.batch_size


def samples_of_list(ready: list[Batch]) -> tuple[int | None, int | None]:
    """Return the samples of a list of ready batches, and of the last one."""
    try:
        sizes = [size(batch) for batch in ready]
    except ValueError:
        return None, None
    return sum(sizes), sizes[-1]


def samples_of_loader(loader: DataLoader[Any]) -> int | None:
    """Return the samples that a DataLoader gives in an epoch, with those that it would drop."""
    if not isinstance(loader.dataset, IterableDataset):
        return length_of(loader.sampler)  # a sampler may draw fewer or more than the dataset has
    # Each worker ends with a batch of its own.
    return length_of(loader.dataset) if loader.num_workers <= 1 else None
