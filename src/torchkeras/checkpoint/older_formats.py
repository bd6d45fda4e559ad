"""What a saved state calls things, in the words of the net that takes it: it may be wrapped in another way by now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from torchkeras.state.module_state import growing_names, weights_in
from torchkeras.state.wrappers import without_wrappers


def in_own_names(state: dict[str, Any], modules: list[nn.Module]) -> None:
    """Rename weights in a state as the bare nets have them: 5.0.0a1 kept what wraps a part of a net in its names.

    That version told the shapes of all buffers too, of which some follow the data, and left out those that were None.
    """
    best = state["best"]["weights"] if isinstance(state["best"], dict) else state["best"]
    signatures, orders = state["facts"]["net"], [one["order"] for one in state["optimizers"].values()]
    for number, module in enumerate(modules[:len(signatures)]):
        free = growing_names(module)
        names = without_wrappers(list(signatures[number]), {*weights_in(module), *free})
        for some in (signatures, state["net"], best):
            some[number] = renamed(some[number], names)
        for order in orders:
            order[:] = [[in_order(name, number, names) for name in group] for group in order]
        if "hidden" not in state:
            signatures[number] |= dict.fromkeys(free, "buffer")


def renamed(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return values under other names."""
    return {names.get(name, name): value for name, value in values.items()}


def in_order(name: str, number: int, names: Mapping[str, str]) -> str:
    """Return the name of a parameter, which begins with the number of its module."""
    own, _, rest = name.partition(".")
    return f"{own}.{names.get(rest, rest)}" if own == str(number) else name
