"""Build a net from a drawing: collect the steps, check them once more, write the plan."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from torchkeras.core.errors import bad_type, bad_value, did_you_mean
from torchkeras.core.types import Leaf, Tree, Value
from torchkeras.functional import echo, plan
from torchkeras.functional.drawing import steps_of, stop_watching
from torchkeras.functional.model import FunctionalModel
from torchkeras.functional.plan import Node, Writer, is_plain_name, shapes_of
from torchkeras.functional.shapes import fake_mode, run_module, silenced_logger
from torchkeras.functional.symbol import (
    BATCH,
    BatchSize,
    GraphStep,
    Symbol,
    drawn_at,
    leaves,
    map_values,
)

Inputs: TypeAlias = Symbol | Sequence[Symbol] | Mapping[str, Symbol]

OTHER_BATCH = 3  # a batch size that the drawing did not use


def build(inputs: Inputs, outputs: Tree,
          names: Mapping[str, nn.Module] | None = None) -> FunctionalModel:
    """Make a net of the steps drawn between inputs and outputs.

    Layers are not copied; a layer that was called several times is one layer. Several nets may be
    built from one drawing, and drawing may go on afterwards.

    Args:
        inputs: values that :func:`Input` returned; several as a tuple or list, or as a dict by the
            names that the arguments of ``forward`` and the keys of a batch shall have.
        outputs: symbolic values, one or in tuples, lists and dicts; the net returns the same
            structure.
        names: layers by the names they shall have, in place of ``linear_1`` and the like.

    Raises:
        TypeError: inputs or outputs are not symbolic values.
        ValueError: an input leads to no output, an output needs an input that is not listed, a name
            is taken, or the net would run with one number of samples only.

    Example:
        >>> from torchkeras.functional import Input
        >>> title, body = Input((8,), name="title"), Input((20,), name="body")
        >>> joined = torch.cat([nn.Linear(8, 4)(title), nn.Linear(20, 4)(body)], dim=1)
        >>> topic, stars = nn.Linear(8, 5)(joined), nn.Linear(8, 1)(joined)
        >>> net = build([title, body], {"topic": topic, "stars": stars})
        >>> preds = net(title=torch.ones(2, 8), body=torch.ones(2, 20))
        >>> {name: tuple(pred.shape) for name, pred in preds.items()}
        {'topic': (2, 5), 'stars': (2, 1)}
    """
    outputs = echo.resolve_late(outputs)
    echo.active_calls.clear()
    listed = named_inputs(inputs)
    check_outputs(outputs)
    steps = steps_of(outputs)
    check_connected(listed, steps)
    check_names(names or {}, steps, listed)
    shapes = check_batch_sizes(steps, listed)
    writer = Writer(names or {})
    net = FunctionalModel(writer.write(steps, listed, outputs, shapes), writer.held)
    stop_watching(*(id(symbol) for symbol in listed.values()))
    return net


def named_inputs(inputs: Inputs) -> dict[str, Symbol]:
    """Return the inputs by name; refuse what Input() did not return, and bad names."""
    listed = list(inputs.values()) if isinstance(inputs, Mapping) else (
        list(inputs) if isinstance(inputs, (tuple, list)) else [inputs])
    for one in listed:
        if not isinstance(one, Symbol):
            raise bad_type("inputs", received=f"a {type(one).__name__}",
                           expected="a value that Input(...) returned",
                           fix="Pass one, or a tuple, list or dict of them.")
        if one.step.kind != "input":
            raise bad_value("inputs", received=f"{one!r}, which is the result of a step",
                            expected="a value that Input(...) returned",
                            fix=drawn_at(one.step.where))
    if not listed:
        raise bad_value("inputs", received="none", expected="at least one Input")
    keys = list(inputs) if isinstance(inputs, Mapping) else [
        one.step.target or f"input_{number}" for number, one in enumerate(listed, 1)]
    counted = Counter(keys)
    for key, count in counted.items():
        if not is_plain_name(key) or count > 1:
            raise bad_value("inputs",
                            received=f"the name {key!r}" + (" twice" if count > 1 else ""),
                            expected="a name for each input that an argument can have",
                            fix="Give them names: Input(shape, name='title').")
    if len({id(one) for one in listed}) < len(listed):
        raise bad_value("inputs", received="the same Input twice", expected="each once")
    return dict(zip(keys, listed, strict=True))


def check_names(names: Mapping[str, nn.Module], steps: list[GraphStep],
                inputs: Mapping[str, Symbol]) -> None:
    """Refuse names for layers that are not drawn, and those that cannot be attributes."""
    drawn = {id(step.target): step.target for step in steps if step.kind == "module"}
    for name, module in names.items():
        if not is_plain_name(name) or name in reserved_names() or name in inputs:
            raise bad_value(
                "names", received=repr(name), expected="a name that an attribute can have",
                fix="Use letters, digits and _, and no name of an input or of nn.Module.")
        if id(module) not in drawn:
            kinds = sorted({type(one).__name__ for one in drawn.values()})
            raise bad_value(
                "names", received=f"{name!r} for a {type(module).__name__} that was not drawn",
                expected="layers that lead to the outputs",
                fix=did_you_mean(type(module).__name__, kinds)
                or "Pass the object that was called.")


@functools.cache
def reserved_names() -> set[str]:
    """Return the attribute names of a net that no layer may have."""
    return {*dir(FunctionalModel), *vars(nn.Module()), "plan", "names", "code", "_run"}


def check_outputs(outputs: Tree) -> None:
    """Refuse outputs that are not symbolic."""
    found = list(leaves(outputs))
    for one in found or [outputs]:
        if not isinstance(one, Symbol):
            raise bad_type(
                "outputs", received=f"a {type(one).__name__}", expected="symbolic values",
                fix="Call the layer on a value that Input(...) returned, and pass the result.")


def check_connected(inputs: Mapping[str, Symbol], steps: list[GraphStep]) -> None:
    """Refuse unused inputs, and outputs that need an input that is not listed."""
    listed = {symbol.step.number: name for name, symbol in inputs.items()}
    for step in steps:
        if step.kind == "input" and step.number not in listed:
            raise bad_value(
                "outputs", received=f"one that needs the input {step.target or 'without a name'!r}",
                expected=f"outputs that come from the inputs listed: {', '.join(inputs)}",
                fix=f"Add it to inputs, or draw from these only. {drawn_at(step.where)}")
    drawn = {step.number for step in steps}
    for number, name in listed.items():
        if number not in drawn:
            raise bad_value("inputs", received=f"{name!r}, which leads to none of the outputs",
                            expected="inputs that are used",
                            fix=f"Leave it out. {drawn_at(inputs[name].step.where)}")


def check_batch_sizes(steps: list[GraphStep], inputs: Mapping[str, Symbol]) -> dict[int, Any]:
    """Run the steps with two batch sizes; return the shapes of the first run, by step number."""
    shapes: dict[int, Any] = {}
    for samples in (BATCH, OTHER_BATCH):
        given: dict[int, Any] = {}
        for symbol in inputs.values():
            with fake_mode():
                given[symbol.step.number] = symbol.value.new_empty(samples, *symbol.value.shape[1:])
        for step in steps:
            if step.kind != "input":
                given[step.number] = rerun(step, given)
            shapes.setdefault(step.number, shapes_of(given[step.number]))
    return shapes


def rerun(step: GraphStep, given: Mapping[int, Any]) -> Any:
    """Run a step on other values and return its result."""
    def value(leaf: Leaf) -> Value:
        if not isinstance(leaf, (Symbol, BatchSize)):
            return leaf
        found = given[leaf.step.number]
        for key in leaf.path:
            found = found[key]
        return found

    args, kwargs = map_values(value, step.args), map_values(value, step.kwargs)
    try:
        if step.kind == "module":
            return run_module(step.target, args, kwargs)
        _, target, args = plan.fx_operation(Node("", step.kind, step.target, args, kwargs), args)
        with silenced_logger(), fake_mode(), torch.no_grad():
            if callable(target):
                return target(*args, **kwargs)
            return getattr(args[0], target)(*args[1:], **kwargs)
    except Exception as error:
        name = type(step.target).__name__ if step.kind == "module" else step.target
        raise bad_value(
            name, received=f"{OTHER_BATCH} samples, with which it does not run",
            expected="a step that runs for any number of samples",
            fix=f"torch: {str(error).splitlines()[0]} {drawn_at(step.where)}") from error
