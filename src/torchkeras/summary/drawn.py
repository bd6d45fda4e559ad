"""The table of a FunctionalModel: a row for each node of its graph, with its connections."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from torchkeras.summary.inputs import Inputs, InputSpec, tensors
from torchkeras.summary.table import Row


def plan_of(net: nn.Module) -> Any:
    """Return the plan of a FunctionalModel, else None; do not import functional for this."""
    model = sys.modules.get("torchkeras.functional.model")
    return net.plan if model is not None and isinstance(net, model.FunctionalModel) else None


def with_own_inputs(net: nn.Module, spec: InputSpec) -> InputSpec:
    """Return the input spec; for a FunctionalModel without one, that of its own inputs."""
    named = (spec.input_shape, spec.input_data, spec.input_data_args, spec.input_data_kwargs)
    plan = plan_of(net)
    if plan is None or any(one is not None for one in named):
        return spec
    inputs = plan.inputs
    return replace(spec, input_shape={node.name: node.shapes[0][1:] for node in inputs},
                   input_dtype=spec.input_dtype or [node.dtype for node in inputs])


def matches_graph(net: nn.Module, inputs: Inputs) -> bool:
    """Tell whether the net is a FunctionalModel drawn for inputs of these shapes."""
    plan = plan_of(net)
    if plan is None:
        return False
    given = [tuple(one.shape[1:]) for one in tensors((inputs.args, inputs.kwargs))]
    return sorted(given) == sorted(node.shapes[0][1:] for node in plan.inputs)


def drawn_rows(net: nn.Module, inputs: Inputs) -> Iterator[Row]:
    """Yield a row for each node of a FunctionalModel, in order."""
    seen: set[int] = set()
    for node in plan_of(net).nodes:
        held = getattr(net, node.target) if node.kind in ("module", "tensor") else None
        part = held if isinstance(held, nn.Module) else None
        alone = [held] if isinstance(held, nn.Parameter) else []
        own = list(part.parameters()) if part is not None else alone
        new = [one for one in own if id(one) not in seen]
        seen.update(map(id, own))
        shapes = tuple(
            tuple(size if size >= 0 else -size * inputs.shown for size in shape)
            for shape in node.shapes)
        label = node.label(part)
        yield Row(node.name if label == node.name else f"{node.name} ({label})", shapes,
                  sum(map(Tensor.numel, new)),
                  bool(own) and not new, tuple(node.sources()))
