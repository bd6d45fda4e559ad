"""Batches: what a run iterates over, whatever data it was given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from torchkeras.core.errors import bad_value, message, mistake, whole_number
from torchkeras.data.arrays import WholeBatches
from torchkeras.data.kinds import loader_of
from torchkeras.data.memory import in_memory, selects
from torchkeras.data.resident import Mover, fits
from torchkeras.data.reuse import gives_fresh
from torchkeras.data.samples import size
from torchkeras.data.start import Start
from torchkeras.data.validation import Part
from torchkeras.distributed.sharded_data import Share, Sharing


def batches(data: Any, *, name: str, batch_size: int | None = None, shuffle: bool = False, steps: int | None = None,
            device: torch.device | str | None = None, dtype: torch.dtype | None = None, draws: bool = True) -> Batches:
    """Turn whatever the user gave as data into batches, and say at once what is wrong with it.

    Args:
        data: A DataLoader (used as it is); a Dataset; arrays of numpy, torch or pandas, alone, as ``(x, y)``,
            ``(x, y, sample_weight)`` or a dict (a list of arrays counts as such a tuple); a generator, list of tuples
            or dicts, or other iterable of ready batches.
        name: What errors call the data, such as "train_data".
        batch_size: Samples a batch where batches are made here; None means 32.
        shuffle: A new order every epoch, for arrays and Datasets.
        steps: Batches an epoch; None means all there are.
        device: Where each batch is moved; None leaves it where it is.
        dtype: What floats of 64 bits in arrays become, other than torch tensors; None means torch's default.
        draws: False where measuring shall not move torch's global random state: batches that are made here then draw
            from a generator of their own. A DataLoader of the user's draws as it always does.

    Returns:
        The batches, which can be iterated over once an epoch.

    Raises:
        TypeError: This cannot be data.
        ValueError: There is no batch, fewer batches than ``steps``, or an option does not go with the data.

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
    size = None if batch_size is None else int(batch_size)  # torch takes no whole number of numpy's
    loader = loader_of(data, name=name, batch_size=size, shuffle=bool(shuffle), dtype=dtype,
                       draws=draws)
    return Batches(loader, name=name, steps=steps, device=device)


class OutOfData(ValueError):
    """A source that gave batches before has none left for a new epoch."""


class Batches:
    """Iterate over a source of batches once an epoch, knowing what can be known of it beforehand.

    A source that can start again starts anew each epoch; a generator goes on where it stopped. An epoch ends when
    ``steps`` batches are taken or the source ends, whichever is first; an epoch without a batch is an error. Attributes
    that are not here are read from the source, so ``batches.batch_size`` is the DataLoader's.

    Args:
        source: An iterable of batches. On a DataLoader an attribute ``size`` set by the user counts as ``steps``.
        name: What errors call it.
        steps: Batches an epoch; None means all there are.
        device: Where each batch is moved; None leaves it where it is.

    Attributes:
        source: The iterable of batches itself.
        length: Batches an epoch, None when not known.
        samples: Samples an epoch, None when not known.
        last_batch: Samples of an epoch's last batch, None when not known.
        share: Of several processes, this one's share of the batch in hand; None where there is one process.

    Raises:
        ValueError: The source is known to have no batch, or fewer than ``steps``.

    Example:
        >>> stream = Batches(iter([torch.ones(2), torch.zeros(2), torch.ones(2)]), name="train_data", steps=2)
        >>> [len(list(stream)) for epoch in range(2)]
        [2, 1]
    """

    def __init__(self, source: Iterable[Any], *, name: str, steps: int | None = None,
                 device: torch.device | str | None = None) -> None:
        self.source = source
        self.name = name
        self.device = device
        self.steps = _size_set_by_user(source) if steps is None else steps
        self.length: int | None = None
        self.samples: int | None = None
        self.last_batch: int | None = None
        self.count()
        if self.length is not None and self.steps is not None and self.steps > self.length:
            raise bad_value(name, received=f"{self.steps} steps an epoch for {self.length} batches",
                            expected=f"at most {self.length} steps",
                            fix="Ask for fewer steps, or pass an iterable that goes on.")
        self.memory = in_memory(source)
        self.near = self.memory  # where its batches are wanted
        self.mover: Mover | None = None
        self.settled_on: torch.device | str | None = None
        self.sharing: Sharing | None = None
        self.divide = False
        self.share: Share | None = None
        self.current = source  # what a pass goes through
        self.start = Start()  # where the next pass begins
        self.given = 0  # batches that this pass gave
        self.total = 0  # batches that all passes gave
        self.between: Callable[[], None] | None = None  # called before each batch is read, when all is done before it
        self.begins: Callable[[], None] | None = None  # called as a pass begins, before anything is drawn for it
        self.items: int | None = None  # of the tuple or list that each batch is; 0 for batches that are none
        self.used = False  # whether there was a pass before this one
        self._has_given = False

    def count(self) -> None:
        """Find out how many batches and samples an epoch has."""
        available = _length(self.source)
        if available == 0:
            raise _no_batch(self.name, self.source)
        self.length = self.steps
        if available is not None:
            self.length = available if self.steps is None else min(self.steps, available)
        self.samples, self.last_batch = _count(self.source, self.length)

    def renew(self) -> None:
        """Look again before a pass: a callback may have put in other samples, or changed how they are drawn."""
        for holder in holders(self.source):
            if isinstance(holder, Part):
                holder.check(self.name)
        if not isinstance(self.source, Iterator):
            self.count()
        self.find()

    def find(self) -> None:
        """See whether the samples can still be taken from memory, and whether what is new there fits the device."""
        memory = self.memory
        if memory is None:
            return
        if not selects(self.source):
            self.memory = self.near = self.sharing = self.settled_on = None
        elif self.near is not memory and self.near is not None and memory.found.changed():
            memory.found = memory.located()
            self.settled_on = None
        self.settle()

    def share_between(self, together: Any, *, divide: bool) -> None:
        """Give this process its share of each pass only: a part of every batch, or whole batches in turn."""
        self.divide = divide
        self.renew()
        self.settle()
        if together.world > 1 and (self.sharing is None or self.sharing.together is not together):
            self.sharing = Sharing(self.source, self.name, self.steps, together, self.near)
        if self.sharing is not None:
            self.sharing.memory = self.near

    def set_epoch(self, epoch: int) -> None:
        """Tell the epoch to whatever in the data asks for it: samplers and datasets with a ``set_epoch``."""
        for holder in holders(self.source):
            if callable(tell := getattr(holder, "set_epoch", None)):
                tell(epoch)

    def settle(self) -> None:
        """Let data in memory live on the device where there is room, once; decide how other batches get there."""
        if self.settled_on == self.device:
            return
        before, self.settled_on, self.near, self.mover = self.near, self.device, self.memory, None
        if self.device is None:
            return
        device = torch.device(self.device)
        found = None if self.memory is None else self.memory.found
        # samples that learn are copied with each batch: a copy of all would be that of before the update
        if self.memory is not None and found is not None and device.type != "cpu" and not found.learns and fits(
                found.tensors, device):
            self.near = self.memory.on(device, before)
        if self.near is None or not self.near.lives_on(device):
            self.mover = Mover(device, gives_fresh(self.source))

    @property
    def fresh(self) -> bool:
        """Whether each batch stays as it is when the next one is read."""
        return self.near is not None or (self.mover is None and gives_fresh(self.source))

    @property
    def of_arrays(self) -> bool:
        """Whether these are arrays that the user gave as such, so that a third one is weights."""
        return isinstance(getattr(self.source, "dataset", None), WholeBatches)

    @property
    def own_length(self) -> int | None:
        """Batches of a pass in this process, None when not known."""
        if self.length is None or self.sharing is None or self.divide:
            return self.length
        return len(range(self.sharing.together.rank, self.length, self.sharing.together.world))

    def __iter__(self) -> Iterator[Any]:
        self.find()
        self.settle()
        start, self.start = self.start, Start()
        self.given, self.used = start.skip, self._has_given
        start.first()
        if self.begins is not None:
            self.begins()
        mover = self.mover
        # an iterator that is not used would draw random numbers too
        for batch in self._whole(start) if self.sharing is None else self._shared(self.sharing, start):
            if not self._has_given or self.items is None:
                self.items = len(batch) if type(batch) in (tuple, list) else 0
            self._has_given = True
            self.given += 1
            self.total += 1
            yield batch if mover is None else mover(batch)
            if self.between is not None:
                self.between()
        start.then()
        if not (self.given if self.sharing is None else self.sharing.given):
            raise _out_of_data(self.name) if self._has_given else _no_batch(self.name, self.source)
        self._has_given = True

    def _whole(self, start: Start) -> Iterator[Any]:
        if self.near is not None and start.skip:
            return islice(start.in_memory(self.near), start.left(self.steps))
        if self.near is not None:
            return islice(self.near, self.steps)
        source = start.of(self.current)
        if getattr(source, "persistent_workers", False):
            self.current = source  # its workers live on
        return islice(source, start.left(self.steps))

    def _shared(self, sharing: Sharing, start: Start) -> Iterator[Any]:
        for share, batch in sharing.shares(self.divide, start):
            self.share = share
            yield batch

    def known_indices(self) -> dict[int, Any]:
        """Return the indices of Subsets that are arrays already, by the identity of what the Subset holds."""
        return {} if self.memory is None else self.memory.found.arrays

    def position(self) -> dict[str, Any]:
        """What is to be known of this data to go on with it in another process."""
        own: Any = self.source if stateful(self.source) else None
        return {"total": self.total, "given": self._has_given, "used": self.used,
                "state": None if own is None else own.state_dict()}

    def go_on(self, position: dict[str, Any], skip: int, first: Callable[[], None], then: Callable[[], None]) -> None:
        """Let the next pass begin where the run was that told its :meth:`position`."""
        begun = position["used"] if skip else position["given"]
        again = begun and getattr(self.source, "persistent_workers", False)
        self.total, self._has_given = position["total"], begun
        for memory in (self.memory, self.near) if again else ():
            if memory is not None:
                memory.seeded = True
        self.start = Start(skip, first, then, position["state"], again=again,
                           total=self.total if isinstance(self.source, Iterator) and self.total else None)

    def __len__(self) -> int:
        if self.length is None:
            raise TypeError(f"{self.name}: a {type(self.source).__name__} does not tell its length; "
                            "give the number of steps an epoch, or read .length, which is None then.")
        return self.length

    def __bool__(self) -> bool:
        return True

    def __getattr__(self, attribute: str) -> Any:
        # Copying and unpickling ask before there is a source.
        if attribute == "source" or attribute.startswith("__"):
            raise AttributeError(attribute)
        return getattr(self.source, attribute)


def holders(source: Any) -> Iterator[Any]:
    """A source of batches and what it is made of: samplers and datasets, each once."""
    waiting, seen = [source], set()
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        parts = getattr(one, "__dict__", {})
        waiting += [parts.get(name) for name in ("batch_sampler", "sampler", "dataset", "data_source")]


def stateful(source: Any) -> bool:
    """Whether a source tells where it is, and can be put there."""
    return callable(getattr(source, "state_dict", None)) and callable(getattr(source, "load_state_dict", None))


def _size_set_by_user(source: Any) -> int | None:
    if type(source) is not DataLoader:  # a subclass may mean something else by its size
        return None
    steps: int | None = vars(source).get("size")
    whole_number("DataLoader.size", steps, least=1, optional=True)
    return steps


def _length(source: Any) -> int | None:
    try:
        return len(source)
    except (TypeError, NotImplementedError):
        return None


def _count(source: Any, length: int | None) -> tuple[int | None, int | None]:
    """Samples of an epoch and of its last batch, each None when not known."""
    if length is None:
        return None, None
    if isinstance(source, list):
        return _count_ready(source[:length])
    if not isinstance(source, DataLoader) or source.batch_size is None:
        return None, None
    total = _samples(source)
    if total is None:
        return None, None
    taken = min(total, length * source.batch_size)
    return taken, taken - (length - 1) * source.batch_size


def _count_ready(ready: list[Any]) -> tuple[int | None, int | None]:
    try:
        sizes = [size(batch) for batch in ready]
    except ValueError:
        return None, None
    return sum(sizes), sizes[-1]


def _samples(loader: DataLoader[Any]) -> int | None:
    if not isinstance(loader.dataset, IterableDataset):
        return _length(loader.sampler)  # a sampler may draw fewer or more samples than the dataset has
    # Each worker ends with a batch of its own.
    return _length(loader.dataset) if loader.num_workers <= 1 else None


def _no_batch(name: str, source: Any) -> ValueError:
    if isinstance(source, DataLoader):
        count = _length(source.dataset)
        found = (f"dataset of {'unknown' if count is None else count} samples, batch_size={source.batch_size}, "
                 f"drop_last={source.drop_last}")
        return bad_value(name, received=f"a DataLoader of 0 batches ({found})", expected="at least one batch",
                         fix="Pass drop_last=False or a smaller batch_size." if source.drop_last and count != 0
                         else "Check what the dataset reads.")
    return bad_value(name, received=f"a {type(source).__name__} that gives no batch", expected="at least one batch",
                     fix="A generator can be read only once: make a new one." if isinstance(source, Iterator)
                     else "Check what it reads.")


def _out_of_data(name: str) -> OutOfData:
    steps = "validation_steps" if name == "val_data" else "steps_per_epoch"
    return mistake(OutOfData(message(f"{name} ran out of data", "no batch in this epoch", "at least one batch an epoch",
                             f"Give {steps} that all epochs together can fill, or an iterable that can start "
                             "again, such as a list or a DataLoader.")))
