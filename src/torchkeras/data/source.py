"""Batches: an iterable of batches made from any data, with what is known of its length."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, Protocol

import torch

from torchkeras.core import internals
from torchkeras.core.communicator import Communicator
from torchkeras.core.errors import bad_value, whole_number
from torchkeras.core.types import Batch, Data, Source, State
from torchkeras.data.arrays import WholeBatches
from torchkeras.data.empty import no_batch, out_of_data
from torchkeras.data.kinds import loader_of
from torchkeras.data.memory import in_memory, only_selects
from torchkeras.data.ready import BatchReader
from torchkeras.data.resident import DevicePrefetcher, fits_on
from torchkeras.data.reuse import gives_fresh
from torchkeras.data.sizes import count_samples, length_of, steps_set_by_user
from torchkeras.data.start import ResumePoint
from torchkeras.data.validation import Part


def batches(data: Data, *, name: str, batch_size: int | None = None, shuffle: bool = False,
            steps: int | None = None, device: torch.device | str | None = None,
            dtype: torch.dtype | None = None, draws: bool = True) -> Batches:
    """Turn whatever the user gave as data into batches, and raise at once for what is wrong.

    Args:
        data: A DataLoader (used as it is); a Dataset; arrays of numpy, torch or pandas, alone, as
            ``(x, y)``, ``(x, y, sample_weight)`` or a dict (a list of arrays counts as such a
            tuple); a generator, list of tuples or dicts, or other iterable of ready batches.
        name: The name of the data in errors, such as "train_data".
        batch_size: Samples a batch where batches are made here; None means 32.
        shuffle: A new order every epoch, for arrays and Datasets.
        steps: Batches an epoch; None means all there are.
        device: The device that each batch is moved to; None leaves it where it is.
        dtype: The dtype of floats of 64 bits in arrays that are no torch tensors, also those in
            ready batches; None means torch's default.
        draws: False where measuring must not move torch's global random state: batches that are
            made here then draw from a generator of their own. A DataLoader of the user's draws as
            it always does.

    Returns:
        The batches, which can be iterated over once an epoch.

    Raises:
        TypeError: This cannot be data.
        ValueError: There is no batch, fewer batches than ``steps``, or an option does not go with
            the data.

    Example:
        >>> import numpy as np
        >>> train = batches((np.zeros((10, 3)), np.arange(10)), name="train_data", batch_size=4)
        >>> len(train), train.samples, train.last_batch
        (3, 10, 2)
        >>> [len(y) for x, y in train]
        [4, 4, 2]
    """
    whole_number("batch_size", batch_size, least=1, optional=True)
    whole_number("steps", steps, least=1, optional=True)
    size = None if batch_size is None else int(batch_size)  # torch refuses numpy's integers
    loader = loader_of(data, name=name, batch_size=size, shuffle=bool(shuffle), dtype=dtype,
                       draws=draws)
    return Batches(loader, name=name, steps=steps, device=device, dtype=dtype)


class Sharding(Protocol):
    """One rank's share of each pass; ``distributed/sharded_data.py`` has it."""

    communicator: Communicator
    memory: Any  # the fast way through the source, where there is one
    reader: BatchReader  # turns arrays into tensors

    @property
    def given(self) -> int:
        """Return how many batches this pass gave to all processes."""

    def own_length(self, length: int) -> int:
        """Return how many whole batches of a pass are this rank's."""

    def shares(self, divide: bool, start: ResumePoint) -> Iterator[tuple[Any, Batch]]:
        """Yield this rank's batches with their shares."""


class Batches:
    """Iterate over a source of batches once an epoch; tell what is known of its length.

    A source that can start again starts anew each epoch; a generator continues where it stopped. An
    epoch ends when ``steps`` batches are taken or the source ends, whichever is first; an epoch
    without a batch is an error. Attributes that are not here are read from the source, so
    ``batches.batch_size`` is the DataLoader's.

    Args:
        source: An iterable of batches. On a DataLoader an attribute ``size`` set by the user counts
            as ``steps``.
        name: The name of the data in errors.
        steps: Batches an epoch; None means all there are.
        device: The device that each batch is moved to; None leaves it where it is.
        dtype: The dtype of floats of 64 bits in arrays; None means torch's default.

    Attributes:
        source: The iterable of batches itself.
        length: Batches an epoch, None when not known.
        samples: Samples an epoch, None when not known.
        last_batch: Samples of an epoch's last batch, None when not known.
        share: This rank's shard of the current batch; None with one process.

    Raises:
        ValueError: The source is known to have no batch, or fewer than ``steps``.

    Example:
        >>> stream = Batches(iter([torch.ones(2)] * 3), name="train_data", steps=2)
        >>> [len(list(stream)) for epoch in range(2)]
        [2, 1]
    """

    def __init__(self, source: Iterable[Any], *, name: str, steps: int | None = None,
                 device: torch.device | str | None = None,
                 dtype: torch.dtype | None = None) -> None:
        self.source = source
        self.name = name
        self.device, self.dtype = device, dtype
        self.steps = steps_set_by_user(source) if steps is None else steps
        self.length: int | None = None
        self.samples: int | None = None
        self.last_batch: int | None = None
        self.count()
        if self.length is not None and self.steps is not None and self.steps > self.length:
            raise bad_value(name, received=f"{self.steps} steps an epoch for {self.length} batches",
                            expected=f"at most {self.length} steps",
                            fix="Ask for fewer steps, or pass an iterable that goes on.")
        self.memory = in_memory(source)
        self.device_data = self.memory  # the same on the device, if there is room
        self.prefetcher: DevicePrefetcher | None = None
        self.placed_on: torch.device | str | None = None
        self.sharing: Sharding | None = None
        self.divide = False
        self.share: Any = None
        self.current = source  # the iterable of a pass: a copy whose workers persist, on resume
        self.start = ResumePoint()  # where the next pass begins
        self.num_yielded = 0  # batches that this pass yielded
        self.total = 0  # batches that all passes yielded
        # called as a pass starts, before any random number is drawn for it
        self.on_start: Callable[[], None] | None = None
        # called before each batch is read but the first, when the one before is used up
        self.on_boundary: Callable[[], None] | None = None
        self.items: int | None = None  # length of each batch; 0 if it is no tuple or list
        self.used = False  # whether there was a pass before this one
        self._has_given = False

    def count(self) -> None:
        """Set the number of batches and samples of an epoch, as far as they are known."""
        available = length_of(self.source)
        if available == 0:
            raise no_batch(self.name, self.source)
        self.length = self.steps
        if available is not None:
            self.length = available if self.steps is None else min(self.steps, available)
        self.samples, self.last_batch = count_samples(self.source, self.length)

    def renew(self) -> None:
        """Count again before a pass: a callback may have put in other samples or options."""
        for holder in data_components(self.source):
            if isinstance(holder, Part):
                holder.check(self.name)
        if not isinstance(self.source, Iterator):
            self.count()
        self.find()

    def find(self) -> None:
        """Check whether samples can still be selected from memory, and move changed ones."""
        memory = self.memory
        if memory is None:
            return
        if not only_selects(self.source):
            self.memory = self.device_data = self.sharing = self.placed_on = None
        elif self.device_data is not None and self.device_data is not memory and (
                memory.samples.changed()):
            memory.samples = memory.located()
            self.placed_on = None
        self.place()

    def prepare_pass(self, *, divide: bool) -> None:
        """Look at the source again before a pass, and place it on the device.

        Args:
            divide: in several processes, each computes a part of every batch, not whole batches.
        """
        self.divide = divide
        self.renew()
        self.place()

    def set_epoch(self, epoch: int) -> None:
        """Call ``set_epoch`` of all samplers and datasets in the source that have it."""
        for holder in data_components(self.source):
            if callable(tell := getattr(holder, "set_epoch", None)):
                tell(epoch)

    def place(self) -> None:
        """Copy data in memory to the device, once, if it fits; else move batch by batch."""
        if self.placed_on == self.device:
            return
        before, self.placed_on = self.device_data, self.device
        self.device_data, self.prefetcher = self.memory, None
        if self.device is None:
            return
        device = torch.device(self.device)
        found = None if self.memory is None else self.memory.samples
        # samples that require grad are copied with each batch: a copy of all would not be updated
        if self.memory is not None and found is not None and device.type != "cpu" and (
                not found.requires_grad and fits_on(found.nbytes, device)):
            self.device_data = self.memory.on(device, before)
        if self.device_data is None or not self.device_data.is_on(device):
            self.prefetcher = DevicePrefetcher(device, gives_fresh(self.source))

    def give_back(self) -> bool:
        """Free the copy of the data on the device; tell whether there was one."""
        resident = self.device_data is not None and self.device_data is not self.memory
        self.device_data, self.prefetcher, self.placed_on = self.memory, None, None
        if self.sharing is not None:
            self.sharing.memory = self.memory
        return resident

    @property
    def fresh(self) -> bool:
        """Tell whether each batch keeps its memory to itself when the next one is read."""
        direct = self.prefetcher is None and gives_fresh(self.source)
        return self.device_data is not None or direct

    @property
    def of_arrays(self) -> bool:
        """Tell whether the user gave arrays, so that a third one is weights."""
        return isinstance(getattr(self.source, "dataset", None), WholeBatches)

    @property
    def own_length(self) -> int | None:
        """Return the batches of a pass on this rank, None when not known."""
        if self.length is None or self.sharing is None or self.divide:
            return self.length
        return self.sharing.own_length(self.length)

    def __iter__(self) -> Iterator[Any]:
        self.find()
        self.place()
        start, self.start = self.start, ResumePoint()
        self.num_yielded, self.used = start.skip, self._has_given
        start.first()
        if self.on_start is not None:
            self.on_start()
        prefetcher = self.prefetcher
        # an iterator that is made but not used would draw random numbers too
        sharing, reader = self.sharing, BatchReader(self.dtype)
        if sharing is not None:
            sharing.reader = reader  # it reads rows, of tensors
        for batch in self._whole(start) if sharing is None else self._shared(sharing, start):
            batch = reader(batch)
            if not self._has_given or self.items is None:
                self.items = len(batch) if type(batch) in (tuple, list) else 0
            self._has_given = True
            self.num_yielded += 1
            self.total += 1
            yield batch if prefetcher is None else prefetcher(batch)
            if self.on_boundary is not None:
                self.on_boundary()
        start.restore()
        if not (self.num_yielded if self.sharing is None else self.sharing.given):
            raise out_of_data(self.name) if self._has_given else no_batch(self.name, self.source)
        self._has_given = True

    def _whole(self, start: ResumePoint) -> Iterator[Any]:
        if self.device_data is not None and start.skip:
            return islice(start.in_memory(self.device_data), start.left(self.steps))
        if self.device_data is not None:
            return islice(self.device_data, self.steps)
        source = start.batches_of(self.current)
        if getattr(source, "persistent_workers", False):
            self.current = source  # its workers live on
        return islice(source, start.left(self.steps))

    def _shared(self, sharing: Sharding, start: ResumePoint) -> Iterator[Any]:
        for share, batch in sharing.shares(self.divide, start):
            self.share = share
            yield batch

    def apart(self) -> Batches:
        """Return the same batches, to be read beside a run: only random numbers are drawn of it."""
        twin = copy.copy(self)
        twin.start, twin.sharing, twin.on_start, twin.on_boundary = ResumePoint(), None, None, None
        twin.memory, twin.device_data = copy.copy(self.memory), copy.copy(self.device_data)
        if self.device_data is self.memory:
            twin.device_data = twin.memory
        if self.prefetcher is not None:  # which holds the batches that are on their way
            twin.placed_on = None
        if getattr(self.source, "persistent_workers", False):  # they read for one pass at a time
            twin.source = copy.copy(self.source)
            internals.end_workers(twin.source)
        twin.current = twin.source
        return twin

    def known_indices(self) -> dict[int, Any]:
        """Return the indices of Subsets that are arrays already, by ``id(Subset.indices)``."""
        return {} if self.memory is None else self.memory.samples.arrays

    def position(self) -> State:
        """Return the position in the data, for a checkpoint."""
        own: Any = self.source if has_state_dict(self.source) else None
        return {"total": self.total, "given": self._has_given, "used": self.used,
                "state": None if own is None else own.state_dict()}

    def resume_at(self, position: State, skip: int, first: Callable[[], None],
                  restore: Callable[[], None]) -> None:
        """Let the next pass begin at a saved :meth:`position`, after ``skip`` of its batches."""
        begun = position["used"] if skip else position["given"]
        again = begun and getattr(self.source, "persistent_workers", False)
        self.total, self._has_given = position["total"], begun
        for memory in (self.memory, self.device_data) if again else ():
            if memory is not None:
                memory.seeded = True
        cannot_restart = isinstance(self.source, Iterator) and self.total
        self.start = ResumePoint(skip, first, restore, position["state"], again=again,
                                 total=self.total if cannot_restart else None)

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError(f"{self.name}: a {type(self.source).__name__} does not tell its "
                            "length; give the number of steps an epoch, or read .length, which is "
                            "None then.")
        return self.length

    def __bool__(self) -> bool:
        return True

    def __getattr__(self, attribute: str) -> Any:
        # copying and unpickling ask for attributes before there is a source
        if attribute == "source" or attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(self.source, attribute)


def data_components(source: Source) -> Iterator[Any]:
    """Yield a source of batches and its samplers and datasets, each once."""
    waiting, seen = [source], set()
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        parts = getattr(one, "__dict__", {})
        waiting += [parts.get(name)
                    for name in ("batch_sampler", "sampler", "dataset", "data_source")]


def has_state_dict(source: Source) -> bool:
    """Tell whether a source can save and restore its own position."""
    return callable(getattr(source, "state_dict", None)) and callable(
        getattr(source, "load_state_dict", None))
