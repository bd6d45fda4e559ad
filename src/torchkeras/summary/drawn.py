"""The table of a net that was drawn as a graph: a row for each step, and what it is connected to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from torchkeras.summary.inputs import Asked, Inputs, tensors
from torchkeras.summary.table import Row


def plan_of(net: nn.Module) -> Any:
    """The plan of a net that was drawn, else None; where nothing was drawn, what draws is not loaded for this."""
    model = sys.modules.get("torchkeras.functional.model")
    return net.plan if model is not None and isinstance(net, model.FunctionalModel) else None


def as_drawn(net: nn.Module, asked: Asked) -> Asked:
    """What a user asked for; for a net that was drawn, its own inputs where the user named none."""
    named = (asked.input_shape, asked.input_data, asked.input_data_args, asked.input_data_kwargs)
    plan = plan_of(net)
    if plan is None or any(one is not None for one in named):
        return asked
    inputs = plan.inputs
    return replace(asked, input_shape={node.name: node.shapes[0][1:] for node in inputs},
                   input_dtype=asked.input_dtype or [node.dtype for node in inputs])


def fits_drawing(net: nn.Module, inputs: Inputs) -> bool:
    """Whether the net was drawn, and for inputs of these shapes."""
    plan = plan_of(net)
    if plan is None:
        return False
    given = [tuple(one.shape[1:]) for one in tensors((inputs.args, inputs.kwargs))]
    return sorted(given) == sorted(node.shapes[0][1:] for node in plan.inputs)


def drawn_rows(net: nn.Module, inputs: Inputs) -> Iterator[Row]:
    """The steps of a net that was drawn, in their order; all of its parameters belong to one of them."""
    seen: set[int] = set()
    for node in plan_of(net).nodes:
        held = getattr(net, node.target) if node.kind in ("module", "tensor") else None
        part = held if isinstance(held, nn.Module) else None
        own = list(part.parameters()) if part is not None else [held] if isinstance(held, nn.Parameter) else []
        new = [one for one in own if id(one) not in seen]
        seen.update(map(id, own))
        shapes = tuple(tuple(size if size >= 0 else -size * inputs.shown for size in shape) for shape in node.shapes)
        label = node.label(part)
        yield Row(node.name if label == node.name else f"{node.name} ({label})", shapes, sum(map(Tensor.numel, new)),
                  bool(own) and not new, tuple(node.sources()))
