"""What a run is made of, as values that can be put back."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from torchkeras.distributed.communicator import Alone
from torchkeras.state.weights import Weights


def random_states() -> dict[str, Any]:
    """The position of every global random generator."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def put_random_states(states: dict[str, Any]) -> None:
    """Put every global random generator back to where it was."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


@contextmanager
def streams(together: Alone) -> Iterator[None]:
    """Random numbers of its own for each process but the first, so that no two drop the same units; one stream after.

    Process 0 goes on with its own, so that what it draws is what a single process would.
    """
    if together.world == 1:
        yield
        return
    found = together.from_main(zlib.crc32(torch.get_rng_state().numpy().tobytes()))
    if not together.main:
        seed_all((found + together.rank) % 2**32)
    yield
    same_stream(together)


def same_stream(together: Alone) -> None:
    """The random state of process 0 in every process, so that what their scripts draw next is the same."""
    if together.world > 1:
        common = together.from_main({**random_states(), "cuda": []})
        if not together.main:
            put_random_states(common)


def seed_all(seed: int) -> None:
    """Seed Python, numpy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


class Untouched:
    """How things stood before a run, so that a run which fails before its first update leaves no trace."""

    def __init__(self, *modules: nn.Module) -> None:
        self.weights, self.random = Weights(*modules), random_states()

    def restore(self) -> list[str]:
        """Put weights, buffers and random generators back; a rehearsed backward leaves no gradients.

        Frozen weights that a step changed by other means than learning are not copied: their names are returned.
        """
        self.weights.restore()
        for module in self.weights.modules:
            module.zero_grad()
        put_random_states(self.random)
        return [name for number in range(len(self.weights.modules)) for name in self.weights.moved(number).values()]
