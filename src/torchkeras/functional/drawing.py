"""While a net is drawn: inputs, and the record of each layer, function and method that a symbolic value meets.

Torch tells a tensor subclass of every function and method, but not of the call of a module. A global hook is told, but
can neither stop ``forward`` nor replace its error by a clearer one; so ``nn.Module.__call__`` is replaced, as torch.fx
does while it traces, from ``Input`` to ``build``, or until the last symbolic value is gone.
"""

from __future__ import annotations

import functools
import weakref
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.functional import echo
from torchkeras.functional.plan import is_plain
from torchkeras.functional.refusals import check_constants, misfit, refuse, refuse_own_gradient, refuse_time_first
from torchkeras.functional.shapes import compute, fake_mode, plain_call, run_module, settle, values
from torchkeras.functional.symbol import BATCH, BatchSize, Step, Symbol, drawn_at, leaves, place, symbols

undone: set[int] = set()  # the inputs that no net was built from yet, by id


def Input(shape: tuple[int, ...] | list[int], dtype: torch.dtype = torch.float32, name: str | None = None) -> Symbol:
    """Begin to draw a net: a symbolic value to call layers and torch functions on.

    Any module, torch function, operator or tensor method that meets the value is recorded and gives another symbolic
    value, whose shape is known at once. :func:`build` makes a net of what was drawn.

    Args:
        shape: of one sample, without the batch: ``(3, 32, 32)``; ``()`` for one number a sample.
        dtype: what the tensors of the batch hold.
        name: the name of the argument in the net's ``forward``, and of the key in a batch that is a dict. Default:
            ``input_1``, ``input_2`` and so on.

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
    if not isinstance(shape, (tuple, list)) or not all(isinstance(size, Integral) for size in shape):
        raise bad_type("shape", received=f"{shape!r} ({type(shape).__name__})",
                       expected="a tuple of ints, one sample without the batch",
                       fix="Write (200,) for 200 numbers; give a usual size where it varies: others work too.")
    if any(size < 1 for size in shape):
        raise bad_value("shape", received=tuple(shape), expected="sizes of 1 or more, without the batch",
                        fix="Leave the batch out: (3, 32, 32).")
    if not isinstance(dtype, torch.dtype):
        raise bad_type("dtype", received=repr(dtype), expected="a torch.dtype", fix="Pass torch.int64.")
    if name is not None and not is_plain(name):
        raise bad_value("name", received=repr(name), expected="a name as an argument can have it",
                        fix="Use letters, digits and _, and no word of Python's.")
    with fake_mode():
        value = torch.empty(BATCH, *shape, dtype=dtype)
    symbol = Symbol(value, Step("input", name, where=place()))
    symbol.step.args = (weakref.ref(symbol),)  # what comes of it keeps it alive through the steps in between
    weakref.finalize(symbol, done, id(symbol)).atexit = False
    start(symbol)
    return symbol


def start(*inputs: Symbol) -> None:
    """See the calls of modules until a net is built from these inputs, or they are gone."""
    undone.update(map(id, inputs))
    setattr(nn.Module, "__call__", drawing_call)  # noqa: B010 (a type checker forbids to assign to a method)


def done(*numbers: int) -> None:
    """These inputs need no watch any more; after the last, modules are called as ever."""
    undone.difference_update(numbers)
    if not undone and watched():
        setattr(nn.Module, "__call__", plain_call)  # noqa: B010


def watched() -> bool:
    """Whether calls of modules are seen."""
    return nn.Module.__call__ is drawing_call


@functools.wraps(plain_call)
def drawing_call(module: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
    """What stands for ``nn.Module.__call__`` while a net is drawn."""
    if not any(isinstance(leaf, Symbol) for leaf in leaves((args, kwargs))):
        return plain_call(module, *args, **kwargs)
    running, _ = echo.look(args, kwargs, watched=True)
    if running is not None:
        return wrapped(running.step, run_module(module, values(args), values(kwargs)))
    refuse_own_gradient(type(module).__name__, (args, kwargs))
    return record_module(module, args, kwargs)


def record_module(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A module was called on symbolic values."""
    args, kwargs = echo.resolved(args), echo.resolved(kwargs)
    check_constants(type(module).__name__, args, kwargs)
    refuse_time_first(module, args)
    where = place()
    try:
        if any(is_lazy(one) for one in (*module.parameters(), *module.buffers())):
            settle(module, args, kwargs)
        result = run_module(module, values(args), values(kwargs))
    except Exception as error:
        raise misfit(error, type(module).__name__, args, kwargs, module) from error
    given = wrapped(Step("module", module, args, kwargs, where), result)
    if not any(isinstance(leaf, Symbol) for leaf in leaves(given)):
        raise bad_type(type(module).__name__, received=f"a {type(result).__name__} from its forward",
                       expected="a tensor, or a tuple, list or dict of tensors", fix=drawn_at(where))
    return given


def record_function(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A torch function, a method or an attribute met symbolic values."""
    running, new = echo.look(args, kwargs, watched())
    if running is not None:
        if new:
            catch_up(running)
        return wrapped(running.step, compute(func, args, kwargs))
    args, kwargs = echo.resolved(tuple(args)), echo.resolved(kwargs)
    name = torch.overrides.resolve_name(func) or f"{getattr(func, '__module__', '')}.{getattr(func, '__name__', func)}"
    short = name.removesuffix(".__get__").rpartition(".")[2]
    refuse(name, short, args, kwargs)
    refuse_own_gradient(short, args, lone=short == "view_as" and len(args) == 2 and args[0] is args[1])
    check_constants(short, args, kwargs)
    try:
        result = compute(func, args, kwargs)
    except Exception as error:
        raise misfit(error, short, args, kwargs) from error
    if short in ("shape", "size") and isinstance(result, torch.Size):
        return sizes(result, args[0])
    kind = "function"
    if name.startswith("torch.Tensor."):
        kind = "attribute" if name.endswith(".__get__") else "method"
    return wrapped(Step(kind, name if kind == "function" else short, tuple(args), kwargs, place()), result)


def catch_up(running: echo.Echo) -> None:
    """Record the module whose forward we are in, and see the calls of modules again."""
    module, args, kwargs = echo.call_in(running.frame)
    start(*(step.args[0]() for step in steps_of((args, kwargs)) if step.kind == "input"))
    echo.going.clear()
    refuse_own_gradient(type(module).__name__, (args, kwargs), running.frame)
    running.given = record_module(module, args, kwargs)
    echo.going.append(running)


def steps_of(tree: Any) -> list[Step]:
    """All that symbolic values come from, in the order in which it was drawn."""
    found: dict[int, Step] = {}
    waiting = [one.step for one in symbols(tree)]
    while waiting:
        step = waiting.pop()
        if step.number not in found:
            found[step.number] = step
            waiting += [one.step for one in symbols((step.args, step.kwargs))]
    return [found[number] for number in sorted(found)]


def wrapped(step: Step, result: Any, path: tuple[Any, ...] = ()) -> Any:
    """A step's result as symbolic values."""
    if isinstance(result, Tensor):
        return Symbol(result, step, path)
    if isinstance(result, dict):
        return type(result)((key, wrapped(step, item, (*path, key))) for key, item in result.items())
    if isinstance(result, (tuple, list)):
        items = [wrapped(step, item, (*path, place)) for place, item in enumerate(result)]
        return type(result)(*items) if hasattr(result, "_fields") else type(result)(items)
    if isinstance(result, int) and result and result % BATCH == 0:
        return BatchSize(result, step, path)
    return result


def sizes(shape: torch.Size, symbol: Symbol) -> torch.Size:
    """A shape whose sizes from the batch are asked for in each batch."""
    return torch.Size([size if size == 0 or size % BATCH else BatchSize(
        size, Step("method", "size", (symbol, dim), where=place())) for dim, size in enumerate(shape)])
