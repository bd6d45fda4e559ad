"""The collectives of a job, in the form for one process; ``distributed/`` has those for several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from torchkeras.core.stop import Request

T = TypeVar("T")
R = TypeVar("R")


class Communicator:
    """Stand for a job of one process: every collective returns its input."""

    rank, world_size, is_main_process = 0, 1, True
    request: Request | None = None

    @property
    def world(self) -> int:
        """Return ``world_size``, by its older name."""
        return self.world_size

    @property
    def main(self) -> bool:
        """Return ``is_main_process``, by its older name."""
        return self.is_main_process

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in the order of the ranks, on every rank."""
        return [value]

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0 on every rank."""
        return value

    def reduce_on_main(self, make: Callable[[list[T]], R], value: T) -> R:
        """Call ``make`` on rank 0 with the values of all ranks; return its result on every rank.

        An error of ``make`` is raised on every rank.
        """
        return make([value])

    def interleave(self, own: Iterator[T], at_once: int | None) -> Iterator[T]:
        """Yield the items of all ranks in turn: the first of each rank, then the second of each.

        They are exchanged ``at_once`` of each rank at a time; None exchanges all together.
        """
        yield from own

    @contextmanager
    def raise_on_all_ranks(self) -> Iterator[None]:
        """Raise an error of one rank on every rank."""
        yield

    @contextmanager
    def watch_others(self) -> Iterator[None]:
        """Exchange requests and failures with the other ranks while the block runs."""
        yield
