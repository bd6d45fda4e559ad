"""Read, set and seed the global random generators."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import torch

from torchkeras.core.types import State


def random_states() -> State:
    """Return the state of every global random generator."""
    on_cuda: Callable[[], bool] = torch.cuda.is_initialized
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() and on_cuda() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(),
            "torch": torch.get_rng_state(), "cuda": cuda}


def put_random_states(states: State) -> None:
    """Set every global random generator to a state that :func:`random_states` returned."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"]:
        torch.cuda.set_rng_state_all(states["cuda"])


def seed_all(seed: int) -> None:
    """Seed Python, numpy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
