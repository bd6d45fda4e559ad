"""Translate parameter names in a state to those of the current modules: wrappers may differ."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from torchkeras.core.types import State, Value
from torchkeras.state.module_state import bare_state_dict, resizable_buffer_names
from torchkeras.state.wrappers import without_wrappers


def rename_to_bare(state: State, modules: list[nn.Module]) -> None:
    """Rename the weights in a state, in place, to the names they have without wrappers.

    Version 5.0.0a1 kept the prefixes of wrapped submodules in the names. It also recorded the
    shapes of all buffers, including those whose shape depends on the data, and left out buffers
    that were None.
    """
    best = state["best"]["weights"] if isinstance(state["best"], dict) else state["best"]
    signatures = state["facts"]["net"]
    orders = [one["order"] for one in state["optimizers"].values()]
    for number, module in enumerate(modules[:len(signatures)]):
        free = resizable_buffer_names(module)
        names = without_wrappers(list(signatures[number]), {*bare_state_dict(module), *free})
        for some in (signatures, state["net"], best):
            some[number] = rename_keys(some[number], names)
        for order in orders:
            order[:] = [[rename_parameter(name, number, names) for name in group]
                        for group in order]
        if "hidden" not in state:
            signatures[number] |= dict.fromkeys(free, "buffer")


def rename_keys(values: Mapping[str, Value], names: Mapping[str, str]) -> dict[str, Value]:
    """Return the values under their new names; a name without a new one stays."""
    return {names.get(name, name): value for name, value in values.items()}


def rename_parameter(name: str, number: int, names: Mapping[str, str]) -> str:
    """Return the new name of a parameter whose name begins with the number of its module."""
    own, _, rest = name.partition(".")
    return f"{own}.{names.get(rest, rest)}" if own == str(number) else name
