"""The batches of a DataLoader over tensors in memory, without taking them apart and putting them together again.

torch reads a TensorDataset sample by sample and stacks the samples to batches, which costs more than a small net's
whole training step. One ``index_select`` a tensor gives the same batch. Samples, order, random draws and types are
those of the loader itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, Subset, TensorDataset
from torch.utils.data import default_collate as torch_collate

from torchkeras.data.arrays import ArrayDataset, WholeBatches, as_it_is
from torchkeras.data.batch import to_device
from torchkeras.data.tree import map_tree, rebuild

Index = Tensor | slice
BATCHES_AT_ONCE, BYTES_AT_ONCE = 8, 1 << 17  # as long as they stay in the processor's cache


class InMemory:
    """Iterate over a loader's batches by index; made by :func:`in_memory`."""

    def __init__(self, loader: DataLoader[Any], tree: Any, chosen: Tensor | None) -> None:
        self.loader, self.tree, self.chosen = loader, tree, chosen
        self.seeded = False
        self.block: list[Tensor] | None = None  # what the batch in hand was cut from

    def __iter__(self) -> Iterator[Any]:
        return self.batches(self.loader.batch_sampler)

    def batches(self, batch_sampler: Any, skip: int = 0) -> Iterator[Any]:
        """One pass in the order of a batch sampler, from a batch on."""
        tensors = leaves(self.tree)
        samples: int = len(self.loader.dataset)  # type: ignore[arg-type]
        row = sum(one[:1].numel() * one.element_size() for one in tensors)
        blocks = index_blocks(batch_sampler, samples, tensors[0].device, row, skip)
        if not (self.seeded and self.loader.persistent_workers):
            # a loader draws a seed for its workers, whether it has some or not
            torch.empty((), dtype=torch.int64).random_(generator=self.loader.generator)
            self.seeded = True
        flat = type(self.tree) in (tuple, list) and all(isinstance(one, Tensor) for one in self.tree)
        for index, size in blocks:
            own = index if self.chosen is None else rows(self.chosen, index)
            self.block = [rows(one, own) for one in tensors]
            for batch in zip(*(parts(one, size) for one in self.block), strict=True):
                yield list(batch) if flat else filled(self.tree, batch)

    def lives_on(self, device: torch.device) -> bool:
        """Whether its batches are on a device already."""
        return all(one.device.type == device.type and device.index in (None, one.device.index)
                   for one in leaves(self.tree))

    def on(self, device: torch.device) -> InMemory:
        """The same with all samples on another device."""
        return InMemory(self.loader, to_device(self.tree, device), to_device(self.chosen, device))


def rows(tensor: Tensor, index: Index) -> Tensor:
    """A copy of some rows, which a net may write into."""
    return tensor[index].clone() if isinstance(index, slice) else tensor.index_select(0, index.to(tensor.device))


def parts(tensor: Tensor, size: int) -> Iterator[Tensor]:
    """The batches of a block, none of which knows of the others: a net may write its weights into one of them."""
    return (part.detach() for part in tensor.split(size))


def filled(tree: Any, tensors: Iterable[Tensor]) -> Any:
    """The tree with other tensors in the places of its own."""
    waiting = iter(tensors)
    return map_tree(lambda _: next(waiting), tree)


def index_blocks(batch_sampler: Any, samples: int, device: torch.device, row: int,
                 skip: int = 0) -> Iterator[tuple[Index, int]]:
    """The positions of the next batches, as a slice where they follow one another, and the size of a batch.

    Small batches are fetched together, ``row`` bytes a sample: a selection costs more than what it selects.
    """
    sampler: Any = getattr(batch_sampler, "sampler", None)
    sequential, random = type(sampler) is SequentialSampler, type(sampler) is RandomSampler and not sampler.replacement
    if type(batch_sampler) is not BatchSampler or not (sequential or random):
        yield from ((index, len(index)) for index in lists(islice(batch_sampler, skip, None), samples))
        return
    order = drawn(sampler).to(device) if random else None
    size, end = batch_sampler.batch_size, len(sampler)
    end = end // size * size if batch_sampler.drop_last else end
    step = size * max(min(BATCHES_AT_ONCE, BYTES_AT_ONCE // (size * row or 1)), 1)
    for begin in range(skip * size, end, step):
        block = slice(begin, min(begin + step, end))
        yield block if order is None else order[block], size


def drawn(sampler: RandomSampler) -> Tensor:
    """The order of a pass, drawn as the sampler draws it."""
    generator = sampler.generator
    if generator is None:
        generator = torch.Generator()
        generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
    samples = len(sampler.data_source)
    rounds, more = divmod(sampler.num_samples, samples)
    orders = [torch.randperm(samples, generator=generator) for _ in range(rounds + 1)]
    orders[-1] = orders[-1][:more]
    return orders[0] if rounds == 1 and not more else torch.cat(orders)


def lists(given: Iterable[Any], samples: int) -> Iterator[Tensor]:
    """Batches of any other sampler; negative positions count from the end."""
    for keys in given:
        index = torch.as_tensor(keys, dtype=torch.int64)
        yield torch.where(index < 0, index + samples, index)


def in_memory(source: Any) -> InMemory | None:
    """The fast way through a source; None where it does more than select from tensors."""
    if type(source) is not DataLoader or source.batch_sampler is None or source.worker_init_fn is not None:
        return None
    dataset, chosen = source.dataset, None
    while type(dataset) is Subset:
        indices = torch.as_tensor(dataset.indices, dtype=torch.int64)
        chosen = indices if chosen is None else indices[chosen]
        dataset = dataset.dataset
    if type(dataset) is WholeBatches and source.collate_fn is as_it_is and chosen is None:
        return InMemory(source, dataset.tree, None)
    if type(dataset) is ArrayDataset and source.collate_fn is torch_collate and all(map(plain, leaves(dataset.tree))):
        return InMemory(source, as_collated(dataset.tree), chosen)
    if type(dataset) is TensorDataset and source.collate_fn is torch_collate and all(map(plain, dataset.tensors)):
        return InMemory(source, tuple(dataset.tensors), chosen)
    return None


def leaves(tree: Any) -> list[Tensor]:
    """The tensors of a tree."""
    found: list[Tensor] = []
    map_tree(found.append, tree)
    return found


def as_collated(tree: Any) -> Any:
    """A tree with the containers that torch's collate makes of it: lists in place of tuples."""
    if type(tree) in (tuple, list):
        return [as_collated(one) for one in tree]
    return rebuild(tree, [as_collated(one) for one in tree.values()]) if isinstance(tree, dict) else tree


def plain(tensor: Tensor) -> bool:
    """Whether selecting rows gives what stacking them gives, in its layout too."""
    return type(tensor) is Tensor and tensor.is_contiguous() and not tensor.requires_grad and tensor.dim() > 0
