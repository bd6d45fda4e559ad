"""Fast batches for DataLoaders over tensors in memory: selected, not stacked sample by sample.

torch reads a TensorDataset sample by sample and stacks the samples to batches, which costs more
than the whole training step of a small net. One ``index_select`` per tensor gives the same batch.
Samples, order, random draws, types and the memory layout of batches are those of the loader itself:
kernels are chosen by the address at which a tensor begins, and round differently.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler
from torch.utils.data import default_collate as torch_collate

from torchkeras.core.errors import bad_value
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Source, Tree
from torchkeras.data.arrays import as_it_is
from torchkeras.data.located import Index, SampleTensors, is_selectable, locate, unwrap_subsets
from torchkeras.data.pinning import index_on

BATCHES_AT_ONCE, BYTES_AT_ONCE = 8, 1 << 17  # as much as stays in the processor's cache
BYTES_ELSEWHERE = 64 << 20  # an accelerator has no such cache; each selection is a launch
ALIGNED, ALIGNED_ELSEWHERE = 64, 512  # bytes: torch's alignment on a CPU, and on an accelerator


class InMemoryLoader:
    """Iterate over a loader's batches by index; made by :func:`in_memory`.

    Args:
        loader: a loader for whose Dataset :func:`torchkeras.data.located.locate` finds the tensors.
        device: the device that the samples are copied to; None leaves them where they are.
        before: the same object before some samples were changed, which has copies of the others.
    """

    def __init__(self, loader: DataLoader[Any], device: torch.device | None = None,
                 before: InMemoryLoader | None = None) -> None:
        self.loader, self.device = loader, device
        self.seeded: bool = before is not None and before.seeded
        self.block: list[Tensor] | None = None  # the rows from which the current batch was cut
        self.samples: SampleTensors = self.located(None if before is None else before.samples)

    @property
    def tree(self) -> Any:
        """Return the tensors, nested as batches are."""
        return self.samples.tree

    def located(self, before: SampleTensors | None = None) -> SampleTensors:
        """Return the samples as they are now; raise if they are no plain tensors any more."""
        if not only_selects(self.loader):
            raise bad_value(
                "data",
                received="other samples in the middle of an epoch, which are not plain tensors",
                expected="contiguous tensors that do not require grad, as at its beginning",
                fix="Put them in their place as an epoch begins, in on_epoch_start.")
        found = locate(self.loader.dataset)
        return found if self.device is None else found.on(self.device, before)

    def __iter__(self) -> Iterator[Any]:
        return self.batches(self.batch_sampler)

    def batches(self, batch_sampler: Iterable[Any], skip: int = 0) -> Iterator[Any]:
        """Yield the batches of one pass in the order of a batch sampler, without the first few."""
        self.samples = self.located(self.samples)
        samples: int = len(self.loader.dataset)  # type: ignore[arg-type]
        blocks = index_blocks(batch_sampler, samples, self.samples, skip)
        if not (self.seeded and self.loader.persistent_workers):
            # a loader draws a seed for its workers in each pass, even if it has none
            torch.empty((), dtype=torch.int64).random_(generator=self.loader.generator)
            self.seeded = True
        for index, size in blocks:
            yield from self.cut(index, size)

    def cut(self, index: Index, size: int) -> Iterator[Any]:
        """Yield the batches of a block; fetch the rest anew if its samples change in between."""
        count = index.stop - index.start if isinstance(index, slice) else len(index)
        done = 0
        while done < count:
            if self.samples.changed():
                self.samples = self.located(self.samples)
            tree = None if self.samples.flat else self.samples.tree
            self.block = self.samples.rows(index if done == 0 else remaining(index, done))
            for batch in zip(*(split_block(one, size) for one in self.block), strict=True):
                yield list(batch) if tree is None else nest(tree, batch)
                done += size
                if done < count and self.samples.changed():
                    break

    @property
    def batch_sampler(self) -> Iterable[Any]:
        """Return the loader's batch sampler, which :func:`only_selects` has made sure of."""
        return () if self.loader.batch_sampler is None else self.loader.batch_sampler

    @property
    def ordered(self) -> bool:
        """Tell whether the order of a pass is known, or drawn, before its first batch."""
        return is_ordered(self.loader.batch_sampler)

    def is_on(self, device: torch.device) -> bool:
        """Tell whether its batches are on a device already."""
        return all(one.device.type == device.type and device.index in (None, one.device.index)
                   for one in self.samples.tensors)

    def on(self, device: torch.device, before: InMemoryLoader | None = None) -> InMemoryLoader:
        """Return the same with all samples on another device."""
        return InMemoryLoader(self.loader, device, before)


def remaining(index: Index, done: int) -> Index:
    """Return the part of an index after its first ``done`` positions."""
    return slice(index.start + done, index.stop) if isinstance(index, slice) else index[done:]


def split_block(block: Tensor, size: int) -> Iterator[Tensor]:
    """Return the batches of a block, such that a net may write into one without changing others.

    The first begins where the block does. Each other is copied unless its address has the alignment
    of a new tensor.
    """
    if block.requires_grad:  # of one batch, connected with the samples that learn
        return iter(torch.split(block, size))
    parts = torch.unsafe_split(block, size)  # autograd does not take these for views of one tensor
    aligned = size * block[:1].nbytes % (ALIGNED if block.is_cpu else ALIGNED_ELSEWHERE) == 0
    return iter(parts) if aligned else chain(parts[:1], map(Tensor.clone, parts[1:]))


def nest(tree: Tree, tensors: Iterable[Tensor]) -> Any:
    """Return the tree with other tensors in the places of its own."""
    waiting = iter(tensors)
    return map_tree(lambda _: next(waiting), tree)


def is_ordered(batch_sampler: object) -> bool:
    """Tell whether the order of a whole pass is known, or drawn, before its first batch."""
    sampler: Any = getattr(batch_sampler, "sampler", None)
    return type(batch_sampler) is BatchSampler and (type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement))


def index_blocks(batch_sampler: Any, samples: int, found: SampleTensors,
                 skip: int = 0) -> Iterator[tuple[Index, int]]:
    """Yield the indices of the next batches, as a slice if consecutive, and the batch size.

    Small batches are fetched together: a selection costs more than the rows that it selects.
    Samples that require grad are fetched batch by batch, after each update.
    """
    sampler: Any = getattr(batch_sampler, "sampler", None)
    random = type(sampler) is RandomSampler
    if not is_ordered(batch_sampler) or (random and sampler.num_samples > len(sampler.data_source)):
        given = index_tensors(islice(batch_sampler, skip, None), samples)
        yield from ((index, len(index)) for index in given)
        return
    generator = generator_of(sampler) if random else None
    order = index_on(torch.randperm(len(sampler.data_source), generator=generator),
                     found.tensors[0].device) if random else None
    size, end = batch_sampler.batch_size, len(sampler)
    end = end // size * size if batch_sampler.drop_last else end
    most = BYTES_AT_ONCE if found.tensors[0].is_cpu else BYTES_ELSEWHERE
    together = min(BATCHES_AT_ONCE, most // (size * found.row_bytes or 1))
    step = size if found.requires_grad else size * max(together, 1)
    last = end - end % size  # where a batch of fewer samples begins, if there is one
    for rest, (first, until) in enumerate(((skip * size, last), (max(last, skip * size), end))):
        if rest and random and sampler.num_samples == len(sampler.data_source):
            # as the sampler does when no index is left
            torch.randperm(sampler.num_samples, generator=generator)
        for begin in range(first, until, step):
            block = slice(begin, min(begin + step, until))
            yield block if order is None else order[block], size


def generator_of(sampler: RandomSampler) -> torch.Generator:
    """Return the generator of a pass: the sampler's own, or a new one that it seeds."""
    own: torch.Generator | None = sampler.generator
    if own is not None:
        return own
    generator = torch.Generator()
    generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
    return generator


def index_tensors(given: Iterable[Any], samples: int) -> Iterator[Tensor]:
    """Yield the batches of any other sampler as tensors; negative indices count from the end."""
    for keys in given:
        index = torch.as_tensor(keys, dtype=torch.int64)
        yield torch.where(index < 0, index + samples, index)


def in_memory(source: Source) -> InMemoryLoader | None:
    """Return the fast way through a source; None if it does more than select from tensors."""
    return InMemoryLoader(source) if only_selects(source) else None


def only_selects(source: Source) -> bool:
    """Tell whether a source is a DataLoader that does nothing but select from tensors."""
    if type(source) is not DataLoader:
        return False
    if source.batch_sampler is None or source.worker_init_fn is not None:
        return False
    whole = source.collate_fn is as_it_is
    known = whole or source.collate_fn is torch_collate
    found = unwrap_subsets(source.dataset)[0] if known else None
    return is_selectable(found, whole and found is source.dataset)
