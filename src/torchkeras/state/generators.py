"""Read and set the state of all random generators: the global ones, and those of the data."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from torchkeras.core.rng import put_random_states, random_states
from torchkeras.core.types import Source, State, Value
from torchkeras.data.source import data_components
from torchkeras.state.components import GENERATORS, RandomGenerator, attributes_of


def own_generators(source: Source) -> list[Any]:
    """Return the generators of a DataLoader, its samplers and its Dataset, in a fixed order."""
    found: list[Any] = []
    for holder in data_components(source):
        for value in list(getattr(holder, "__dict__", {}).values()):
            if isinstance(value, GENERATORS) and not any(value is one for one in found):
                found.append(value)
    return found


# the counters of samplers and datasets when they were first seen
INITIAL_COUNTERS: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()


def sampler_counters(source: Source) -> list[Any]:
    """Return the counters (such as an epoch) or the state of a user's samplers and datasets.

    A number that has not changed since the run began is an option, not a counter.
    """
    found: list[Any] = []
    for holder in data_components(source):
        if holder is source or type(holder).__module__.startswith("torch."):
            continue
        if all(callable(getattr(holder, name, None)) for name in ("state_dict", "load_state_dict")):
            found.append(["state", holder.state_dict()])
            continue
        first = initial_counters(holder)
        found.append(["numbers", {name: value for name, value in int_attributes(holder).items()
                                  if first.get(name, value) != value}])
    return found


def int_attributes(holder: object) -> dict[str, int]:
    """Return the attributes of an object that may be counters."""
    return {name: value for name, value in attributes_of(holder).items() if type(value) is int}


def initial_counters(holder: object) -> dict[str, int]:
    """Return these attributes as they were when the object was first seen."""
    now = int_attributes(holder)
    return INITIAL_COUNTERS.setdefault(holder, now) if is_weakly_hashable(holder) else now


def is_weakly_hashable(holder: object) -> bool:
    """Tell whether an object can be a key of a ``WeakKeyDictionary``."""
    return type(holder).__hash__ is not None and hasattr(holder, "__weakref__")


def set_counters(source: Source, saved: list[Any]) -> None:
    """Set the counters or the state of a user's samplers and datasets."""
    own = [one for one in data_components(source)
           if one is not source and not type(one).__module__.startswith("torch.")]
    for holder, (kind, state) in zip(own, saved, strict=False):
        if kind == "state":
            holder.load_state_dict(state)
        else:
            counted = {name: value for name, value in state.items()
                       if type(value) is int and type(getattr(holder, name, 0)) is int}
            attributes_of(holder).update({**initial_counters(holder), **counted})


def rng_state(*sources: Source) -> State:
    """Return the states of all random generators, as plain values."""
    states = random_states()
    version, key, gauss = states["python"]
    return {"python": [version, np.array(key, dtype=np.uint32), gauss], "numpy": states["numpy"],
            "torch": states["torch"], "accelerator": states["accelerator"],
            "own": [[generator_state(one) for one in own_generators(source)] for source in sources],
            "counters": [sampler_counters(source) for source in sources]}


def set_rng_state(states: State, *sources: Source) -> None:
    """Set the states of all random generators."""
    version, key, gauss = states["python"]
    put_random_states({"python": (version, tuple(int(one) for one in key), gauss),
                       "numpy": states["numpy"], "torch": states["torch"],
                       # 5.0.0a1 had a list for CUDA alone
                       "accelerator": states.get("accelerator", {"cuda": states.get("cuda")})})
    for source, own in zip(sources, states["own"], strict=False):
        for generator, state in zip(own_generators(source), own, strict=False):
            set_generator_state(generator, state)
    for source, own in zip(sources, states.get("counters", ()), strict=False):
        set_counters(source, own)


def generator_state(generator: RandomGenerator) -> Any:
    """Return the state of one generator, as plain values."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, np.random.RandomState):
        return generator.get_state()
    version, key, gauss = generator.getstate()
    return [version, np.array(key, dtype=np.uint32), gauss]


def set_generator_state(generator: RandomGenerator, state: Value) -> None:
    """Set the state of one generator."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state.clone())
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate((state[0], tuple(int(one) for one in state[1]), state[2]))
