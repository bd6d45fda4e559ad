"""Recording while a net is drawn: inputs, and each layer, function and method called on them.

Torch calls ``__torch_function__`` of a tensor subclass for every function and method, but not for
module calls. A global forward hook sees these, but can neither stop ``forward`` nor replace its
error by a clearer one; so ``nn.Module.__call__`` is replaced, as torch.fx does while it traces,
from ``Input`` to ``build``, or until the last symbolic value is deleted.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.types import Tree
from torchkeras.functional import echo
from torchkeras.functional.plan import is_plain_name
from torchkeras.functional.refusals import (
    check_constants,
    check_drawable,
    refuse_autograd_function,
    refuse_time_first,
    step_error,
)
from torchkeras.functional.shapes import (
    fake_mode,
    fake_result,
    fake_values,
    initialize_lazy,
    original_call,
    run_module,
)
from torchkeras.functional.symbol import (
    BATCH,
    BatchSize,
    GraphStep,
    Symbol,
    drawn_at,
    leaves,
    symbolic_leaves,
    user_line,
)

open_inputs: set[int] = set()  # ids of the inputs from which no net was built yet


def Input(shape: tuple[int, ...] | list[int], dtype: torch.dtype = torch.float32,
          name: str | None = None) -> Symbol:
    """Begin to draw a net: return a symbolic value to call layers and torch functions on.

    Any module, torch function, operator or tensor method applied to the value is recorded and
    returns another symbolic value, whose shape is known at once. :func:`build` makes a net of the
    recorded steps.

    Args:
        shape: of one sample, without the batch: ``(3, 32, 32)``; ``()`` for one number a sample.
        dtype: the dtype of the input in a batch.
        name: the name of the argument of the net's ``forward``, and of the key in a batch that is a
            dict. Default: ``input_1``, ``input_2`` and so on.

    Returns:
        A tensor of shape ``(batch, *shape)`` without values.

    Raises:
        TypeError: the shape is no tuple of ints, or the dtype is none.
        ValueError: a size is below 1, or the name cannot be that of an argument.

    Example:
        >>> x = Input((3,), name="features")
        >>> x
        <symbolic (batch, 3) float32>
        >>> nn.Linear(3, 4)(x).relu() + 1
        <symbolic (batch, 4) float32>
    """
    if not isinstance(shape, (tuple, list)) or not all(
            isinstance(size, Integral) for size in shape):
        raise bad_type(
            "shape", received=f"{shape!r} ({type(shape).__name__})",
            expected="a tuple of ints, one sample without the batch",
            fix="Write (200,) for 200 numbers; give a usual size where it varies: others work too.")
    if any(size < 1 for size in shape):
        raise bad_value("shape", received=tuple(shape),
                        expected="sizes of 1 or more, without the batch",
                        fix="Leave the batch out: (3, 32, 32).")
    if not isinstance(dtype, torch.dtype):
        raise bad_type("dtype", received=repr(dtype), expected="a torch.dtype",
                       fix="Pass torch.int64.")
    if name is not None and not is_plain_name(name):
        raise bad_value("name", received=repr(name), expected="a name as an argument can have it",
                        fix="Use letters, digits and _, and no word of Python's.")
    with fake_mode():
        value = torch.empty(BATCH, *shape, dtype=dtype)
    symbol = Symbol(value, GraphStep("input", name, where=user_line()))
    # values computed from it keep it alive through their steps
    symbol.step.args = (weakref.ref(symbol),)
    weakref.finalize(symbol, stop_watching, id(symbol)).atexit = False
    start_watching(symbol)
    return symbol


def start_watching(*inputs: Symbol) -> None:
    """Record module calls until a net is built from these inputs, or they are deleted."""
    open_inputs.update(map(id, inputs))
    setattr(nn.Module, "__call__", recording_call)  # noqa: B010 (mypy forbids the assignment)


def stop_watching(*numbers: int) -> None:
    """Stop recording for these inputs; after the last, restore ``nn.Module.__call__``."""
    open_inputs.difference_update(numbers)
    if not open_inputs and is_watching():
        setattr(nn.Module, "__call__", original_call)  # noqa: B010


def is_watching() -> bool:
    """Tell whether module calls are being recorded."""
    return nn.Module.__call__ is recording_call


@functools.wraps(original_call)
def recording_call(module: nn.Module, /, *args: Tree, **kwargs: Tree) -> Tree:
    """Call a module; record the call if an argument is symbolic."""
    if not any(isinstance(leaf, Symbol) for leaf in leaves((args, kwargs))):
        return original_call(module, *args, **kwargs)
    running, _ = echo.find_late_call(args, kwargs, watched=True)
    if running is not None:
        return as_symbols(running.step, run_module(module, fake_values(args), fake_values(kwargs)))
    refuse_autograd_function(type(module).__name__, (args, kwargs))
    return record_module(module, args, kwargs)


def record_module(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tree:
    """Record a module call on symbolic values."""
    args, kwargs = echo.resolve_late(args), echo.resolve_late(kwargs)
    check_constants(type(module).__name__, args, kwargs)
    refuse_time_first(module, args)
    where = user_line()
    try:
        if any(is_lazy(one) for one in (*module.parameters(), *module.buffers())):
            initialize_lazy(module, args, kwargs)
        result = run_module(module, fake_values(args), fake_values(kwargs))
    except Exception as error:
        raise step_error(error, type(module).__name__, args, kwargs, module) from error
    given = as_symbols(GraphStep("module", module, args, kwargs, where), result)
    if not any(isinstance(leaf, Symbol) for leaf in leaves(given)):
        raise bad_type(
            type(module).__name__, received=f"a {type(result).__name__} from its forward",
            expected="a tensor, or a tuple, list or dict of tensors", fix=drawn_at(where))
    return given


def record_function(func: Callable[..., Any], args: tuple[Any, ...],
                    kwargs: dict[str, Any]) -> Tree:
    """Record a torch function, method or attribute applied to symbolic values."""
    running, new = echo.find_late_call(args, kwargs, is_watching())
    if running is not None:
        if new:
            record_late_call(running)
        return as_symbols(running.step, fake_result(func, args, kwargs))
    args, kwargs = echo.resolve_late(tuple(args)), echo.resolve_late(kwargs)
    name = torch.overrides.resolve_name(func)
    if not name:
        name = f"{getattr(func, '__module__', '')}.{getattr(func, '__name__', func)}"
    short = name.removesuffix(".__get__").rpartition(".")[2]
    check_drawable(name, short, args, kwargs)
    lone = short == "view_as" and len(args) == 2 and args[0] is args[1]
    refuse_autograd_function(short, args, lone=lone)
    check_constants(short, args, kwargs)
    try:
        result = fake_result(func, args, kwargs)
    except Exception as error:
        raise step_error(error, short, args, kwargs) from error
    if short in ("shape", "size") and isinstance(result, torch.Size):
        return symbolic_sizes(result, args[0])
    kind = "function"
    if name.startswith("torch.Tensor."):
        kind = "attribute" if name.endswith(".__get__") else "method"
    return as_symbols(
        GraphStep(kind, name if kind == "function" else short, tuple(args), kwargs, user_line()),
        result)


def record_late_call(running: echo.LateCall) -> None:
    """Record the module whose forward is running, and resume recording module calls."""
    module, args, kwargs = echo.call_of_frame(running.frame)
    start_watching(*(step.args[0]() for step in steps_of((args, kwargs)) if step.kind == "input"))
    echo.active_calls.clear()
    refuse_autograd_function(type(module).__name__, (args, kwargs), running.frame)
    running.recorded = record_module(module, args, kwargs)
    echo.active_calls.append(running)


def steps_of(tree: Tree) -> list[GraphStep]:
    """Return all steps that symbolic values depend on, in the order drawn."""
    found: dict[int, GraphStep] = {}
    waiting = [one.step for one in symbolic_leaves(tree)]
    while waiting:
        step = waiting.pop()
        if step.number not in found:
            found[step.number] = step
            waiting += [one.step for one in symbolic_leaves((step.args, step.kwargs))]
    return [found[number] for number in sorted(found)]


def as_symbols(step: GraphStep, result: Tree, path: tuple[Any, ...] = ()) -> Tree:
    """Return a step's result as symbolic values."""
    if isinstance(result, Tensor):
        return Symbol(result, step, path)
    if isinstance(result, dict):
        return type(result)(
            (key, as_symbols(step, item, (*path, key))) for key, item in result.items())
    if isinstance(result, (tuple, list)):
        items = [as_symbols(step, item, (*path, place)) for place, item in enumerate(result)]
        return type(result)(*items) if hasattr(result, "_fields") else type(result)(items)
    if isinstance(result, int) and result and result % BATCH == 0:
        return BatchSize(result, step, path)
    return result


def symbolic_sizes(shape: torch.Size, symbol: Symbol) -> torch.Size:
    """Return a shape whose batch-dependent sizes are read anew in each batch."""
    return torch.Size([
        size if size == 0 or size % BATCH else BatchSize(
            size, GraphStep("method", "size", (symbol, dim), where=user_line()))
        for dim, size in enumerate(shape)])


Symbol.recorder = record_function
