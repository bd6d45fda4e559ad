"""The batches of a DataLoader over tensors in memory, without taking them apart and putting them together again.

torch reads a TensorDataset sample by sample and stacks the samples to batches, which costs more than a small net's
whole training step. One ``index_select`` a tensor gives the same batch. Samples, order, random draws, types and how a
batch lies in memory are those of the loader itself: kernels are chosen by where a tensor begins, and round differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from torch.utils.data import default_collate as torch_collate

from torchkeras.core.errors import bad_value
from torchkeras.core.tree import map_tree
from torchkeras.data.arrays import as_it_is
from torchkeras.data.located import Index, Located, can_be_selected_from, inside, locate

BATCHES_AT_ONCE, BYTES_AT_ONCE = 8, 1 << 17  # as long as they stay in the processor's cache
ALIGNED, ALIGNED_ELSEWHERE = 64, 512  # bytes: where torch begins a tensor on a CPU, and on an accelerator


class InMemory:
    """Iterate over a loader's batches by index; made by :func:`in_memory`.

    Args:
        loader: over a Dataset whose samples :func:`torchkeras.data.located.locate` finds.
        device: where its samples are copied to; None leaves them where they are.
        before: the same before something of it was changed, which has copies already.
    """

    def __init__(self, loader: DataLoader[Any], device: torch.device | None = None,
                 before: InMemory | None = None) -> None:
        self.loader, self.device = loader, device
        self.seeded: bool = before is not None and before.seeded
        self.block: list[Tensor] | None = None  # what the batch in hand was cut from
        self.found: Located = self.located(None if before is None else before.found)

    @property
    def tree(self) -> Any:
        """The tensors, nested as batches are."""
        return self.found.tree

    def located(self, before: Located | None = None) -> Located:
        """The samples as they are now."""
        if not selects(self.loader):
            raise bad_value("data", received="other samples in the middle of an epoch, which are no plain tensors",
                            expected="contiguous tensors that do not require grad, as at its beginning",
                            fix="Put them in their place as an epoch begins, in on_epoch_start.")
        found = locate(self.loader.dataset)
        return found if self.device is None else found.on(self.device, before)

    def __iter__(self) -> Iterator[Any]:
        return self.batches(self.loader.batch_sampler)

    def batches(self, batch_sampler: Any, skip: int = 0) -> Iterator[Any]:
        """One pass in the order of a batch sampler, from a batch on."""
        self.found = self.located(self.found)
        samples: int = len(self.loader.dataset)  # type: ignore[arg-type]
        blocks = index_blocks(batch_sampler, samples, self.found, skip)
        if not (self.seeded and self.loader.persistent_workers):
            # a loader draws a seed for its workers, whether it has some or not
            torch.empty((), dtype=torch.int64).random_(generator=self.loader.generator)
            self.seeded = True
        for index, size in blocks:
            yield from self.cut(index, size)

    def cut(self, index: Index, size: int) -> Iterator[Any]:
        """The batches of a block, which is fetched anew where its samples change before its last batch is given."""
        count = index.stop - index.start if isinstance(index, slice) else len(index)
        done = 0
        while done < count:
            if self.found.changed():
                self.found = self.located(self.found)
            self.block = self.found.rows(index if done == 0 else rest(index, done))
            for batch in zip(*(parts(one, size) for one in self.block), strict=True):
                yield self.filled(batch)
                done += size
                if done < count and self.found.changed():
                    break

    def filled(self, batch: tuple[Tensor, ...]) -> Any:
        """A batch in the containers of the data."""
        return list(batch) if self.found.flat else filled(self.found.tree, batch)

    @property
    def ordered(self) -> bool:
        """Whether the order of a pass is known, or drawn, before its first batch."""
        return is_ordered(self.loader.batch_sampler)

    def lives_on(self, device: torch.device) -> bool:
        """Whether its batches are on a device already."""
        return all(one.device.type == device.type and device.index in (None, one.device.index)
                   for one in self.found.tensors)

    def on(self, device: torch.device, before: InMemory | None = None) -> InMemory:
        """The same with all samples on another device."""
        return InMemory(self.loader, device, before)


def rest(index: Index, done: int) -> Index:
    """The positions after so many."""
    return slice(index.start + done, index.stop) if isinstance(index, slice) else index[done:]


def parts(block: Tensor, size: int) -> Iterator[Tensor]:
    """The batches of a block, none of which knows of the others: a net may write its weights into one of them.

    The first begins where the block does. Each other is copied unless it begins where a tensor of its own would.
    """
    if block.requires_grad:  # of one batch, connected with the samples that learn
        yield from block.split(size)
        return
    aligned = size * block[:1].nbytes % (ALIGNED if block.is_cpu else ALIGNED_ELSEWHERE) == 0
    for number, part in enumerate(block.split(size)):
        yield part.detach() if aligned or not number else part.clone()


def filled(tree: Any, tensors: Iterable[Tensor]) -> Any:
    """The tree with other tensors in the places of its own."""
    waiting = iter(tensors)
    return map_tree(lambda _: next(waiting), tree)


def is_ordered(batch_sampler: Any) -> bool:
    """Whether the order of a whole pass is known, or drawn, before its first batch."""
    sampler: Any = getattr(batch_sampler, "sampler", None)
    return type(batch_sampler) is BatchSampler and (type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement))


def index_blocks(batch_sampler: Any, samples: int, found: Located, skip: int = 0) -> Iterator[tuple[Index, int]]:
    """The positions of the next batches, as a slice where they follow one another, and the size of a batch.

    Small batches are fetched together: a selection costs more than what it selects. Samples that learn are fetched
    batch by batch, after each update.
    """
    sampler: Any = getattr(batch_sampler, "sampler", None)
    random = type(sampler) is RandomSampler
    if not is_ordered(batch_sampler) or (random and sampler.num_samples > len(sampler.data_source)):
        yield from ((index, len(index)) for index in lists(islice(batch_sampler, skip, None), samples))
        return
    generator = generator_of(sampler) if random else None
    order = torch.randperm(len(sampler.data_source), generator=generator).to(
        found.tensors[0].device) if random else None
    size, end = batch_sampler.batch_size, len(sampler)
    end = end // size * size if batch_sampler.drop_last else end
    together = 1 if found.learns else min(BATCHES_AT_ONCE, BYTES_AT_ONCE // (size * found.row or 1))
    step = size * max(together, 1)
    last = end - end % size  # where a batch of fewer samples begins, if there is one
    for rest, (first, until) in enumerate(((skip * size, last), (max(last, skip * size), end))):
        if rest and random and sampler.num_samples == len(sampler.data_source):
            torch.randperm(sampler.num_samples, generator=generator)  # as the sampler does when no number is left
        for begin in range(first, until, step):
            block = slice(begin, min(begin + step, until))
            yield block if order is None else order[block], size


def generator_of(sampler: RandomSampler) -> torch.Generator:
    """Return what a pass draws from: the sampler's own generator, or one that it seeds for the pass."""
    if sampler.generator is not None:
        return sampler.generator
    generator = torch.Generator()
    generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
    return generator


def lists(given: Iterable[Any], samples: int) -> Iterator[Tensor]:
    """Batches of any other sampler; negative positions count from the end."""
    for keys in given:
        index = torch.as_tensor(keys, dtype=torch.int64)
        yield torch.where(index < 0, index + samples, index)


def in_memory(source: Any) -> InMemory | None:
    """The fast way through a source; None where it does more than select from tensors."""
    return InMemory(source) if selects(source) else None


def selects(source: Any) -> bool:
    """Whether a source does nothing but select from tensors."""
    if type(source) is not DataLoader or source.batch_sampler is None or source.worker_init_fn is not None:
        return False
    whole = source.collate_fn is as_it_is
    found = inside(source.dataset)[0] if whole or source.collate_fn is torch_collate else None
    return can_be_selected_from(found, whole and found is source.dataset)
