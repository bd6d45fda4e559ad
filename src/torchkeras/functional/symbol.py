"""A value that is not there yet: what layers and torch functions take and give while a net is drawn."""

from __future__ import annotations

import itertools
import linecache
import operator
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchkeras.core.errors import bad_type, bad_value

BATCH = 10_007  # samples in a symbolic value: a prime, so that its multiples in a shape come from the batch
HOMES = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
READ = {"__bool__", "item", "__float__", "__int__", "__index__", "__complex__", "tolist", "numpy", "__array__",
        "__contains__", "__len__", "__deepcopy__", "__reduce_ex__", "backward", "data_ptr", "storage",
        "untyped_storage"}
numbers = itertools.count()


@dataclass(eq=False)
class Step:
    """One thing that was drawn, and what it takes: values are :class:`Symbol` or :class:`BatchSize` in the arguments.

    ``target`` is the name of an input, a module, or the dotted name of a function, method or attribute.
    """

    kind: str
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    where: str = ""
    number: int = field(default_factory=lambda: next(numbers))


class Symbol(Tensor):
    """A tensor with a shape and a dtype and no values; what is done to it is recorded.

    ``step`` is what gave it, ``path`` its place in what the step gave, ``value`` a fake tensor of its shape.
    """

    value: Tensor
    step: Step
    path: tuple[Any, ...]

    @staticmethod
    def __new__(cls, value: Tensor, step: Step, path: tuple[Any, ...] = ()) -> Symbol:
        """A tensor without memory."""
        return torch.Tensor._make_wrapper_subclass(cls, value.shape, dtype=value.dtype, device=value.device)

    def __init__(self, value: Tensor, step: Step, path: tuple[Any, ...] = ()) -> None:
        self.value, self.step, self.path = value, step, path

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        from torchkeras.functional.drawing import record_function

        return record_function(func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (),  # type: ignore[override]
                           kwargs: Any = None) -> Any:
        raise bad_type(str(func), received="a symbolic value, which has no numbers",
                       expected="something that torch can record",
                       fix=f"Put it into the forward of an nn.Module and draw that. {drawn_at()}")

    # assignments such as x += y give a new value, so that nothing drawn earlier changes
    __iadd__ = Tensor.__add__
    __isub__ = Tensor.__sub__
    __imul__ = Tensor.__mul__
    __itruediv__ = Tensor.__truediv__

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        kind = str(self.value.dtype).removeprefix("torch.")
        return f"<symbolic {shape_text(self.value.shape)} {kind}>"

    def __format__(self, format_spec: str) -> str:
        return repr(self)


class BatchSize(int):
    """A size that depends on the number of samples: ``x.shape[0]`` while drawing, another number in each batch."""

    step: Step
    path: tuple[Any, ...]

    def __new__(cls, value: int, step: Step, path: tuple[Any, ...] = ()) -> BatchSize:
        """An int that knows where it comes from."""
        self = super().__new__(cls, value)
        self.step, self.path = step, path
        return self

    def __repr__(self) -> str:
        return size_text(int(self))

    __str__ = __repr__


def _recorded(name: str, swap: bool) -> Callable[[BatchSize, Any], Any]:
    """The arithmetic of a BatchSize: the result is worked out anew in each batch."""
    function = getattr(operator, name)

    def method(self: BatchSize, other: Any) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        args = (other, self) if swap else (self, other)
        size = function(*map(int, args))
        if abs(size) >= 1 << 63:
            raise bad_value("the batch size", received=f"{name} to more than 64 bits", expected="sizes of tensors",
                            fix=drawn_at())
        return BatchSize(size, Step("function", f"operator.{name}", args, where=place()))

    return method


def _refused(name: str) -> Callable[..., Any]:
    """What would need the number of samples now."""

    def method(self: BatchSize, *others: Any) -> Any:
        raise bad_value("the batch size", received=f"{name.strip('_')} of a number that each batch has its own of",
                        expected="a net drawn for any number of samples",
                        fix=f"Put the code into the forward of an nn.Module and draw that. {drawn_at()}")

    return method


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(BatchSize, f"__{_name}__", _recorded(_name, swap=False))
    setattr(BatchSize, f"__r{_name}__", _recorded(_name, swap=True))
for _name in ("__lt__", "__le__", "__gt__", "__ge__", "__truediv__", "__rtruediv__", "__pow__", "__rpow__",
              "__float__", "__bool__"):
    setattr(BatchSize, _name, _refused(_name))


def map_values(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same tuples, lists, dicts and slices with the function applied to what they hold."""
    if isinstance(tree, dict):
        return type(tree)((key, map_values(function, item)) for key, item in tree.items())
    if isinstance(tree, (tuple, list)):
        items = [map_values(function, item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, slice):
        return slice(*(map_values(function, item) for item in (tree.start, tree.stop, tree.step)))
    return function(tree)


def leaves(tree: Any) -> Iterator[Any]:
    """What tuples, lists, dicts and slices hold, first to last."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    elif isinstance(tree, slice):
        tree = [tree.start, tree.stop, tree.step]
    if isinstance(tree, (tuple, list)):
        for item in tree:
            yield from leaves(item)
    else:
        yield tree


def symbols(tree: Any) -> Iterator[Any]:
    """Every value of the drawing: tensors, and sizes that depend on the batch."""
    return (leaf for leaf in leaves(tree) if isinstance(leaf, (Symbol, BatchSize)))


def size_text(size: int) -> str:
    """A size as it is told: those that depend on the batch by name."""
    if size == 0 or size % BATCH:
        return str(int(size))
    return "batch" if size == BATCH else f"{int(size) // BATCH}*batch"


def shape_text(shape: Any) -> str:
    """A shape as it is told."""
    return "(" + ", ".join(map(size_text, shape)) + ("," if len(shape) == 1 else "") + ")"


def place() -> str:
    """The line, outside torch and this package, that is drawing now."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(HOMES):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def drawn_at(where: str = "") -> str:
    """Where something was drawn, with the text of the line."""
    path, _, number = (where or place()).rpartition(":")
    source = linecache.getline(path, int(number)).strip()
    return f"Drawn at {Path(path).name}:{number}" + (f": {source}" if source else "") + "."
