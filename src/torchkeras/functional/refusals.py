"""Errors of a drawing: the step, the shapes, torch's message, and the line of user code."""

from __future__ import annotations

import functools
import inspect
import re
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.types import Tree, Value
from torchkeras.functional.echo import MODULE_CALL_CODE, call_of_frame, frames
from torchkeras.functional.symbol import (
    BATCH,
    VALUE_READS,
    Symbol,
    drawn_at,
    leaves,
    shape_text,
    size_text,
)

DROPOUTS = {
    "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
CONSTANT_TYPES = (bool, int, float, complex, str, torch.dtype, torch.device, torch.layout,
                  torch.memory_format, Tensor, type(None), type(...), torch.Size)


def check_drawable(name: str, short: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse operations that cannot be part of a drawing."""
    if short in VALUE_READS:
        raise bad_value(
            short, received=f"{first_symbol(args)}, which has no numbers while drawing",
            expected="nothing that depends on values",
            fix="Use torch.where, or put the branch or loop into the forward of an nn.Module "
            f"and draw that. {drawn_at()}")
    in_place = short.endswith("_") and not short.endswith("__")
    if short == "__setitem__" or in_place or "out" in kwargs:
        raise bad_value(
            short, received=f"a change of {first_symbol(args)} in place", expected="a new value",
            fix=f"Write x = x.{short.strip('_').removesuffix('item')}(...), "
            f"or torch.where to set a part. {drawn_at()}")
    functional = name.startswith("torch.nn.functional.")
    if functional and short in DROPOUTS and kwargs.get("training", True):
        raise bad_value(
            short, received="training=True, its default, for which it drops in evaluation too",
            expected="a layer that follows train() and eval()",
            fix=f"Use nn.Dropout()(x), or torch.dropout(x, p, True) to drop always. {drawn_at()}")
    if (short in ("__iter__", "unbind") and isinstance(args[0], Symbol)
            and args[0].value.shape[:1] == (BATCH,) and not (len(args) > 1 and args[1])
            and not kwargs.get("dim")):
        raise bad_value(short, received=f"{first_symbol(args)}, whose first dimension is the batch",
                        expected="a dimension of known size",
                        fix=f"Take x[:, i], or x.unbind(1). {drawn_at()}")


def refuse_autograd_function(name: str, args: Tree, frame: FrameType | None = None,
                             lone: bool = False) -> None:
    """Refuse an autograd.Function: its forward would be recorded and its own backward lost.

    A Function that returns its input as it is records nothing in its forward; torch then calls
    ``x.view_as(x)`` (``lone``), which nobody else does.
    """
    if lone or not {one.f_code for one in frames(frame)}.isdisjoint(autograd_forwards()):
        raise bad_value(
            name, received=f"{first_symbol(args)} inside the forward of a torch.autograd.Function",
            expected="a module around it, whose call keeps its backward",
            fix=f"Call it in the forward of an nn.Module and draw that. {drawn_at()}")


def autograd_forwards() -> set[CodeType]:
    """Return the code objects of the forwards of all autograd.Function classes."""
    found: set[CodeType | None] = set()
    waiting: list[type] = [torch.autograd.Function]
    while waiting:
        below: list[type] = waiting.pop().__subclasses__()
        found |= {code_of(vars(one)["forward"]) for one in below if "forward" in vars(one)}
        waiting += below
    return {code for code in found if code is not None}


def code_of(function: Value) -> CodeType | None:
    """Return the code object that a function runs, or None where it has none."""
    inner: Value = getattr(function, "__func__", function)
    function = inspect.unwrap(inner)
    while isinstance(function, functools.partial):
        function = inspect.unwrap(function.func)
    if not hasattr(function, "__code__"):
        function = getattr(type(function), "__call__", None)  # noqa: B004
    return getattr(function, "__code__", None)


def refuse_time_first(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Refuse a recurrent layer that would read the batch as the steps of one sequence."""
    given = args[0] if args else None
    if isinstance(module, nn.RNNBase) and not module.batch_first and isinstance(given, Symbol) and (
            given.value.shape[0] == BATCH):
        raise bad_value(
            type(module).__name__,
            received=f"{first_symbol(args)}, whose first dimension is the batch",
            expected="(steps, batch, features), as batch_first=False says",
            fix=f"Pass batch_first=True to the layer. {drawn_at()}")


def first_symbol(args: Tree) -> str:
    """Return the first symbolic value as text."""
    return next((repr(one) for one in leaves(args) if isinstance(one, Symbol)), "a symbolic value")


def check_constants(name: str, args: Tree, kwargs: Tree) -> None:
    """Refuse arguments that a net cannot keep, and tensors made for one batch size."""
    for one in leaves((args, kwargs)):
        if isinstance(one, Tensor) and not isinstance(one, Symbol):
            if any(size and size % BATCH == 0 for size in one.shape):
                raise bad_value(
                    name, received=f"a tensor made with the batch's size, {shape_text(one.shape)}",
                    expected="a net drawn for any number of samples",
                    fix=f"Make it from a symbolic value: x.new_zeros(x.shape[0], 5). {drawn_at()}")
        elif not isinstance(one, CONSTANT_TYPES):
            raise bad_type(
                name, received=f"an argument of type {type(one).__name__}",
                expected="tensors, numbers, texts, dtypes, devices and None",
                fix="Turn numbers and arrays into these: int(n), torch.as_tensor(array). "
                f"{drawn_at()}")


def step_error(error: Exception, name: str, args: Tree, kwargs: Tree,
               module: nn.Module | None = None) -> Exception:
    """Return the error of a step: its input shapes, torch's message, and the line that drew it."""
    inner, given = (failing_module(error) if module else None) or (module, (args, kwargs))
    shapes = [
        shape_text(one.value.shape if isinstance(one, Symbol) else one.shape)
        for one in leaves(given) if isinstance(one, Tensor)]
    weights = [f"{label} {shape_text(one.shape)}" for label, one in (
        inner.named_parameters(recurse=False) if inner else ()) if not is_lazy(one)]
    title = name if inner in (None, module) else f"{type(inner).__name__} in {name}"
    received = " and ".join(shapes) + (f", with {', '.join(weights)}" if weights else "")
    line = (str(error) or type(error).__name__).splitlines()[0]
    said = re.sub(r"\d{5,}", lambda found: size_text(int(found[0])), line)
    kinds = type(error).__mro__
    if any("DataDependent" in kind.__name__ or "DynamicOutputShape" in kind.__name__
           for kind in kinds):
        expected = "shapes and branches that do not depend on values"
        fix = "Use torch.where, or another form of it."
    else:
        expected, fix = "shapes and types that fit", ""
    make = bad_type if isinstance(error, TypeError) else bad_value
    return make(title, received=received, expected=expected,
                fix=" ".join(filter(None, [f"torch: {said.rstrip('.')}.", fix, drawn_at()])))


def failing_module(error: Exception) -> tuple[nn.Module, Any] | None:
    """Return the innermost module that was running, and its arguments."""
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code is MODULE_CALL_CODE:
            module, *given = call_of_frame(trace.tb_frame)
            found = (module, given)
        trace = trace.tb_next
    return found
