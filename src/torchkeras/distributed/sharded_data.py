"""Return each rank's share of the data.

To train, every batch is split: each rank computes its part of it, so batch sizes, steps and
schedules mean the same at any world size. To measure and predict, the ranks take whole batches in
turn (round robin).
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import BatchSampler, RandomSampler
from torch.utils.data.distributed import DistributedSampler

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.tree import rebuild
from torchkeras.core.types import Batch, Leaf, Source
from torchkeras.data.batch import Items, as_inputs
from torchkeras.data.fingerprint import digest
from torchkeras.data.memory import InMemoryLoader, is_ordered
from torchkeras.data.ready import BatchReader
from torchkeras.data.samples import size
from torchkeras.data.start import ResumePoint, is_index_based

if TYPE_CHECKING:
    from torchkeras.core.communicator import Communicator

AT_ONCE = 1024  # batches of each rank whose sample indices rank 0 sends together
NUMBERS_AT_ONCE = 1 << 17  # a limit of the indices sent together, for large batches
LISTED = 1 << 14  # indices that are a list at a time: in one, each takes 40 bytes, not 8
DATASET = "Pass a DataLoader over a Dataset: its batches are divided before they are made."


class Shard(NamedTuple):
    """One rank's share of a batch."""

    number: int  # of the batch in its pass
    samples: int  # that count on this rank; 0 for padding, computed for the all-reduce only
    whole: int  # samples of the batch on all ranks


class ShardedBatchSampler:
    """A batch sampler for a DataLoader: the sample indices of this rank's batches.

    Rank 0 alone draws the indices, whatever the sampler, and broadcasts them.
    """

    def __init__(self, batch_sampler: Iterable[Any], steps: int | None,
                 communicator: Communicator) -> None:
        self.batch_sampler, self.steps, self.communicator = batch_sampler, steps, communicator
        self.pending: deque[Shard] = deque()  # of batches that loader workers are still reading
        self.given = 0  # batches of this pass, of all ranks together
        self.divide = False
        self.start = ResumePoint()

    def __iter__(self) -> Iterator[list[Any]]:
        self.pending.clear()
        start, self.start = self.start, ResumePoint()
        self.given = start.skip
        pick = self.split_batch if self.divide else self.round_robin
        for number, keys in enumerate(start.rest(self.order()), start=start.skip):
            self.given = number + 1
            picked = pick(number, list(keys))
            if picked is not None:
                self.pending.append(picked[0])
                yield picked[1]

    def split_batch(self, number: int, keys: list[Any]) -> tuple[Shard, list[Any]] | None:
        """Return this rank's part of a batch; a rank without a sample gets rank 0's as padding."""
        rank, world_size = self.communicator.rank, self.communicator.world_size
        own = keys[shard_slice(len(keys), rank, world_size)]
        padding = keys[shard_slice(len(keys), 0, world_size)]
        return Shard(number, len(own), len(keys)), own or padding

    def round_robin(self, number: int, keys: list[Any]) -> tuple[Shard, list[Any]] | None:
        """Return a whole batch if it is this rank's turn; None if it is another's."""
        if number % self.communicator.world_size != self.communicator.rank:
            return None
        return Shard(number, len(keys), len(keys)), keys

    def order(self) -> Iterator[Any]:
        """Yield the sample indices of all batches, as rank 0 draws them."""
        main = self.communicator.is_main_process
        drawn: Iterator[Any] = iter(())
        if main:
            drawn = islice(lean(self.batch_sampler), self.steps)
        more = True
        while more:
            sent: Any = self.next_rounds(drawn) if main else None
            keys, more = self.communicator.broadcast(sent)
            yield from keys

    def next_rounds(self, drawn: Iterator[Any]) -> tuple[list[list[Any]], bool]:
        """Return the next batches to broadcast, in whole rounds, and whether more may follow.

        With whole rounds, all ranks need the next broadcast at the same time.
        """
        keys: list[list[Any]] = []
        numbers, world_size = 0, self.communicator.world_size
        while len(keys) < AT_ONCE * world_size and numbers < NUMBERS_AT_ONCE:
            batches = [list(one) for one in islice(drawn, world_size)]
            keys += batches
            numbers += sum(map(len, batches))
            if len(batches) < world_size:
                return keys, False
        return keys, True


class LeanOrder:
    """Iterate over the indices of a RandomSampler, as it draws them, without a list of all.

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
        # the last permutation is drawn whole, too, however little of it is used
        for taken in (*[samples] * rounds, more):
            order = torch.randperm(samples, generator=generator)[:taken]
            for part in torch.split(order, LISTED):
                yield from part.tolist()


def lean(batch_sampler: Any) -> Any:
    """Return a batch sampler of the same batches that needs less memory, where there is one."""
    if not is_ordered(batch_sampler) or type(batch_sampler.sampler) is not RandomSampler:
        return batch_sampler
    order: Any = LeanOrder(batch_sampler.sampler)
    return BatchSampler(order, batch_sampler.batch_size, batch_sampler.drop_last)


class ShardedBatches:
    """Iterate over this rank's share of a source of batches.

    Of a DataLoader that reads samples by index, only the samples of this rank are read. Any other
    source is read whole by every rank.

    Args:
        source: the iterable of batches.
        name: what errors call it.
        steps: batches a pass; None means all there are.
        communicator: the communicator of the job.
        memory: the tensors in memory that the source selects from, if it does.
    """

    def __init__(self, source: Source, name: str, steps: int | None, communicator: Communicator,
                 memory: InMemoryLoader | None = None) -> None:
        refuse_distributed_sampler(source, name)
        self.source, self.name, self.steps = source, name, steps
        self.communicator, self.memory, self.reader = communicator, memory, BatchReader()
        self.numbers: ShardedBatchSampler | None = None
        self.streamed = 0  # batches of this pass, where there are no sample indices
        if is_index_based(source):
            self.numbers = ShardedBatchSampler(source.batch_sampler, steps, communicator)
            self.loader: Any = copy.copy(source) if memory is None else None
            if memory is None:
                # DataLoader refuses to set these; a copy never iterated over has no state yet
                self.loader.__dict__.update(batch_sampler=self.numbers, _iterator=None)

    @property
    def given(self) -> int:
        """Return the number of batches that this pass has given, to all ranks together."""
        return self.streamed if self.numbers is None else self.numbers.given

    def own_length(self, length: int) -> int:
        """Return how many whole batches of a pass are this rank's."""
        return len(range(self.communicator.rank, length, self.communicator.world_size))

    def shares(self, divide: bool, start: ResumePoint | None = None
               ) -> Iterator[tuple[Shard, Batch]]:
        """Yield this rank's batches with their shards: a part of every batch, or whole batches."""
        if self.numbers is None:
            yield from self.stream(divide, start or ResumePoint())
            return
        self.numbers.divide, self.numbers.start = divide, start or ResumePoint()
        for batch in self.loader if self.memory is None else self.memory.batches(self.numbers):
            yield self.numbers.pending.popleft(), batch

    def stream(self, divide: bool, start: ResumePoint) -> Iterator[tuple[Shard, Batch]]:
        """Yield this rank's batches of a source that every rank reads whole."""
        rank, world_size = self.communicator.rank, self.communicator.world_size
        self.streamed = start.skip
        batches = islice(start.batches_of(self.source), start.left(self.steps))
        for number, batch in enumerate(map(self.reader, batches), start=start.skip):
            self.streamed = number + 1
            if number == start.skip:
                self.check_same(batch)
            if not divide:
                if number % world_size == rank:
                    yield Shard(number, 1, 1), batch
                continue
            whole = size(batch)
            own = shard_slice(whole, rank, world_size)
            samples = own.stop - own.start
            part = own if samples else shard_slice(whole, 0, world_size)
            yield Shard(number, samples, whole), take(batch, whole, part, self.name)

    def check_same(self, batch: Batch) -> None:
        """Refuse streams that differ between ranks: samples would be missed or counted twice."""
        if len(set(self.communicator.all_gather(digest(batch)))) > 1:
            raise bad_value(self.name, received="a stream that begins differently in each process",
                            expected="the same batches in every process, of which each takes its "
                            "share",
                            fix="Seed what shuffles it, and do not split it by rank yourself.")


def shard_slice(count: int, rank: int, world_size: int) -> slice:
    """Return the slice of ``count`` items of a rank: even parts, the first ranks get one more.

    Example:
        >>> [shard_slice(5, rank, 3) for rank in range(3)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    each, more = divmod(count, world_size)
    start = rank * each + min(rank, more)
    return slice(start, start + each + (rank < more))


def take(batch: Batch, whole: int, part: slice, name: str) -> Batch:
    """Return some samples of a batch: rows of its arrays, items of its lists.

    Args:
        batch: the batch.
        whole: the number of its samples.
        part: the samples to take.
        name: what errors call the data.
    """
    if isinstance(batch, (Tensor, np.ndarray)):
        check_rows(batch, whole, name)
        return batch[part] if batch.ndim else batch
    if hasattr(batch, "to") and not isinstance(batch, Mapping):
        raise bad_type(name, received=f"batches with a {type(batch).__name__} in them",
                       expected="tensors, whose rows several processes can divide", fix=DATASET)
    if type(batch) in (tuple, list) and len(batch) == 2 and isinstance(
            batch[0], (tuple, list)) and isinstance(as_inputs(batch[0], batch[1], None), Items):
        return type(batch)(value[part] for value in batch)
    if isinstance(batch, (tuple, list, Mapping)):
        values = batch.values() if isinstance(batch, Mapping) else batch
        return rebuild(batch, [value[part] if has_item_per_sample(value, whole)
                               else take(value, whole, part, name) for value in values])
    return batch


def check_rows(batch: Tensor | np.ndarray[Any, Any], whole: int, name: str) -> None:
    """Refuse an array whose rows are not the samples of the batch."""
    if batch.ndim and len(batch) != whole:
        raise bad_value(name, received=f"a batch of {whole} samples with a tensor of shape "
                        f"{tuple(batch.shape)}", expected="tensors with a row for each sample, "
                        "which several processes can divide", fix=DATASET)


def has_item_per_sample(value: Leaf, whole: int) -> bool:
    """Return whether a list in a batch has one item for each sample.

    It has as many items as there are samples, and none of them has a row for each sample itself.
    """
    if not isinstance(value, (list, tuple)) or hasattr(value, "to") or len(value) != whole:
        return False
    return not any(isinstance(item, (Tensor, np.ndarray, list, tuple))
                   and getattr(item, "ndim", 1) and len(item) == whole for item in value)


def refuse_distributed_sampler(source: Source, name: str) -> None:
    """Refuse a DistributedSampler: it repeats samples to make the shards of all ranks equal."""
    batch_sampler = getattr(source, "batch_sampler", None)
    samplers = getattr(source, "sampler", None), getattr(batch_sampler, "sampler", None)
    if any(isinstance(sampler, DistributedSampler) for sampler in samplers):
        raise bad_value(name, received="a DataLoader with a DistributedSampler",
                        expected="one without",
                        fix="Leave the sampler out (shuffle=True where you want it): batches are "
                            "shared between the processes here, and no sample is repeated.")
