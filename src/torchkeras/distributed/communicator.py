"""The processes of a job: what they send each other outside of the gradients, and how they end together."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torchkeras.core.stop import ProcessFailed, Request
from torchkeras.distributed.fork_safety import fork_quietly

LOOK_EVERY = 0.2  # seconds between two looks at what other processes asked for
PATIENCE = 10.0  # seconds for a process to end by itself once another has failed
NO_CARD = object()
JOBS = itertools.count()  # every process counts its calls of fit, evaluate and predict alike


class Alone:
    """One process, which agrees with itself: the interface of :class:`Together` at no cost."""

    rank, world, main = 0, 1, True
    request: Request | None = None

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks, in every process."""
        return [value]

    def from_main(self, value: Any) -> Any:
        """The value of process 0, in every process."""
        return value

    def decide(self, make: Callable[[list[Any]], Any], value: Any) -> Any:
        """What process 0 makes of the values of all, in every process; its error is raised in all."""
        return make([value])

    def in_turn(self, own: Iterator[Any], at_once: int | None) -> Iterator[Any]:
        """The items of all processes, dealt out as they were: one of the first, one of the second, and so on.

        They are exchanged ``at_once`` of each at a time; None means all together.
        """
        yield from own

    @contextmanager
    def same_fate(self) -> Iterator[None]:
        """An error in one process is raised in all."""
        yield

    def gate(self, shared: bool = True, left: tuple[int, int] = (0, 0)) -> Request | None:
        """Before each step: the request to end here, once all processes have agreed on it.

        Steps that are not shared, those that measure, are not the same number in all processes: there a process leaves
        as soon as it hears of a request, and the others where they are; all meet in :meth:`finished`. ``left`` is how
        many steps a window of accumulated gradients needs to its end, now and after one more step: it is not broken.
        """
        return None

    def finished(self, done: bool) -> Request | None:
        """At the end of a pass that measures, or on leaving it early: the request that ended it in any process."""
        return None

    def agree(self) -> Request | None:
        """Where all processes pass at the same moment: the request that any of them has."""
        return self.request

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hear of requests and failures of other processes, and tell them of one's own."""
        yield


class Together(Alone):
    """Several processes, as one of them sees them.

    Ending at different steps would leave one process waiting for ever for the gradients of another. So a process that
    is to end says so in the job's key-value store; every process then promises there to begin no step after the one
    it is in, reads the promises of all, and ends after the furthest of them. No step pays for this: a thread of each
    process looks into the store five times a second.
    """

    def __init__(self, rank: int, world: int) -> None:
        from torch import distributed

        fork_quietly()
        self.rank, self.world, self.main = rank, world, rank == 0
        self.store = distributed.PrefixStore(f"torchkeras/{next(JOBS)}",
                                             distributed.distributed_c10d._get_default_store())
        self.lock = threading.Lock()
        self.position = 0  # steps begun
        self.left = 0  # of the window that the last of them is in
        self.promise: int | None = None
        self.request: Request | None = None
        self.failure: str | None = None  # of another process

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in the order of their ranks, in every process."""
        from torch import distributed

        values = [None] * self.world
        distributed.all_gather_object(values, value)
        return values

    def from_main(self, value: Any) -> Any:
        """The value of process 0, in every process."""
        from torch import distributed

        box = [value if self.main else None]
        distributed.broadcast_object_list(box, src=0)
        return box[0]

    def decide(self, make: Callable[[list[Any]], Any], value: Any) -> Any:
        """What process 0 makes of the values of all, in every process; its error is raised in all."""
        from torch import distributed

        values: list[Any] | None = [None] * self.world if self.main else None
        distributed.gather_object(value, values)
        result: Any = None
        error: Exception | None = None
        try:
            result = None if values is None else make(values)
        except Exception as found:
            error = found
        result, sent = self.from_main((result, sendable(error)))
        if error is not None or sent is not None:
            raise error or sent
        return result

    def in_turn(self, own: Iterator[Any], at_once: int | None) -> Iterator[Any]:
        """The items of all processes, dealt out as they were, in every process."""
        while True:
            hands = self.gather(list(itertools.islice(own, at_once)))
            for cards in itertools.zip_longest(*hands, fillvalue=NO_CARD):
                yield from (card for card in cards if card is not NO_CARD)
            if at_once is None or len(hands[-1]) < at_once:  # the last process has the fewest
                return

    @contextmanager
    def same_fate(self) -> Iterator[None]:
        """An error in one process is raised in all."""
        error: Exception | None = None
        try:
            yield
        except Exception as found:
            error = found
        errors = self.gather(sendable(error))
        if error is not None:
            raise error
        for rank, other in enumerate(errors):
            if other is not None:
                other.add_note(f"Raised in process {rank} of {self.world}.")
                raise other

    def gate(self, shared: bool = True, left: tuple[int, int] = (0, 0)) -> Request | None:
        """Before each step: the request to end here, once all processes have agreed on it."""
        if not shared:
            if self.failure is not None:
                raise ProcessFailed(self.failure)
            return self.finished(False) if self.heard else None
        with self.lock:
            heard = self.request is not None or self.promise is not None
            self.position, self.left = (self.position, left[0]) if heard else (self.position + 1, left[1])
        if not heard:
            return None
        self.promise_and_tell()
        if self.failure is not None:
            raise ProcessFailed(self.failure)
        if self.position >= self.furthest():
            return Request(*json.loads(self.store.get("stop")))
        self.position += 1
        return None

    def finished(self, done: bool) -> Request | None:
        """At the end of a pass that measures, or on leaving it early: the request that ended it in any process."""
        known = self.request or (Request(*json.loads(self.store.get("stop"))) if self.heard and not done else None)
        parts = self.gather((done, known))
        if all(one for one, _ in parts):
            return None
        return next(request for _, request in parts if request is not None)

    @property
    def heard(self) -> bool:
        """Whether this process wants to end, or has heard that another does."""
        return self.request is not None or self.promise is not None

    def promise_and_tell(self) -> None:
        """Post this process's wish, if it has one, and promise to begin no further step unless all do."""
        with self.lock:
            if self.promise is not None:
                return
            if self.request is not None:
                self.store.compare_set("stop", "", json.dumps(self.request))
            self.promise = self.position + self.left
            self.store.set(f"at/{self.rank}", str(self.promise))

    def furthest(self) -> int:
        """The largest promise of all, waited for."""
        keys = [f"at/{rank}" for rank in range(self.world)]
        while not self.store.check(keys):
            if self.failure is not None:
                raise ProcessFailed(self.failure)
            time.sleep(0.005)
        return max(int(self.store.get(key)) for key in keys)

    def agree(self) -> Request | None:
        """Where all processes pass at the same moment: the request that any of them has."""
        return next((request for request in self.gather(self.request) if request is not None), None)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hear of requests and failures of other processes, and tell them of one's own."""
        over = threading.Event()
        watcher = threading.Thread(target=self.watch, args=(over,), name="torchkeras-together", daemon=True)
        watcher.start()
        try:
            yield
        except BaseException as error:
            if (lost := self.explained(error)) is not None:
                raise lost from error
            self.tell_failure(error)
            raise
        finally:
            over.set()
            watcher.join(PATIENCE)  # Python aborts when it ends while a thread waits for an answer of the store

    def watch(self, over: threading.Event) -> None:
        """Look into the store until the run is over; end the program if it hangs on a process that failed."""
        while not over.wait(LOOK_EVERY):
            try:
                if self.promise is None and (self.request is not None or self.store.check(["stop"])):
                    self.promise_and_tell()
                self.failure = self.failed_elsewhere()
            except Exception as error:
                self.failure = gone(error)
            if self.failure is not None:
                break
        if not over.wait(PATIENCE) and self.failure is not None:
            sys.stderr.write(f"torchkeras: process {self.rank} ends: {self.failure}\n")
            sys.stderr.flush()
            os._exit(1)  # it waits inside a collective that no signal and no exception can reach

    def tell_failure(self, error: BaseException) -> None:
        """Leave word of why this process ends."""
        if isinstance(error, ProcessFailed):
            return
        with suppress(Exception):  # a store that is gone is no news to a process that ends
            self.store.compare_set("failed", "", f"{self.rank} {type(error).__name__}: {error}")

    def failed_elsewhere(self) -> str | None:
        """What another process said of its end."""
        if not self.store.check(["failed"]):
            return None
        rank, _, text = self.store.get("failed").decode().partition(" ")
        return None if int(rank) == self.rank else f"process {rank} failed: {text}"

    def explained(self, error: BaseException) -> ProcessFailed | None:
        """For an error that only says that another process is gone: what that process said, where it could."""
        words = ("gloo", "NCCL", "Connection", "closed by peer", "ProcessGroup", "Broken pipe")
        if isinstance(error, ProcessFailed) or not isinstance(error, RuntimeError) or (
                not any(word in str(error) for word in words)):
            return None
        try:
            self.failure = self.failed_elsewhere() or self.failure
        except Exception as store_error:
            self.failure = self.failure or gone(store_error)
        return ProcessFailed(self.failure or "another process ended without a word: killed, or out of memory?")


def gone(error: Exception) -> str:
    """Say that the store went down with the process that held it, whatever that one may have said there."""
    return (f"the process that keeps the job together is gone ({type(error).__name__}): killed, out of memory, or of "
            "an error that its own output tells")


def sendable(error: BaseException | None, pickler: Any = pickle) -> BaseException | None:
    """An error in a form that other processes can raise."""
    try:
        pickle.loads(pickler.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def join_job(accelerator: Any) -> Alone:
    """The processes that this one belongs to."""
    if accelerator.num_processes == 1:
        return Alone()
    return Together(accelerator.process_index, accelerator.num_processes)
