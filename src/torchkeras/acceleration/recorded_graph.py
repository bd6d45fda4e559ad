"""A compiled function that remembers its last call, so that the call can be repeated.

Before each call the compiler checks everything that the Python code read when it was compiled:
attributes, globals, shapes. For a step of a small net these checks take longer than the arithmetic.
Where nothing else has run since the last call, and the new data has the same shapes and layout,
they would find the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchkeras.acceleration.candidates import compiled
from torchkeras.acceleration.small_products import SMALL_PRODUCTS
from torchkeras.core import internals


class LastCall:
    """What a compiled graph was last called with, and what it returned.

    Attributes:
        kept: whether calls are recorded; arguments and results hold memory.
        run: the graph without its checks, which takes and returns a flat list of tensors.
        arguments: of the last call.
        results: of the last call.
    """

    def __init__(self) -> None:
        self.kept = False
        self.run: Callable[..., Sequence[Any]] | None = None
        self.arguments: tuple[Any, ...] = ()
        self.results: Sequence[Any] = ()

    def backend(self, graph: torch.fx.GraphModule, examples: list[Any],
                options: dict[str, Any] | None = None) -> Callable[..., Sequence[Any]]:
        """Compile a graph as torch's own backend does, and record its calls."""
        run = machine_code(graph, examples, options)

        def record(*arguments: Any) -> Sequence[Any]:
            results: Sequence[Any] = run(*arguments)
            if self.kept:
                self.run, self.arguments, self.results = run, arguments, results
            return results

        return record

    def repeated(self, old: Sequence[Tensor], results: Sequence[Tensor]
                 ) -> Callable[[Sequence[Tensor]], list[Any]] | None:
        """Return a function that repeats the last call with other data.

        Args:
            old: arguments of the last call that the new data takes the place of.
            results: those results of the last call that the function is to return.

        Returns:
            The function from the new data to the new results; None where the graph does not take or
            return one of these tensors as it is.
        """
        run, arguments = self.run, list(self.arguments)
        inputs = [position_of(one, arguments) for one in old]
        outputs = [position_of(one, self.results) for one in results]
        if run is None or None in inputs or None in outputs:
            return None

        def again(new: Sequence[Tensor]) -> list[Any]:
            for position, one in zip(inputs, new, strict=True):
                arguments[position] = one  # type: ignore[index]
            found = run(*arguments)
            return [found[position] for position in outputs]  # type: ignore[index]

        return again

    def forget(self) -> None:
        """Release the tensors of the last call, and record no more."""
        self.kept, self.arguments, self.results = False, (), ()


def machine_code(graph: torch.fx.GraphModule, examples: list[Any],
                 options: dict[str, Any] | None) -> Callable[..., Sequence[Any]]:
    """Return a graph compiled by torch's own backend, with small products written out."""
    with internals.decomposed(SMALL_PRODUCTS):
        compiled_graph: Callable[..., Sequence[Any]] = internals.inductor()(
            graph, examples, config_patches=options)
    return compiled_graph


def recorded(function: Callable[..., Any]) -> tuple[Any, LastCall]:
    """Return a function compiled as one graph, and the record of its last call."""
    last = LastCall()
    return compiled(function, fullgraph=True, backend=last.backend), last


def position_of(one: Tensor, among: Sequence[Any]) -> int | None:
    """Return where a tensor stands in a list, by identity; None if it is not there just once."""
    found = [number for number, other in enumerate(among) if other is one]
    return found[0] if len(found) == 1 else None
