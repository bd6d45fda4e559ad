"""What one of several processes takes of each pass over the data.

To train, every batch is divided: each process computes its part of it, so batch sizes, steps and schedules mean the
same at any number of processes. To measure and predict, whole batches are dealt out like cards.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.distributed import DistributedSampler

from torchkeras.data.batch import size
from torchkeras.data.fingerprint import digest
from torchkeras.data.memory import InMemory
from torchkeras.data.tree import rebuild
from torchkeras.engine.checks import bad_type, bad_value

AT_ONCE = 4096  # batches whose sample numbers process 0 sends together


class Share(NamedTuple):
    """One process's share of a batch."""

    number: int  # of the batch in its pass
    samples: int  # that count here; 0 for a stand-in, computed only because the others compute
    whole: int  # samples of the batch in all processes


class Sharing:
    """Iterate over this process's share of a source of batches.

    Where the source is a DataLoader that reads samples by number, process 0 alone draws the numbers and sends them to
    the others, so any sampler gives one order for all, and each process reads only what it computes. Any other source
    is read whole by every process.

    Args:
        source: the iterable of batches.
        name: what errors call it.
        steps: batches a pass; None means all there are.
        together: the processes, as :class:`torchkeras.engine.together.Alone` describes them.
        memory: the fast way through the source, where there is one.
    """

    def __init__(self, source: Iterable[Any], name: str, steps: int | None, together: Any,
                 memory: InMemory | None = None) -> None:
        self.source, self.name, self.steps, self.together = source, name, steps, together
        self.waiting: deque[Share] = deque()  # the shares of batches that loader workers are still reading
        self.pick: Callable[[int, list[Any]], Any] = self.part
        self.by_number = reads_by_number(source)
        self.memory = memory
        self.loader: Any = self.reading_own_share() if self.by_number and memory is None else None
        self.given = 0  # batches of this pass, of all processes together
        refuse_distributed_sampler(source, name)

    def shares(self, divide: bool) -> Iterator[tuple[Share, Any]]:
        """This process's batches with their shares: a part of every batch, or every so many-th batch whole."""
        self.given = 0
        self.pick = self.part if divide else self.card
        return self.numbered() if self.by_number else self.streamed()

    def part(self, number: int, keys: list[Any]) -> Any:
        """The share of a batch that is divided; a process without a sample repeats the first one's for no credit."""
        own = keys[cut(len(keys), self.together.rank, self.together.world)]
        stand_in = keys[cut(len(keys), 0, self.together.world)]
        return Share(number, len(own), len(keys)), own or stand_in

    def card(self, number: int, keys: list[Any]) -> Any:
        """The share of a batch that is dealt out: all of it or nothing."""
        if number % self.together.world != self.together.rank:
            return None
        return Share(number, len(keys), len(keys)), keys

    def numbered(self) -> Iterator[tuple[Share, Any]]:
        """From a loader that reads this process's samples only."""
        self.waiting.clear()
        for batch in self.loader if self.memory is None else self.memory.batches(self):
            yield self.waiting.popleft(), batch

    def reading_own_share(self) -> Any:
        """The user's loader with this object for a sampler."""
        loader: Any = copy.copy(self.source)
        # torch refuses to set these on a finished DataLoader; a copy that was never iterated over has no state yet
        loader.__dict__.update(batch_sampler=self, _iterator=None)
        return loader

    def __iter__(self) -> Iterator[list[Any]]:
        """The sample numbers of this process's batches, as a DataLoader asks its batch sampler for them."""
        for number, keys in enumerate(self.order()):
            self.given = number + 1
            picked = self.pick(number, list(keys))
            if picked is not None:
                self.waiting.append(picked[0])
                yield picked[1]

    def order(self) -> Iterator[Any]:
        """The sample numbers of all batches, as process 0 draws them."""
        source: Any = self.source
        drawn = islice(source.batch_sampler, self.steps) if self.together.main else iter(())
        while keys := self.together.from_main(list(islice(drawn, AT_ONCE))):
            yield from keys

    def streamed(self) -> Iterator[tuple[Share, Any]]:
        """From a source that every process reads whole."""
        for number, batch in enumerate(islice(self.source, self.steps)):
            self.given = number + 1
            if number == 0:
                self.check_same(batch)
            if self.pick == self.card:
                if number % self.together.world == self.together.rank:
                    yield Share(number, 1, 1), batch
                continue
            whole = size(batch)
            own = cut(whole, self.together.rank, self.together.world)
            samples = own.stop - own.start
            yield (Share(number, samples, whole),
                   take(batch, whole, own if samples else cut(whole, 0, self.together.world), self.name))

    def check_same(self, batch: Any) -> None:
        """Every process must read the same stream, or samples would be missed and others counted twice."""
        if len(set(self.together.gather(digest(batch)))) > 1:
            raise bad_value(self.name, received="a stream that begins differently in each process",
                            expected="the same batches in every process, of which each takes its share",
                            fix="Seed what shuffles it, and do not split it by rank yourself.")


def cut(count: int, rank: int, world: int) -> slice:
    """The part of ``count`` things that is one process's: even parts, the first processes one more.

    Example:
        >>> [cut(5, rank, 3) for rank in range(3)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    each, more = divmod(count, world)
    start = rank * each + min(rank, more)
    return slice(start, start + each + (rank < more))


def take(batch: Any, whole: int, part: slice, name: str) -> Any:
    """Some samples of a ready batch: rows of its arrays, items of its lists."""
    if isinstance(batch, (Tensor, np.ndarray)):
        return batch[part] if batch.ndim and len(batch) == whole else batch
    if hasattr(batch, "to") and not isinstance(batch, Mapping):
        raise bad_type(name, received=f"batches with a {type(batch).__name__} in them",
                       expected="tensors, whose rows several processes can divide",
                       fix="Pass a DataLoader over a Dataset: its batches are divided before they are made.")
    if isinstance(batch, list) and len(batch) == whole and not any(map(is_container, batch)):
        return batch[part]
    if isinstance(batch, Mapping):
        return rebuild(batch, [take(value, whole, part, name) for value in batch.values()])
    if isinstance(batch, (tuple, list)):
        return rebuild(batch, [take(value, whole, part, name) for value in batch])
    return batch


def is_container(value: Any) -> bool:
    """Whether a value can hold samples itself."""
    return isinstance(value, (Tensor, np.ndarray, Mapping, tuple, list))


def reads_by_number(source: Any) -> bool:
    """Whether a source is a DataLoader whose batches are lists of sample numbers first."""
    return (isinstance(source, DataLoader) and type(source).__iter__ is DataLoader.__iter__
            and source.batch_sampler is not None and not isinstance(source.dataset, IterableDataset))


def refuse_distributed_sampler(source: Any, name: str) -> None:
    """Refuse data that is divided already: a DistributedSampler repeats samples to make its parts even."""
    samplers = getattr(source, "sampler", None), getattr(getattr(source, "batch_sampler", None), "sampler", None)
    if any(isinstance(sampler, DistributedSampler) for sampler in samplers):
        raise bad_value(name, received="a DataLoader with a DistributedSampler", expected="one without",
                        fix="Leave the sampler out (shuffle=True where you want it): batches are shared between the "
                            "processes here, and no sample is repeated.")
