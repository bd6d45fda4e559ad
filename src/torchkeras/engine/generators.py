"""Every random generator that a run can draw from: the global ones, and those that its data brings along."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from torchkeras.data.source import holders
from torchkeras.engine.state import put_random_states, random_states


def own_generators(source: Any) -> list[Any]:
    """The generators of a DataLoader, its samplers and its Dataset, each once, in a fixed order."""
    found: list[Any] = []
    kinds = torch.Generator, np.random.Generator, np.random.RandomState, random.Random
    for holder in holders(source):
        for value in list(getattr(holder, "__dict__", {}).values()):
            if isinstance(value, kinds) and not any(value is one for one in found):
                found.append(value)
    return found


def drawn(*sources: Any) -> dict[str, Any]:
    """Where all generators are: as plain values."""
    states = random_states()
    version, key, gauss = states["python"]
    return {"python": [version, np.array(key, dtype=np.uint32), gauss], "numpy": states["numpy"],
            "torch": states["torch"], "cuda": list(states["cuda"]),
            "own": [[state_of(one) for one in own_generators(source)] for source in sources]}


def put_drawn(states: dict[str, Any], *sources: Any) -> None:
    """Put all generators back to where they were."""
    version, key, gauss = states["python"]
    put_random_states({"python": (version, tuple(int(one) for one in key), gauss), "numpy": states["numpy"],
                       "torch": states["torch"], "cuda": states["cuda"] if torch.cuda.is_available() else []})
    for source, own in zip(sources, states["own"], strict=False):
        for generator, state in zip(own_generators(source), own, strict=False):
            put_state(generator, state)


def state_of(generator: Any) -> Any:
    """The state of one generator."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state()
    version, key, gauss = generator.getstate()
    return [version, np.array(key, dtype=np.uint32), gauss]


def put_state(generator: Any, state: Any) -> None:
    """Set one generator."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state.clone())
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate((state[0], tuple(int(one) for one in state[1]), state[2]))
