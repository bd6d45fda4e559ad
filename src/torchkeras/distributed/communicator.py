"""The processes of a job: collectives outside of the gradients."""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from torchkeras.core import internals
from torchkeras.core.communicator import Communicator
from torchkeras.core.stop import Request
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Value
from torchkeras.distributed.broadcast import broadcast_tensor
from torchkeras.distributed.fork_safety import fork_quietly
from torchkeras.distributed.stop import StopCoordinator

if TYPE_CHECKING:
    from accelerate import Accelerator

MISSING = object()
LARGE = 1 << 20  # bytes of a tensor that is broadcast by itself, not within a pickle
JOBS = itertools.count()  # calls of fit, evaluate and predict: the same number on every rank


class ProcessGroupCommunicator(Communicator):
    """The processes of a job, as one of them sees them; ``stops`` lets them stop together.

    Tensors arrive in main memory: a CUDA tensor would be unpickled on the device of its sender,
    where each process would then hold a context of 500 MB.
    """

    def __init__(self, rank: int, world_size: int) -> None:
        from torch import distributed

        fork_quietly()
        self.rank, self.world_size, self.is_main_process = rank, world_size, rank == 0
        c10d = distributed.distributed_c10d
        self.store = c10d.PrefixStore(f"torchkeras/{next(JOBS)}", internals.default_store())
        self.stops = StopCoordinator(self, self.store)

    def all_gather(self, value: Value) -> list[Value]:
        """Return the values of all ranks, in the order of ranks, on every rank."""
        from torch import distributed

        values = [None] * self.world_size
        distributed.all_gather_object(values, in_main_memory(value))
        return values

    def broadcast(self, value: Value) -> Value:
        """Return the value of rank 0 on every rank."""
        from torch import distributed

        large: list[Tensor] = []
        box = [apart(in_main_memory(value), large) if self.is_main_process else None]
        distributed.broadcast_object_list(box, src=0)
        return joined(box[0], iter(large))

    def reduce_on_main(self, make: Callable[[list[Any]], Any], value: Value) -> Any:
        """Return on every rank what rank 0 makes of all values; raise its error on every rank."""
        from torch import distributed

        values: list[Any] | None = [None] * self.world_size if self.is_main_process else None
        distributed.gather_object(in_main_memory(value), values)
        result: Any = None
        error: Exception | None = None
        try:
            result = None if values is None else make(values)
        except Exception as found:
            error = found
        result, sent = self.broadcast((result, sendable(error)))
        if error is not None or sent is not None:
            raise error or sent
        return result

    def interleave(self, own: Iterator[Any], at_once: int | None) -> Iterator[Any]:
        """Yield the items of all ranks in their original order, on every rank."""
        while True:
            shards = self.all_gather(list(itertools.islice(own, at_once)))
            for items in itertools.zip_longest(*shards, fillvalue=MISSING):
                yield from (one for one in items if one is not MISSING)
            if at_once is None or len(shards[-1]) < at_once:  # the last rank has the fewest
                return

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """Raise an error of one rank on all ranks."""
        error: Exception | None = None
        try:
            yield
        except Exception as found:
            error = found
        errors = self.all_gather(sendable(error))
        if error is not None:
            raise error
        for rank, other in enumerate(errors):
            if other is not None:
                other.add_note(f"Raised in process {rank} of {self.world_size}.")
                raise other

    @property
    def request(self) -> Request | None:  # type: ignore[override]
        """Return this rank's request to stop."""
        return self.stops.request

    @contextmanager
    def watch_others(self) -> Iterator[None]:
        """Exchange requests and failures with the other ranks while the block runs."""
        with self.stops.watch_others():
            yield


class Sent(NamedTuple):
    """Stands for a tensor that is sent by itself."""

    shape: torch.Size
    dtype: torch.dtype


def in_main_memory(value: Value) -> Value:
    """Return a value with its tensors in main memory."""
    return map_tree(lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) and not leaf.is_cpu
                    else leaf, value)


def apart(value: Value, large: list[Tensor]) -> Value:
    """Return a value without its large tensors, which are added to a list: no copy of all at once.

    A backend that reads on a device alone would hold the pickle of a whole state there, twice.
    """
    if type(value) is dict:
        return {name: apart(one, large) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(apart(one, large) for one in value)
    plain = type(value) is Tensor and value.layout is torch.strided and not value.requires_grad
    if not plain or value.nbytes < LARGE:
        return value
    large.append(value)
    return Sent(value.shape, value.dtype)


def joined(value: Value, large: Iterator[Tensor]) -> Value:
    """Return a value with its large tensors again, each of them sent now by process 0."""
    if type(value) is dict:
        return {name: joined(one, large) for name, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(joined(one, large) for one in value)
    if not isinstance(value, Sent):
        return value
    own = next(large, None)
    own = torch.empty(value.shape, dtype=value.dtype) if own is None else own.contiguous()
    broadcast_tensor(own.reshape(-1).view(torch.uint8))  # a backend need not know the dtype
    return own


def sendable(error: BaseException | None, pickler: ModuleType = pickle) -> BaseException | None:
    """Return an error that other processes can unpickle, if need be a RuntimeError of its text."""
    try:
        pickle.loads(pickler.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def join_job(accelerator: Accelerator) -> Communicator:
    """Return the communicator of the job that this process belongs to."""
    if accelerator.num_processes == 1:
        return Communicator()
    return ProcessGroupCommunicator(accelerator.process_index, accelerator.num_processes)
