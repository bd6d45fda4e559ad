"""Read, set and seed the global random generators."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchkeras.core.types import State


def random_states() -> State:
    """Return the state of every global random generator, as far as it has begun."""
    return {**cpu_random_states(), "accelerator": accelerator_states()}


def cpu_random_states() -> State:
    """Return the states of Python's, numpy's and torch's generators that draw on the CPU."""
    return {"python": random.getstate(), "numpy": np.random.get_state(),
            "torch": torch.get_rng_state()}


def put_random_states(states: State) -> None:
    """Set global random generators to states that were returned here; leave out what is absent."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states.get("accelerator"):
        put_accelerator_states(states["accelerator"])


def accelerator_states() -> dict[str, list[Tensor]]:
    """Return the states of the accelerator's generators by its kind, the current device's first.

    The others count where one process computes on several devices. A launched process has one.
    """
    found = begun_accelerator()
    if found is None:
        return {}
    kind, module = found
    return {kind: [module.get_rng_state(), *map(module.get_rng_state, other_devices(module))]}


def put_accelerator_states(states: Mapping[str, Sequence[Tensor]]) -> None:
    """Set the generators of the accelerator that is here; there may be fewer, or none of a kind."""
    kind = torch.accelerator.current_accelerator(check_available=True)
    module = None if kind is None else module_of(kind)
    if kind is None or module is None or not states.get(kind.type):
        return
    own, *rest = states[kind.type]
    module.set_rng_state(own)
    for index, state in zip(other_devices(module), rest, strict=False):
        module.set_rng_state(state, index)


def begun_accelerator() -> tuple[str, Any] | None:
    """Return the kind of accelerator whose generators have a state, and torch's module for it."""
    kind = torch.accelerator.current_accelerator()
    module = None if kind is None else module_of(kind)
    if kind is None or module is None:
        return None
    begun = getattr(module, "is_initialized", module.is_available)  # MPS needs no beginning
    return (kind.type, module) if begun() else None


def other_devices(module: Any) -> list[int]:
    """Return the numbers of the devices beside the current one that this process may draw on."""
    if "LOCAL_RANK" in os.environ or not hasattr(module, "current_device"):
        return []
    return [one for one in range(module.device_count()) if one != module.current_device()]


def begin_generators(device: torch.device) -> None:
    """Let a device's generators begin, if they have not: before that they have no state to save."""
    begin = getattr(module_of(device), "init", None)
    if begin is not None:
        begin()


def module_of(device: torch.device) -> Any:
    """Return torch's module for a kind of accelerator, such as ``torch.cuda``.

    None for the CPU, and where the module cannot save and set the state of a generator.
    """
    if device.type == "cpu":
        return None
    try:
        module = torch.get_device_module(device)
    except RuntimeError:  # not every kind has one
        return None
    known = hasattr(module, "get_rng_state") and hasattr(module, "set_rng_state")
    return module if known else None


def seed_all(seed: int) -> None:
    """Seed Python, numpy and torch on every device."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
