"""Every random generator that a run can draw from: the global ones, and those that its data brings along."""

from __future__ import annotations

import random
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from torchkeras.data.source import holders
from torchkeras.state.components import vars_of
from torchkeras.state.rng import put_random_states, random_states


def own_generators(source: Any) -> list[Any]:
    """The generators of a DataLoader, its samplers and its Dataset, each once, in a fixed order."""
    found: list[Any] = []
    kinds = torch.Generator, np.random.Generator, np.random.RandomState, random.Random
    for holder in holders(source):
        for value in list(getattr(holder, "__dict__", {}).values()):
            if isinstance(value, kinds) and not any(value is one for one in found):
                found.append(value)
    return found


FIRST: WeakKeyDictionary[Any, dict[str, int]] = WeakKeyDictionary()  # numbers of samplers, as they were met


def counters(source: Any) -> list[Any]:
    """Return what samplers and datasets of a user's count, such as their epochs; and what a sampler's state is.

    A number that has not changed since the run began is an option, not a counter.
    """
    found: list[Any] = []
    for holder in holders(source):
        if holder is source or type(holder).__module__.startswith("torch."):
            continue
        if all(callable(getattr(holder, name, None)) for name in ("state_dict", "load_state_dict")):
            found.append(["state", holder.state_dict()])
            continue
        first = numbers_at_first(holder)
        found.append(["numbers", {name: value for name, value in whole_numbers(holder).items()
                                  if first.get(name, value) != value}])
    return found


def whole_numbers(holder: Any) -> dict[str, int]:
    """Return the attributes that an object may count with."""
    return {name: value for name, value in vars_of(holder).items() if type(value) is int}


def numbers_at_first(holder: Any) -> dict[str, int]:
    """Return these attributes as they were when the object was met."""
    now = whole_numbers(holder)
    return FIRST.setdefault(holder, now) if can_be_met(holder) else now


def can_be_met(holder: Any) -> bool:
    """Return whether an object can be a key that does not keep it alive."""
    return type(holder).__hash__ is not None and hasattr(holder, "__weakref__")


def put_counters(source: Any, saved: list[Any]) -> None:
    """Put back what samplers and datasets count."""
    own = [one for one in holders(source) if one is not source and not type(one).__module__.startswith("torch.")]
    for holder, (kind, state) in zip(own, saved, strict=False):
        if kind == "state":
            holder.load_state_dict(state)
        else:
            counted = {name: value for name, value in state.items()
                       if type(value) is int and type(getattr(holder, name, 0)) is int}
            vars_of(holder).update({**numbers_at_first(holder), **counted})


def drawn(*sources: Any) -> dict[str, Any]:
    """Where all generators are: as plain values."""
    states = random_states()
    version, key, gauss = states["python"]
    return {"python": [version, np.array(key, dtype=np.uint32), gauss], "numpy": states["numpy"],
            "torch": states["torch"], "cuda": list(states["cuda"]),
            "own": [[state_of(one) for one in own_generators(source)] for source in sources],
            "counters": [counters(source) for source in sources]}


def put_drawn(states: dict[str, Any], *sources: Any) -> None:
    """Put all generators back to where they were."""
    version, key, gauss = states["python"]
    put_random_states({"python": (version, tuple(int(one) for one in key), gauss), "numpy": states["numpy"],
                       "torch": states["torch"], "cuda": states["cuda"] if torch.cuda.is_available() else []})
    for source, own in zip(sources, states["own"], strict=False):
        for generator, state in zip(own_generators(source), own, strict=False):
            put_state(generator, state)
    for source, own in zip(sources, states.get("counters", ()), strict=False):
        put_counters(source, own)


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
