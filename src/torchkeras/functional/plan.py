"""The drawing as plain records that can be copied and pickled: nodes, names, connections."""

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

from torchkeras.core.errors import bad_value
from torchkeras.core.types import Leaf, Tree
from torchkeras.functional.symbol import BATCH, GraphStep, Symbol, drawn_at, leaves, map_values

INFIX = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "div": operator.truediv,
    "matmul": operator.matmul, "pow": operator.pow, "remainder": operator.mod, "gt": operator.gt,
    "lt": operator.lt, "ge": operator.ge, "le": operator.le, "eq": operator.eq, "ne": operator.ne,
    "__getitem__": operator.getitem, "__floordiv__": operator.floordiv, "__and__": operator.and_,
    "__or__": operator.or_, "__xor__": operator.xor}
SWAPPED = {
    "__rsub__": operator.sub, "__rdiv__": operator.truediv, "__rtruediv__": operator.truediv,
    "__rpow__": operator.pow, "__rfloordiv__": operator.floordiv, "__rmatmul__": operator.matmul}
LONGEST_NAME = 200


@dataclass(frozen=True)
class Ref:
    """A value: the name of the node that returns it, and its place in what the node returns."""

    name: str
    path: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Node:
    """One node of a net.

    ``target`` of a module or a tensor is the attribute that holds it; of a function, method or
    attribute its name. ``shapes`` are those of the tensors that come out, with the batch's size as
    -1 (and k times it as -k).
    """

    name: str
    kind: str
    target: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ()
    dtype: torch.dtype | None = None

    def label(self, part: nn.Module | None) -> str:
        """Return the kind of node in a word; ``part`` is the layer of a module's node."""
        if part is not None:
            return type(part).__name__
        if self.kind == "tensor":
            return "Parameter" if self.target.startswith("parameter") else "Tensor"
        return "Input" if self.kind == "input" else self.name

    def sources(self) -> list[str]:
        """Return the names of the nodes it takes values from."""
        found = leaves((self.args, self.kwargs))
        return list(dict.fromkeys(one.name for one in found if isinstance(one, Ref)))


@dataclass(frozen=True)
class Plan:
    """All of a net but its layers: the nodes in order, inputs first, and the outputs."""

    nodes: tuple[Node, ...]
    outputs: Any

    @property
    def inputs(self) -> list[Node]:
        """Return the nodes that take the arguments of forward."""
        return [node for node in self.nodes if node.kind == "input"]


class Writer:
    """Names steps, layers and tensors, and writes the plan."""

    def __init__(self, given: Mapping[str, nn.Module]) -> None:
        self.given = {id(module): name for name, module in given.items()}
        self.held: dict[str, nn.Module | Tensor] = {}
        self.owned: dict[int, str] = {}
        self.named: dict[int, str] = {}
        self.taken: set[str] = set(given)
        self.numbers: dict[str, int] = {}  # the last number of each kind of name
        self.targets: set[str] = set()
        self.nodes: list[Node] = []

    def write(self, steps: list[GraphStep], inputs: Mapping[str, Symbol], outputs: Tree,
              shapes: Mapping[int, Any]) -> Plan:
        """Return the plan of the steps."""
        for name, symbol in inputs.items():
            self.taken.add(name)
            self.named[symbol.step.number] = name
            self.append(Node(name, "input", name, shapes=shapes[symbol.step.number],
                             dtype=symbol.value.dtype))
        for step in steps:
            if step.kind != "input":
                self.add(step, shapes[step.number])
        return Plan(tuple(self.nodes), map_values(self.ref, outputs))

    def add(self, step: GraphStep, shapes: tuple[tuple[int, ...], ...]) -> None:
        """Add the node of one step."""
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
        """Append one node."""
        self.nodes.append(node)
        self.targets.add(node.target)

    def ref(self, value: Leaf) -> Leaf:
        """Return a reference in place of a symbolic value or tensor; other values unchanged."""
        if isinstance(value, Tensor) and not isinstance(value, Symbol):
            return Ref(self.constant(value))
        step = getattr(value, "step", None)
        return Ref(self.named[step.number], value.path) if isinstance(step, GraphStep) else value

    def constant(self, value: Tensor) -> str:
        """Return the node name of a tensor used as a constant."""
        if id(value) not in self.owned:
            name = self.own(value)
            self.append(Node(name, "tensor", name, shapes=(tuple(value.shape),), dtype=value.dtype))
        return self.owned[id(value)]

    def own(self, part: nn.Module | Tensor) -> str:
        """Return the name of the attribute that holds a layer or a tensor."""
        if id(part) not in self.owned:
            kind = snake_case(type(part).__name__) if isinstance(part, nn.Module) else (
                "parameter" if isinstance(part, nn.Parameter) else "constant")
            name = self.given.get(id(part)) or self.fresh(kind)
            self.owned[id(part)] = name
            self.held[name] = part
        return self.owned[id(part)]

    def fresh(self, kind: str) -> str:
        """Return the first free name of a kind: ``linear_1``, ``linear_2``."""
        number = self.numbers.get(kind, 0) + 1
        while (name := f"{kind}_{number}") in self.taken:
            number += 1
        self.numbers[kind] = number
        self.taken.add(name)
        return name


def snake_case(name: str) -> str:
    """Return a class name in snake case: ``max_pool1d`` for ``MaxPool1d``."""
    plain = re.sub(r"\W+", "_", unicodedata.normalize("NFKC", name))
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", plain)
    found = words.lower().lstrip("_")
    return found if is_plain_name(f"{found}_1") else "module"


def is_plain_name(name: object) -> bool:
    """Tell whether a name is safe in the generated source of ``forward``.

    Python normalizes identifiers (``ｉｆ`` becomes ``if``), so only names that this leaves as they
    are will do.
    """
    return (isinstance(name, str) and len(name) <= LONGEST_NAME and name.isidentifier()
            and not keyword.iskeyword(name) and name != "self" and not name.startswith("__")
            and name == unicodedata.normalize("NFKC", name))


def shapes_of(result: Tree) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of the tensors in a result, with the batch size as -1."""
    return tuple(
        tuple(size if size % BATCH or not size else -(size // BATCH) for size in leaf.shape)
        for leaf in leaves(result) if isinstance(leaf, Tensor))


def to_fx_graph(plan: Plan) -> fx.Graph:
    """Return the plan as a graph of torch.fx, whose layers are attributes of the net."""
    drawn = fx.Graph()
    given: dict[str, fx.Node] = {}
    parts: dict[Ref, fx.Node] = {}

    def value(leaf: Leaf) -> Leaf:
        if not isinstance(leaf, Ref):
            return leaf
        if not leaf.path:
            return given[leaf.name]
        if leaf not in parts:
            parts[leaf] = drawn.call_function(
                operator.getitem, (value(Ref(leaf.name, leaf.path[:-1])), leaf.path[-1]))
        return parts[leaf]

    for node in plan.nodes:
        names = [
            node.name, *node.kwargs, *([node.target] if node.kind in ("module", "tensor") else [])]
        if not all(map(is_plain_name, names)):  # they become source code
            wrong = next(one for one in names if not is_plain_name(one))
            raise bad_value("plan", received=f"the name {wrong!r}",
                            expected="names that arguments and attributes can have")
        kind, target, args = fx_operation(node, map_values(value, node.args))
        while kind == "placeholder" and target in source_globals():
            target += "_"  # in the source only: an argument must not shadow a global
        given[node.name] = drawn.create_node(kind, target, args, map_values(value, node.kwargs),
                                             node.name)
    drawn.output(map_values(value, plan.outputs))
    drawn.lint()
    return drawn


@functools.cache
def source_globals() -> set[str]:
    """Return the global names of the source that torch.fx writes: builtins, torch, inf."""
    return {*dir(builtins), *fx.Graph().python_code("self").globals}


def fx_operation(node: Node, args: tuple[Any, ...]) -> tuple[str, Any, tuple[Any, ...]]:
    """Return a node's torch.fx kind, target and arguments; operators are called as such."""
    if node.kind == "method" and len(args) == 2 and not node.kwargs:
        if node.target in INFIX:
            return "call_function", INFIX[node.target], args
        if node.target in SWAPPED:
            return "call_function", SWAPPED[node.target], args[::-1]
    if node.kind == "attribute":
        return "call_function", getattr, (*args, node.target)
    if node.kind == "function":
        return "call_function", pkgutil.resolve_name(node.target), args
    kinds = {"input": "placeholder", "module": "call_module", "tensor": "get_attr"}
    return kinds.get(node.kind, "call_method"), node.target, args
