"""From a drawing to a net: what lies between inputs and outputs, looked over once more and written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.functional import echo, plan
from torchkeras.functional.drawing import done, steps_of
from torchkeras.functional.model import FunctionalModel
from torchkeras.functional.plan import Node, Writer, check_names, is_plain, shapes_of
from torchkeras.functional.shapes import fake_mode, quiet, run_module
from torchkeras.functional.symbol import BATCH, BatchSize, Step, Symbol, drawn_at, leaves, map_values

FEW = 3  # samples of the rehearsal: another number than was drawn with


def build(inputs: Any, outputs: Any, names: Mapping[str, nn.Module] | None = None) -> FunctionalModel:
    """Make a net of what was drawn between inputs and outputs.

    Layers are not copied; one that was called several times is one layer. Other nets may be built from the same
    drawing, and what was drawn may be drawn on.

    Args:
        inputs: what :func:`Input` gave; several as a tuple or list, or as a dict by the names that ``forward`` and
            batches shall have for them.
        outputs: symbolic values: one, or tuples, lists and dicts of them, which is what the net will return.
        names: layers by the names they shall have, where ``linear_1`` and its like do not please.

    Raises:
        TypeError: inputs or outputs are not symbolic values.
        ValueError: an input leads to no output, an output needs an input that is not listed, a name is taken, or the
            net would run with one number of samples only.

    Example:
        >>> from torchkeras.functional import Input
        >>> title, body = Input((8,), name="title"), Input((20,), name="body")
        >>> joined = torch.cat([nn.Linear(8, 4)(title), nn.Linear(20, 4)(body)], dim=1)
        >>> net = build([title, body], {"topic": nn.Linear(8, 5)(joined), "stars": nn.Linear(8, 1)(joined)})
        >>> preds = net(title=torch.ones(2, 8), body=torch.ones(2, 20))
        >>> {name: tuple(pred.shape) for name, pred in preds.items()}
        {'topic': (2, 5), 'stars': (2, 1)}
    """
    outputs = echo.resolved(outputs)
    echo.going.clear()
    listed = named_inputs(inputs)
    check_outputs(outputs)
    steps = steps_of(outputs)
    check_connected(listed, steps)
    check_names(names or {}, steps, listed)
    shapes = rehearse(steps, listed)
    writer = Writer(names or {})
    net = FunctionalModel(writer.write(steps, listed, outputs, shapes), writer.held)
    done(*(id(symbol) for symbol in listed.values()))
    return net


def named_inputs(inputs: Any) -> dict[str, Symbol]:
    """The inputs by the names that they will have."""
    listed = list(inputs.values()) if isinstance(inputs, Mapping) else (
        list(inputs) if isinstance(inputs, (tuple, list)) else [inputs])
    for one in listed:
        if not isinstance(one, Symbol):
            raise bad_type("inputs", received=f"a {type(one).__name__}", expected="what Input(...) gave",
                           fix="Pass one, or a tuple, list or dict of them.")
        if one.step.kind != "input":
            raise bad_value("inputs", received=f"{one!r}, which comes from something else",
                            expected="what Input(...) gave", fix=drawn_at(one.step.where))
    if not listed:
        raise bad_value("inputs", received="none", expected="at least one Input")
    keys = list(inputs) if isinstance(inputs, Mapping) else [
        one.step.target or f"input_{number}" for number, one in enumerate(listed, 1)]
    counted = Counter(keys)
    for key, count in counted.items():
        if not is_plain(key) or count > 1:
            raise bad_value("inputs", received=f"the name {key!r}" + (" twice" if count > 1 else ""),
                            expected="a name for each input that an argument can have",
                            fix="Give them names: Input(shape, name='title').")
    if len({id(one) for one in listed}) < len(listed):
        raise bad_value("inputs", received="the same Input twice", expected="each once")
    return dict(zip(keys, listed, strict=True))


def check_outputs(outputs: Any) -> None:
    """Refuse outputs that are not symbolic."""
    found = list(leaves(outputs))
    for one in found or [outputs]:
        if not isinstance(one, Symbol):
            raise bad_type("outputs", received=f"a {type(one).__name__}", expected="symbolic values",
                           fix="Call the layer on what Input(...) gave, and pass what comes out.")


def check_connected(inputs: Mapping[str, Symbol], steps: list[Step]) -> None:
    """Refuse inputs that lead nowhere, and outputs that come from elsewhere."""
    listed = {symbol.step.number: name for name, symbol in inputs.items()}
    for step in steps:
        if step.kind == "input" and step.number not in listed:
            raise bad_value("outputs", received=f"one that needs the input {step.target or 'without a name'!r}",
                            expected=f"outputs that come from the inputs listed: {', '.join(inputs)}",
                            fix=f"Add it to inputs, or draw from these only. {drawn_at(step.where)}")
    drawn = {step.number for step in steps}
    for number, name in listed.items():
        if number not in drawn:
            raise bad_value("inputs", received=f"{name!r}, which leads to none of the outputs",
                            expected="inputs that are used", fix=f"Leave it out. {drawn_at(inputs[name].step.where)}")


def rehearse(steps: list[Step], inputs: Mapping[str, Symbol]) -> dict[int, Any]:
    """Run the steps with the number of samples that was drawn with, and with few; the shapes of the first."""
    shapes: dict[int, Any] = {}
    for samples in (BATCH, FEW):
        given: dict[int, Any] = {}
        for symbol in inputs.values():
            with fake_mode():
                given[symbol.step.number] = symbol.value.new_empty(samples, *symbol.value.shape[1:])
        for step in steps:
            if step.kind != "input":
                given[step.number] = again(step, given)
            shapes.setdefault(step.number, shapes_of(given[step.number]))
    return shapes


def again(step: Step, given: Mapping[int, Any]) -> Any:
    """A step's result from other values."""
    def value(leaf: Any) -> Any:
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
        _, target, args = plan.operation(Node("", step.kind, step.target, args, kwargs), args)
        with quiet(), fake_mode(), torch.no_grad():
            return target(*args, **kwargs) if callable(target) else getattr(args[0], target)(*args[1:], **kwargs)
    except Exception as error:
        name = type(step.target).__name__ if step.kind == "module" else step.target
        raise bad_value(name, received=f"{FEW} samples, and then does not run",
                        expected="what runs for any number of samples",
                        fix=f"torch: {str(error).splitlines()[0]} {drawn_at(step.where)}") from error
