"""What one of several processes takes of each pass over the data.

To train, every batch is divided: each process computes its part of it, so batch sizes, steps and schedules mean the
same at any number of processes. To measure and predict, whole batches are dealt out like cards.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, RandomSampler
from torch.utils.data.distributed import DistributedSampler

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.tree import rebuild
from torchkeras.data.batch import Items, as_inputs
from torchkeras.data.fingerprint import digest
from torchkeras.data.memory import InMemory, is_ordered
from torchkeras.data.samples import size
from torchkeras.data.start import Start, numbered

AT_ONCE = 1024  # batches of each process whose sample numbers process 0 sends together
NUMBERS_AT_ONCE = 1 << 17  # and no more numbers than that, of large batches
LISTED = 1 << 14  # numbers of an order in a list at a time: there, each takes 40 bytes, not 8


class Share(NamedTuple):
    """One process's share of a batch."""

    number: int  # of the batch in its pass
    samples: int  # that count here; 0 for a stand-in, computed only because the others compute
    whole: int  # samples of the batch in all processes


class Numbers:
    """The sample numbers of this process's batches: what a DataLoader takes for a batch sampler.

    Process 0 alone draws them, whatever the sampler, and sends them to the others.
    """

    def __init__(self, batch_sampler: Any, steps: int | None, together: Any) -> None:
        self.batch_sampler, self.steps, self.together = batch_sampler, steps, together
        self.waiting: deque[Share] = deque()  # the shares of batches that loader workers are still reading
        self.given = 0  # batches of this pass, of all processes together
        self.divide = False
        self.start = Start()

    def __iter__(self) -> Iterator[list[Any]]:
        self.waiting.clear()
        start, self.start = self.start, Start()
        self.given = start.skip
        pick = self.part if self.divide else self.card
        for number, keys in enumerate(start.rest(self.order()), start=start.skip):
            self.given = number + 1
            picked = pick(number, list(keys))
            if picked is not None:
                self.waiting.append(picked[0])
                yield picked[1]

    def part(self, number: int, keys: list[Any]) -> tuple[Share, list[Any]] | None:
        """The share of a batch that is divided; a process without a sample repeats the first one's for no credit."""
        own = keys[cut(len(keys), self.together.rank, self.together.world)]
        stand_in = keys[cut(len(keys), 0, self.together.world)]
        return Share(number, len(own), len(keys)), own or stand_in

    def card(self, number: int, keys: list[Any]) -> tuple[Share, list[Any]] | None:
        """The share of a batch that is dealt out: all of it or nothing."""
        if number % self.together.world != self.together.rank:
            return None
        return Share(number, len(keys), len(keys)), keys

    def order(self) -> Iterator[Any]:
        """The sample numbers of all batches, as process 0 draws them."""
        drawn = islice(lean(self.batch_sampler), self.steps) if self.together.main else iter(())
        more = True
        while more:
            keys, more = self.together.from_main(self.hand(drawn) if self.together.main else None)
            yield from keys

    def hand(self, drawn: Iterator[Any]) -> tuple[list[list[Any]], bool]:
        """Return the next batches that process 0 sends, in whole rounds, and whether more may follow.

        So all processes ask for more in the same round.
        """
        keys: list[list[Any]] = []
        numbers, world = 0, self.together.world
        while len(keys) < AT_ONCE * world and numbers < NUMBERS_AT_ONCE:
            cards = [list(one) for one in islice(drawn, world)]
            keys += cards
            numbers += sum(map(len, cards))
            if len(cards) < world:
                return keys, False
        return keys, True


class LeanOrder:
    """Iterate over the numbers that a RandomSampler draws, as it draws them, without a list of all.

    Args:
        sampler: one without replacement.
    """

    def __init__(self, sampler: RandomSampler) -> None:
        self.sampler = sampler

    def __iter__(self) -> Iterator[int]:
        generator, samples = self.sampler.generator, len(self.sampler.data_source)
        if generator is None:
            generator = torch.Generator()
            generator.manual_seed(int(torch.empty((), dtype=torch.int64).random_().item()))
        rounds, more = divmod(self.sampler.num_samples, samples)
        # the last is drawn whole, too, however little of it is taken
        for taken in (*[samples] * rounds, more):
            for part in torch.randperm(samples, generator=generator)[:taken].split(LISTED):
                yield from part.tolist()


def lean(batch_sampler: Any) -> Any:
    """Return a batch sampler of the same batches, which takes little memory where that can be."""
    if not is_ordered(batch_sampler) or type(batch_sampler.sampler) is not RandomSampler:
        return batch_sampler
    order: Any = LeanOrder(batch_sampler.sampler)
    return BatchSampler(order, batch_sampler.batch_size, batch_sampler.drop_last)


class Sharing:
    """Iterate over this process's share of a source of batches.

    A DataLoader that reads samples by number reads only those that are computed here. Any other source is read whole by
    every process.

    Args:
        source: the iterable of batches.
        name: what errors call it.
        steps: batches a pass; None means all there are.
        together: the processes, as :class:`torchkeras.distributed.communicator.Alone` describes them.
        memory: the fast way through the source, where there is one.
    """

    def __init__(self, source: Iterable[Any], name: str, steps: int | None, together: Any,
                 memory: InMemory | None = None) -> None:
        refuse_distributed_sampler(source, name)
        self.source, self.name, self.steps, self.together, self.memory = source, name, steps, together, memory
        self.numbers: Numbers | None = None
        self.streamed = 0  # batches of this pass, where there are no numbers
        if numbered(source):
            self.numbers = Numbers(source.batch_sampler, steps, together)  # type: ignore[attr-defined]
            self.loader: Any = copy.copy(source) if memory is None else None
            if memory is None:
                # torch refuses to set these on a finished DataLoader; a copy never iterated over has no state yet
                self.loader.__dict__.update(batch_sampler=self.numbers, _iterator=None)

    @property
    def given(self) -> int:
        """Batches that this pass gave so far, to all processes together."""
        return self.streamed if self.numbers is None else self.numbers.given

    def shares(self, divide: bool, start: Start | None = None) -> Iterator[tuple[Share, Any]]:
        """This process's batches with their shares: a part of every batch, or every so many-th batch whole."""
        if self.numbers is None:
            yield from self.stream(divide, start or Start())
            return
        self.numbers.divide, self.numbers.start = divide, start or Start()
        for batch in self.loader if self.memory is None else self.memory.batches(self.numbers):
            yield self.numbers.waiting.popleft(), batch

    def stream(self, divide: bool, start: Start) -> Iterator[tuple[Share, Any]]:
        """From a source that every process reads whole."""
        rank, world = self.together.rank, self.together.world
        self.streamed = start.skip
        for number, batch in enumerate(islice(start.of(self.source), start.left(self.steps)), start=start.skip):
            self.streamed = number + 1
            if number == start.skip:
                self.check_same(batch)
            if not divide:
                if number % world == rank:
                    yield Share(number, 1, 1), batch
                continue
            whole = size(batch)
            own = cut(whole, rank, world)
            samples = own.stop - own.start
            yield Share(number, samples, whole), take(batch, whole, own if samples else cut(whole, 0, world), self.name)

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
        if batch.ndim and len(batch) != whole:
            raise bad_value(name, received=f"a batch of {whole} samples with a tensor of shape {tuple(batch.shape)}",
                            expected="tensors with a row for each sample, which several processes can divide",
                            fix="Pass a DataLoader over a Dataset: its batches are divided before they are made.")
        return batch[part] if batch.ndim else batch
    if hasattr(batch, "to") and not isinstance(batch, Mapping):
        raise bad_type(name, received=f"batches with a {type(batch).__name__} in them",
                       expected="tensors, whose rows several processes can divide",
                       fix="Pass a DataLoader over a Dataset: its batches are divided before they are made.")
    if type(batch) in (tuple, list) and len(batch) == 2 and isinstance(batch[0], (tuple, list)) and isinstance(
            as_inputs(batch[0], batch[1], None), Items):
        return type(batch)(value[part] for value in batch)
    if isinstance(batch, (tuple, list, Mapping)):
        return rebuild(batch, [value[part] if one_a_sample(value, whole) else take(value, whole, part, name)
                               for value in (batch.values() if isinstance(batch, Mapping) else batch)])
    return batch


def one_a_sample(value: Any, whole: int) -> bool:
    """Tell whether a list in a batch holds one item a sample: as many as samples, none of which has a row for each."""
    return isinstance(value, (list, tuple)) and not hasattr(value, "to") and len(value) == whole and not any(
        isinstance(item, (Tensor, np.ndarray, list, tuple)) and getattr(item, "ndim", 1) and len(item) == whole
        for item in value)


def refuse_distributed_sampler(source: Any, name: str) -> None:
    """Refuse data that is divided already: a DistributedSampler repeats samples to make its parts even."""
    samplers = getattr(source, "sampler", None), getattr(getattr(source, "batch_sampler", None), "sampler", None)
    if any(isinstance(sampler, DistributedSampler) for sampler in samplers):
        raise bad_value(name, received="a DataLoader with a DistributedSampler", expected="one without",
                        fix="Leave the sampler out (shuffle=True where you want it): batches are shared between the "
                            "processes here, and no sample is repeated.")
