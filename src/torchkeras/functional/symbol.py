"""Symbolic values: what layers and torch functions take and return while a net is drawn."""

from __future__ import annotations

import itertools
import linecache
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from torchkeras.core import internals
from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.types import Leaf, Tree

# samples in a symbolic value: a prime, so that its multiples in a shape come from the batch
BATCH = 10_007
LIBRARY_DIRS = (str(Path(torch.__file__).parent), str(Path(__file__).parent))
VALUE_READS = {
    "__bool__", "item", "__float__", "__int__", "__index__", "__complex__", "tolist", "numpy",
    "__array__", "__contains__", "__len__", "__deepcopy__", "__reduce_ex__", "backward", "data_ptr",
    "storage", "untyped_storage"}
Recorder = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]
step_numbers = itertools.count()


@dataclass(eq=False)
class GraphStep:
    """One recorded operation and its arguments, in which values are Symbol or BatchSize.

    ``target`` is the name of an input, a module, or the dotted name of a function, method or
    attribute.
    """

    kind: str
    target: Any
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    where: str = ""
    number: int = field(default_factory=lambda: next(step_numbers))


class Symbol(Tensor):
    """A tensor with a shape and a dtype and no values; operations on it are recorded.

    ``step`` is the operation that returned it, ``path`` its place in that result, ``value`` a fake
    tensor of its shape.
    """

    value: Tensor
    step: GraphStep
    path: tuple[Any, ...]
    recorder: ClassVar[Recorder]  # set by drawing.py, which imports this module

    @staticmethod
    def __new__(cls, value: Tensor, step: GraphStep, path: tuple[Any, ...] = ()) -> Symbol:
        """Create a tensor without memory."""
        return internals.make_subclass(cls, value)

    def __init__(self, value: Tensor, step: GraphStep, path: tuple[Any, ...] = ()) -> None:
        self.value, self.step, self.path = value, step, path

    @classmethod
    def __torch_function__(cls, func: Callable[..., Any], types: Any, args: Any = (),
                           kwargs: Any = None) -> Tree:
        return cls.recorder(func, args, kwargs or {})

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

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        kind = str(self.value.dtype).removeprefix("torch.")
        return f"<symbolic {shape_text(self.value.shape)} {kind}>"

    def __format__(self, format_spec: str) -> str:
        return repr(self)


class BatchSize(int):
    """A size that depends on the batch size, such as ``x.shape[0]`` while drawing."""

    step: GraphStep
    path: tuple[Any, ...]

    def __new__(cls, value: int, step: GraphStep, path: tuple[Any, ...] = ()) -> BatchSize:
        """Create an int that knows the step it comes from."""
        self = super().__new__(cls, value)
        self.step, self.path = step, path
        return self

    def __repr__(self) -> str:
        return size_text(int(self))

    __str__ = __repr__


def _recorded(name: str, swap: bool) -> Callable[[BatchSize, Any], Any]:
    """Return an arithmetic method of BatchSize; its result is recomputed in each batch."""
    function = getattr(operator, name)

    def method(self: BatchSize, other: object) -> Any:
        if not isinstance(other, int):
            return NotImplemented
        args = (other, self) if swap else (self, other)
        size = function(*map(int, args))
        if abs(size) >= 1 << 63:
            raise bad_value("the batch size", received=f"{name} to more than 64 bits",
                            expected="sizes of tensors", fix=drawn_at())
        return BatchSize(size, GraphStep("function", f"operator.{name}", args, where=user_line()))

    return method


def _refused(name: str) -> Callable[..., Any]:
    """Return a method that refuses: it would need the number of samples now."""

    def method(self: BatchSize, *others: object) -> Any:
        raise bad_value(
            "the batch size",
            received=f"{name.strip('_')} of the number of samples, which differs between batches",
            expected="a net drawn for any number of samples",
            fix=f"Put the code into the forward of an nn.Module and draw that. {drawn_at()}")

    return method


for _name in ("add", "sub", "mul", "floordiv", "mod"):
    setattr(BatchSize, f"__{_name}__", _recorded(_name, swap=False))
    setattr(BatchSize, f"__r{_name}__", _recorded(_name, swap=True))
for _name in ("__lt__", "__le__", "__gt__", "__ge__", "__truediv__", "__rtruediv__", "__pow__",
              "__rpow__", "__float__", "__bool__"):
    setattr(BatchSize, _name, _refused(_name))


def map_values(function: Callable[[Leaf], Leaf], tree: Tree) -> Tree:
    """Apply a function to every leaf of nested tuples, lists, dicts and slices."""
    if isinstance(tree, dict):
        return type(tree)((key, map_values(function, item)) for key, item in tree.items())
    if isinstance(tree, (tuple, list)):
        items = [map_values(function, item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    if isinstance(tree, slice):
        return slice(*(map_values(function, item) for item in (tree.start, tree.stop, tree.step)))
    return function(tree)


def leaves(tree: Tree) -> Iterator[Leaf]:
    """Yield the leaves of nested tuples, lists, dicts and slices, first to last."""
    if isinstance(tree, dict):
        tree = list(tree.values())
    elif isinstance(tree, slice):
        tree = [tree.start, tree.stop, tree.step]
    if isinstance(tree, (tuple, list)):
        for item in tree:
            yield from leaves(item)
    else:
        yield tree


def symbolic_leaves(tree: Tree) -> Iterator[Any]:
    """Return the symbolic leaves: tensors, and sizes that depend on the batch."""
    return (leaf for leaf in leaves(tree) if isinstance(leaf, (Symbol, BatchSize)))


def size_text(size: int) -> str:
    """Return a size as text; those that depend on the batch by name."""
    if size == 0 or size % BATCH:
        return str(int(size))
    return "batch" if size == BATCH else f"{int(size) // BATCH}*batch"


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as text."""
    return "(" + ", ".join(map(size_text, shape)) + ("," if len(shape) == 1 else "") + ")"


def user_line() -> str:
    """Return "path:line" of the running user code, outside torch and this package."""
    frame: Any = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(LIBRARY_DIRS):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def drawn_at(where: str = "") -> str:
    """Return a sentence that says where something was drawn, with the source line."""
    path, _, number = (where or user_line()).rpartition(":")
    source = linecache.getline(path, int(number)).strip()
    return f"Drawn at {Path(path).name}:{number}" + (f": {source}" if source else "") + "."
