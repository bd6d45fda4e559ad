"""How all processes of a job stop at the same step."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torchkeras.core.communicator import Communicator
from torchkeras.core.stop import ProcessFailed, Request

LOOK_EVERY = 0.2  # seconds between two reads of the key-value store
PATIENCE = 10.0  # seconds for a process to end by itself once another has failed


class StopCoordinator:
    """Lets the ranks of a job agree on the step after which they stop.

    If ranks stopped at different steps, one would wait for ever for the gradients of another. So a
    rank that has to stop writes a request to the job's key-value store. Every rank then publishes
    the last step that it has begun, reads those of all ranks, and stops after the largest. This
    costs no step any time: a thread of each process reads the store five times a second.

    Args:
        communicator: the processes of the job.
        store: their key-value store.
    """

    def __init__(self, communicator: Communicator, store: Any) -> None:
        self.communicator, self.store, self.lock = communicator, store, threading.Lock()
        self.position = 0  # steps begun
        self.left = 0  # steps to the end of the accumulation window that the last of them is in
        self.last_step: int | None = None  # as it was published
        self.request: Request | None = None
        self.failure: str | None = None  # of another process

    def ask(self, request: Request) -> None:
        """Note this rank's request to stop; the first one counts."""
        self.request = self.request or request

    def poll(self, shared: bool, left: tuple[int, int]) -> Request | None:
        """Return, before each step, the request to stop here once all ranks have agreed on it.

        Args:
            shared: whether all ranks do each step together. Where they only measure, they may have
                unequal numbers of steps: each leaves the pass as soon as it hears of a request, and
                all meet in :meth:`join`.
            left: how many steps the window of accumulated gradients still needs, now and after one
                more step: a window is never broken.
        """
        if not shared:
            if self.failure is not None:
                raise ProcessFailed(self.failure)
            return self.join(False) if self.stopping else None
        with self.lock:
            stopping = self.stopping
            self.position, self.left = (
                (self.position, left[0]) if stopping else (self.position + 1, left[1]))
        if not stopping:
            return None
        self.publish_last_step()
        if self.failure is not None:
            raise ProcessFailed(self.failure)
        if self.position >= self.common_last_step():
            return Request(*json.loads(self.store.get("stop")))
        self.position += 1
        return None

    def join(self, done: bool) -> Request | None:
        """Return the request that ended a measuring pass on any rank; None if none was ended."""
        known = self.request
        if known is None and self.stopping and not done:
            known = Request(*json.loads(self.store.get("stop")))
        parts: list[tuple[bool, Request | None]] = self.communicator.all_gather((done, known))
        if all(one for one, _ in parts):
            return None
        return next(request for _, request in parts if request is not None)

    @property
    def stopping(self) -> bool:
        """Return whether this rank has a request to stop, or knows of one of another rank."""
        return self.request is not None or self.last_step is not None

    def publish_last_step(self) -> None:
        """Write this rank's request, if it has one, and its last step to the key-value store."""
        with self.lock:
            if self.last_step is not None:
                return
            if self.request is not None:
                self.store.compare_set("stop", "", json.dumps(self.request))
            self.last_step = self.position + self.left
            self.store.set(f"at/{self.communicator.rank}", str(self.last_step))

    def common_last_step(self) -> int:
        """Wait for the last steps of all ranks, and return the largest."""
        keys = [f"at/{rank}" for rank in range(self.communicator.world_size)]
        while not self.store.check(keys):
            if self.failure is not None:
                raise ProcessFailed(self.failure)
            time.sleep(0.005)
        return max(int(self.store.get(key)) for key in keys)

    def agreed(self) -> Request | None:
        """Return the request that any rank has; all ranks call this at the same point."""
        requests = self.communicator.all_gather(self.request)
        return next((request for request in requests if request is not None), None)

    @contextmanager
    def watch_others(self) -> Iterator[None]:
        """Watch for requests and failures of other ranks, and publish this rank's failure."""
        over = threading.Event()
        watcher = threading.Thread(target=self.watch, args=(over,), name="torchkeras-together",
                                   daemon=True)
        watcher.start()
        try:
            yield
        except BaseException as error:
            if (cause := self.root_cause(error)) is not None:
                raise cause from error
            self.publish_failure(error)
            raise
        finally:
            over.set()
            # Python aborts if it exits while a thread waits for the key-value store
            watcher.join(PATIENCE)

    def watch(self, over: threading.Event) -> None:
        """Read the store until the run is over; exit if this process hangs on one that failed."""
        while not over.wait(LOOK_EVERY):
            try:
                if self.last_step is None and (
                        self.request is not None or self.store.check(["stop"])):
                    self.publish_last_step()
                self.failure = self.failure_elsewhere()
            except Exception as error:
                self.failure = lost_store(error)
            if self.failure is not None:
                break
        if not over.wait(PATIENCE) and self.failure is not None:
            sys.stderr.write(
                f"torchkeras: process {self.communicator.rank} ends: {self.failure}\n")
            sys.stderr.flush()
            os._exit(1)  # it waits in a collective, which no signal and no exception interrupts

    def publish_failure(self, error: BaseException) -> None:
        """Write to the store why this process ends."""
        if isinstance(error, ProcessFailed):
            return
        with suppress(Exception):  # the store may be gone, too
            text = f"{self.communicator.rank} {type(error).__name__}: {error}"
            self.store.compare_set("failed", "", text)

    def failure_elsewhere(self) -> str | None:
        """Return why another process failed; None if none did."""
        if not self.store.check(["failed"]):
            return None
        rank, _, text = self.store.get("failed").decode().partition(" ")
        return None if int(rank) == self.communicator.rank else f"process {rank} failed: {text}"

    def root_cause(self, error: BaseException) -> ProcessFailed | None:
        """Return the failure behind an error of a lost connection; None for any other error."""
        words = ("gloo", "NCCL", "Connection", "closed by peer", "ProcessGroup", "Broken pipe")
        if isinstance(error, ProcessFailed) or not isinstance(error, RuntimeError) or (
                not any(word in str(error) for word in words)):
            return None
        try:
            self.failure = self.failure_elsewhere() or self.failure
        except Exception as store_error:
            self.failure = self.failure or lost_store(store_error)
        return ProcessFailed(self.failure or (
            "another process ended without reporting an error: killed, or out of memory?"))


def lost_store(error: Exception) -> str:
    """Return the message for a key-value store that ended with the process that held it."""
    return ("lost the connection to the job's key-value store, which ends with process 0 or its "
            f"launcher ({type(error).__name__}): killed, out of memory, or an error in its output")
