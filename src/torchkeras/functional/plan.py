"""What was drawn as plain records: names, layers, and who takes what from whom; made to be copied and pickled."""

from __future__ import annotations

import builtins
import functools
import keyword
import operator
import pkgutil
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from torchkeras.core.errors import bad_value, did_you_mean
from torchkeras.functional.symbol import BATCH, Step, Symbol, drawn_at, leaves, map_values

INFIX = {"add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv,
         "matmul": operator.matmul, "pow": operator.pow, "remainder": operator.mod, "gt": operator.gt,
         "lt": operator.lt, "ge": operator.ge, "le": operator.le, "eq": operator.eq, "ne": operator.ne,
         "__getitem__": operator.getitem, "__floordiv__": operator.floordiv, "__and__": operator.and_,
         "__or__": operator.or_, "__xor__": operator.xor}
SWAPPED = {"__rsub__": operator.sub, "__rdiv__": operator.truediv, "__rtruediv__": operator.truediv,
           "__rpow__": operator.pow, "__rfloordiv__": operator.floordiv, "__rmatmul__": operator.matmul}
LONGEST_NAME = 200


@dataclass(frozen=True)
class Ref:
    """A value by the name of the node that gives it, and its place in what the node gives."""

    name: str
    path: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Node:
    """One step of a net.

    ``target`` of a module or a tensor is the attribute that holds it; of a function, method or attribute its name.
    ``shapes`` are those of the tensors that come out, with the batch's size as -1 (and k times it as -k).
    """

    name: str
    kind: str
    target: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ()
    dtype: torch.dtype | None = None

    def label(self, part: nn.Module | None) -> str:
        """What kind of node it is, in a word; ``part`` is the layer of a module's node."""
        if part is not None:
            return type(part).__name__
        return {"input": "Input", "tensor": "Parameter" if self.target.startswith("parameter") else "Tensor"}.get(
            self.kind, self.name)

    def sources(self) -> list[str]:
        """The nodes it takes values from."""
        return list(dict.fromkeys(one.name for one in leaves((self.args, self.kwargs)) if isinstance(one, Ref)))


@dataclass(frozen=True)
class Plan:
    """All of a net but its layers: the nodes in their order, inputs first, and what comes out."""

    nodes: tuple[Node, ...]
    outputs: Any

    @property
    def inputs(self) -> list[Node]:
        """The nodes that take the arguments of forward."""
        return [node for node in self.nodes if node.kind == "input"]


class Writer:
    """Gives names to steps, layers and tensors, and writes the plan."""

    def __init__(self, given: Mapping[str, nn.Module]) -> None:
        self.given = {id(module): name for name, module in given.items()}
        self.held: dict[str, nn.Module | Tensor] = {}
        self.owned: dict[int, str] = {}
        self.named: dict[int, str] = {}
        self.taken: set[str] = set(given)
        self.numbers: dict[str, int] = {}  # the last number of each kind of name
        self.targets: set[str] = set()
        self.nodes: list[Node] = []

    def write(self, steps: list[Step], inputs: Mapping[str, Symbol], outputs: Any, shapes: Mapping[int, Any]) -> Plan:
        """The plan of the steps."""
        for name, symbol in inputs.items():
            self.taken.add(name)
            self.named[symbol.step.number] = name
            self.append(Node(name, "input", name, shapes=shapes[symbol.step.number], dtype=symbol.value.dtype))
        for step in steps:
            if step.kind != "input":
                self.add(step, shapes[step.number])
        return Plan(tuple(self.nodes), map_values(self.ref, outputs))

    def add(self, step: Step, shapes: Any) -> None:
        """One step more."""
        args, kwargs = map_values(self.ref, step.args), map_values(self.ref, step.kwargs)
        target = self.own(step.target) if step.kind == "module" else step.target
        if step.kind == "function" and pkgutil.resolve_name(target) is None:
            raise bad_value(target, received="a function without a name to import it by",
                            expected="a torch function", fix=drawn_at(step.where))
        if step.kind != "module":
            name = self.fresh(target.rpartition(".")[2].strip("_"))
        else:
            name = self.fresh(f"{target}_call") if target in self.targets else target
        self.named[step.number] = name
        self.append(Node(name, step.kind, target, args, kwargs, shapes))

    def append(self, node: Node) -> None:
        """One record more."""
        self.nodes.append(node)
        self.targets.add(node.target)

    def ref(self, value: Any) -> Any:
        """What stands for a value in a record."""
        if isinstance(value, Tensor) and not isinstance(value, Symbol):
            return Ref(self.constant(value))
        step = getattr(value, "step", None)
        return Ref(self.named[step.number], value.path) if isinstance(step, Step) else value

    def constant(self, value: Tensor) -> str:
        """The name of a tensor that was used as it is."""
        if id(value) not in self.owned:
            name = self.own(value)
            self.append(Node(name, "tensor", name, shapes=(tuple(value.shape),), dtype=value.dtype))
        return self.owned[id(value)]

    def own(self, part: nn.Module | Tensor) -> str:
        """The attribute that holds a layer or a tensor."""
        if id(part) not in self.owned:
            kind = snake(type(part).__name__) if isinstance(part, nn.Module) else (
                "parameter" if isinstance(part, nn.Parameter) else "constant")
            name = self.given.get(id(part)) or self.fresh(kind)
            self.owned[id(part)] = name
            self.held[name] = part
        return self.owned[id(part)]

    def fresh(self, kind: str) -> str:
        """The first free name of a kind: ``linear_1``, ``linear_2``."""
        number = self.numbers.get(kind, 0) + 1
        while (name := f"{kind}_{number}") in self.taken:
            number += 1
        self.numbers[kind] = number
        self.taken.add(name)
        return name


def snake(name: str) -> str:
    """``MaxPool1d`` as ``max_pool1d``, ``LSTM`` as ``lstm``, ``BatchNorm2d`` as ``batch_norm2d``."""
    plain = re.sub(r"\W+", "_", unicodedata.normalize("NFKC", name))
    found = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", plain).lower().lstrip("_")
    return found if is_plain(f"{found}_1") else "module"


def is_plain(name: Any) -> bool:
    """Whether a name can stand in the source of ``forward`` as it is, and means there what it says.

    Python reads some letters as others (``ｉｆ`` as ``if``), so only names that it takes as they are will do.
    """
    return (isinstance(name, str) and len(name) <= LONGEST_NAME and name.isidentifier()
            and not keyword.iskeyword(name) and name != "self" and not name.startswith("__")
            and name == unicodedata.normalize("NFKC", name))


def shapes_of(result: Any) -> tuple[tuple[int, ...], ...]:
    """The shapes in a result, with the batch's size as -1."""
    return tuple(tuple(size if size % BATCH or not size else -(size // BATCH) for size in leaf.shape)
                 for leaf in leaves(result) if isinstance(leaf, Tensor))


def graph(plan: Plan) -> fx.Graph:
    """The plan as a graph of torch.fx, whose layers are attributes of the net."""
    drawn = fx.Graph()
    given: dict[str, fx.Node] = {}
    parts: dict[Ref, fx.Node] = {}

    def value(leaf: Any) -> Any:
        if not isinstance(leaf, Ref):
            return leaf
        if not leaf.path:
            return given[leaf.name]
        if leaf not in parts:
            parts[leaf] = drawn.call_function(operator.getitem, (value(Ref(leaf.name, leaf.path[:-1])), leaf.path[-1]))
        return parts[leaf]

    for node in plan.nodes:
        names = [node.name, *node.kwargs, *([node.target] if node.kind in ("module", "tensor") else [])]
        if not all(map(is_plain, names)):  # they become source code
            raise bad_value("plan", received=f"the name {next(one for one in names if not is_plain(one))!r}",
                            expected="names that arguments and attributes can have")
        kind, target, args = operation(node, map_values(value, node.args))
        while kind == "placeholder" and target in meaningful():
            target += "_"  # in the source alone: there an argument would hide what numbers and functions are called
        given[node.name] = drawn.create_node(kind, target, args, map_values(value, node.kwargs), node.name)
    drawn.output(map_values(value, plan.outputs))
    drawn.lint()
    return drawn


@functools.cache
def meaningful() -> set[str]:
    """What names mean something in the source that torch.fx writes: Python's own, torch, inf and a few more."""
    return {*dir(builtins), *fx.Graph().python_code("self").globals}


def operation(node: Node, args: tuple[Any, ...]) -> tuple[str, Any, tuple[Any, ...]]:
    """What a node is in torch.fx, operators as such."""
    if node.kind == "method" and len(args) == 2 and not node.kwargs:
        if node.target in INFIX:
            return "call_function", INFIX[node.target], args
        if node.target in SWAPPED:
            return "call_function", SWAPPED[node.target], args[::-1]
    if node.kind == "attribute":
        return "call_function", getattr, (*args, node.target)
    if node.kind == "function":
        return "call_function", pkgutil.resolve_name(node.target), args
    return {"input": "placeholder", "module": "call_module", "tensor": "get_attr"}.get(node.kind, "call_method"), \
        node.target, args


def check_names(names: Mapping[str, nn.Module], steps: list[Step], inputs: Mapping[str, Symbol]) -> None:
    """Refuse names for layers that are not drawn, and those that cannot be attributes."""
    drawn = {id(step.target): step.target for step in steps if step.kind == "module"}
    for name, module in names.items():
        if not is_plain(name) or name in reserved() or name in inputs:
            raise bad_value("names", received=repr(name), expected="a name that an attribute can have",
                            fix="Use letters, digits and _, and no name of an input or of nn.Module.")
        if id(module) not in drawn:
            kinds = sorted({type(one).__name__ for one in drawn.values()})
            raise bad_value("names", received=f"{name!r} for a {type(module).__name__} that was not drawn",
                            expected="layers that lead to the outputs",
                            fix=did_you_mean(type(module).__name__, kinds) or "Pass the object that was called.")


@functools.cache
def reserved() -> set[str]:
    """The attributes of a net that no layer may take the place of."""
    from torchkeras.functional.model import FunctionalModel

    return {*dir(FunctionalModel), *vars(nn.Module()), "plan", "names", "code", "_run"}
