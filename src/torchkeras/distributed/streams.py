"""Random numbers in several processes: different while they train, the same afterwards."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from torchkeras.core.communicator import Communicator
from torchkeras.core.rng import put_random_states, random_states, seed_all


@contextmanager
def streams(communicator: Communicator) -> Iterator[None]:
    """Seed each process but the first differently, so that no two drop the same units.

    Process 0 keeps its generators, and so draws what a single process would. Afterwards all
    processes get the random state of process 0.
    """
    if communicator.world_size == 1:
        yield
        return
    seed = communicator.broadcast(zlib.crc32(torch.get_rng_state().numpy().tobytes()))
    if not communicator.is_main_process:
        seed_all((seed + communicator.rank) % 2**32)
    yield
    same_stream(communicator)


def same_stream(communicator: Communicator) -> None:
    """Broadcast the random state of process 0, so that all scripts draw the same numbers next."""
    if communicator.world_size > 1:
        common = communicator.broadcast(random_states())
        if not communicator.is_main_process:
            put_random_states(common)
