"""A drawn net as plain data that JSON can hold, and back: its structure, without the values of its weights."""

from __future__ import annotations

import functools
import inspect
import math
import operator
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from torchkeras.core.errors import bad_value, did_you_mean, whole_number
from torchkeras.functional import layers
from torchkeras.functional.building import build
from torchkeras.functional.checking import MOST_PIECES, NET, ROW, VERSION, check_config, wrong
from torchkeras.functional.data import dtype_of, meant, told
from torchkeras.functional.drawing import Input
from torchkeras.functional.model import FunctionalModel
from torchkeras.functional.plan import INFIX, SWAPPED, Node
from torchkeras.functional.symbol import BATCH, READ, Symbol, leaves, symbols

OWN = {name: kind for name, kind in vars(layers).items()
       if isinstance(kind, type) and issubclass(kind, nn.Module) and not name.startswith("_")}
BATCH_MATH = {f"operator.{name}": getattr(operator, name) for name in ("add", "sub", "mul", "floordiv", "mod")}
MOST_BYTES = 1 << 30  # of weights, unless the caller allows more
ELSEWHERE: dict[tuple[type, str], str] = {
    (nn.MultiheadAttention, "bias"): "in_proj_bias", (nn.MultiheadAttention, "add_bias_kv"): "bias_k"}


def get_config(net: FunctionalModel) -> dict[str, Any]:
    """What a drawn net is made of, for :func:`from_config`; see :meth:`FunctionalModel.get_config`."""
    nodes = [{"name": node.name, "kind": node.kind, "target": node.target, "args": told(node.args),
              "kwargs": told(node.kwargs), **(origin(net, node))} for node in net.plan.nodes]
    parts = {name: describe(module, name) for name, module in net.named_children()}
    return {"version": VERSION, "nodes": nodes, "layers": parts, "outputs": told(net.plan.outputs)}


def origin(net: FunctionalModel, node: Node) -> dict[str, Any]:
    """The shape and dtype of what a net begins with, inputs and tensors."""
    if node.kind not in ("input", "tensor"):
        return {}
    shape = node.shapes[0][1:] if node.kind == "input" else node.shapes[0]
    held = getattr(net, node.target, None) if node.kind == "tensor" else None
    return {"shape": list(shape), "dtype": str(node.dtype).removeprefix("torch."),
            "parameter": isinstance(held, nn.Parameter)}


def from_config(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None,
                max_bytes: int = MOST_BYTES) -> FunctionalModel:
    """A net with fresh weights from what :func:`get_config` gave; see :meth:`FunctionalModel.from_config`."""
    custom = dict(custom_objects or {})
    check_config(config)
    check_memory(config, custom, max_bytes)
    return made(config, custom)


def made(config: Mapping[str, Any], custom: Mapping[str, Any]) -> FunctionalModel:
    """The net of a config that was looked over."""
    parts = {name: construct(one, custom) for name, one in config["layers"].items()}
    given: dict[str, Any] = {}
    for node in config["nodes"]:
        with explained(f"the node {node['name']!r}"):
            given[node["name"]] = redrawn(node, parts, given, custom)
    inputs = {node["name"]: given[node["name"]] for node in config["nodes"] if node["kind"] == "input"}
    with explained("outputs"):
        return build(inputs, meant(config["outputs"], given), names=parts)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Say of an error that is not told in our words in which part of a config it arose."""
    try:
        yield
    except Exception as error:
        if "user_mistake" in vars(error) or isinstance(error, Warning):
            raise
        raise wrong(f"{what}, which cannot be made", "what get_config() gave",
                    f"{type(error).__name__}: {(str(error) or 'nothing more').splitlines()[0][:200]}") from error


def check_memory(config: Mapping[str, Any], custom: Mapping[str, Any], most: int) -> None:
    """Refuse weights of more than so many bytes; they are made without memory to be counted."""
    whole_number("max_bytes", most, least=0)
    count = 0
    for name, size in sizes_in(config, custom):
        count += size
        if count > most:
            raise wrong(f"weights of {count:,} bytes up to {name[:60]!r}", f"at most {most:,}",
                        "Pass a larger max_bytes if you trust the config and have the memory.")


def sizes_in(config: Mapping[str, Any], custom: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The bytes of each tensor and each layer, and of those in the nets within."""
    for node in config["nodes"]:
        if node["kind"] == "tensor":
            yield node["name"], math.prod(node["shape"]) * dtype_of(node["dtype"]).itemsize
    for name, described in config["layers"].items():
        yield from sizes_of(described, name, custom)


def sizes_of(described: Mapping[str, Any], name: str, custom: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """The bytes of a layer and of those within, each before the next is made."""
    if described["class"] == NET:
        yield from sizes_in(described["config"], custom)
    elif described["class"] == ROW:
        for key, one in described["layers"].items():
            yield from sizes_of(one, f"{name}.{key}", custom)
    else:
        for key, one in described["arguments"].items():
            if isinstance(one, Mapping) and "layer" in one:
                yield from sizes_of(one["layer"], f"{name}.{key}", custom)
        with torch.device("meta"), explained(f"the layer {name!r}"):
            layer = construct(described, custom)
            tensors = [*layer.parameters(), *layer.buffers()]
            if any(map(is_lazy, tensors)):
                raise wrong(f"{name!r}, a {type(layer).__name__} without sizes", "layers with sizes")
        yield name, sum(one.numel() * one.element_size() for one in tensors)


def redrawn(node: Mapping[str, Any], parts: Mapping[str, nn.Module], given: Mapping[str, Any],
            custom: Mapping[str, Any]) -> Any:
    """One node drawn again."""
    kind, target = node["kind"], node["target"]
    if kind == "input":
        return Input(tuple(node["shape"]), dtype_of(node["dtype"]), node["name"])
    if kind == "tensor":
        zeros = torch.zeros(node["shape"], dtype=dtype_of(node["dtype"]))
        return nn.Parameter(zeros) if node["parameter"] else zeros
    call = parts[target] if kind == "module" else permitted(kind, target, custom)
    args, kwargs = meant(node["args"], given), meant(node["kwargs"], given)
    if next(symbols((args, kwargs)), None) is None:  # it would be computed now, and not drawn
        raise wrong(f"{node['name']!r}, which takes nothing from the net", "nodes that take values")
    check_pieces(node, args, kwargs)
    return call(*args, **kwargs)


def check_pieces(node: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse pieces and repetitions without number, each of which would be worked out for the drawing."""
    numbers = [one for one in leaves((args[1:], kwargs)) if type(one) is int and one > 0]
    if re.search(r"diff|histogram|lowrank|combinations|(^|\.)index$", node["target"]):
        return few(node, max(numbers, default=0))
    if not re.search(r"(split|chunk|unbind|__iter__)[a-z_]*$", node["target"]):
        return None
    sizes = [size for one in leaves((args, kwargs)) if isinstance(one, Symbol) for size in one.value.shape]
    longest = max((size for size in sizes if size % BATCH), default=1)
    count = next(iter(numbers), None)
    if count is None or re.search(r"unbind|__iter__", node["target"]):
        pieces = longest
    elif re.search(r"(^|[._])split$", node["target"]) and "tensor_" not in node["target"]:
        pieces = longest // count  # a size; the others take a number of pieces
    else:
        pieces = count
    return few(node, pieces)


def few(node: Mapping[str, Any], count: int) -> None:
    """Refuse more pieces or repetitions than a net has."""
    if count > MOST_PIECES:
        raise wrong(f"{node['name']!r}, which makes {count:,} pieces or repetitions", f"at most {MOST_PIECES:,}")


def permitted(kind: str, target: str, custom: Mapping[str, Any]) -> Callable[..., Any]:
    """A function, method or attribute that torch can record; nothing else is ever looked up or imported."""
    if kind == "function" and target in custom:
        return custom[target]
    key = {"function": target, "method": f"torch.Tensor.{target}", "attribute": f"torch.Tensor.{target}.__get__"}.get(
        kind, "")
    found = BATCH_MATH.get(key) or recordable().get(key)
    hidden = target.startswith("_") and target not in {*INFIX, *SWAPPED, "__invert__", "__lshift__", "__rshift__"}
    if found is None or target in READ or hidden:
        raise wrong(f"the {kind} {target[:60]!r}", "what torch can record on tensors",
                    did_you_mean(key[:60], recordable()) or "Pass it in custom_objects.")
    return found


@functools.cache
def recordable() -> dict[str, Callable[..., Any]]:
    """What torch can record, by name: functions of tensors, methods of tensors, their attributes."""
    listed = [function for group in torch.overrides.get_overridable_functions().values() for function in group]
    return {name: function for function in listed if (name := torch.overrides.resolve_name(function)) is not None}


def describe(module: nn.Module, name: str) -> dict[str, Any]:
    """The class of a layer and the arguments that make it; made again without memory, to see that it is the same."""
    kind = type(module)
    if isinstance(module, FunctionalModel):
        return {"class": NET, "config": get_config(module)}
    if kind is nn.Sequential:
        return {"class": ROW,
                "layers": {key: describe(child, f"{name}.{key}") for key, child in module.named_children()}}
    own = getattr(module, "get_config", None)
    taken = own() if callable(own) else arguments(module, name)
    described = {"class": class_name(kind), "arguments": {key: told_argument(one, f"{name}.{key}")
                                                          for key, one in taken.items()}}
    dtype = next((one.dtype for one in module.parameters() if one.is_floating_point()), torch.float32)
    described["dtype"] = str(dtype).removeprefix("torch.")
    with torch.device("meta"):
        twin = construct(described, {type(one).__name__: type(one) for one in module.modules()})
    if repr(twin) != repr(module) or form(twin) != form(module):
        raise bad_value(name, received=f"a {kind.__name__} that its arguments do not make again",
                        expected="a layer that keeps its arguments in attributes of their names",
                        fix=f"Give {kind.__name__} a get_config() that returns its arguments as a dict.")
    return described


def form(module: nn.Module) -> dict[str, Any]:
    """The names and shapes of a layer's weights."""
    return {name: tuple(one.shape) for name, one in module.state_dict().items() if isinstance(one, Tensor)}


def told_argument(value: Any, name: str) -> Any:
    """An argument of a layer, which may be a layer."""
    return {"layer": describe(value, name)} if isinstance(value, nn.Module) else told(value)


def class_name(kind: type) -> str:
    """By what name a class is found again."""
    if getattr(nn, kind.__name__, None) is kind:
        return f"torch.nn.{kind.__name__}"
    return f"torchkeras.functional.{kind.__name__}" if OWN.get(kind.__name__) is kind else kind.__name__


def arguments(module: nn.Module, name: str) -> dict[str, Any]:
    """The arguments of a layer's constructor, from its attributes of their names."""
    kind = type(module)
    recurrent = isinstance(module, nn.RNNBase) and kind.__module__.startswith("torch.nn.")
    own = kind.__init__ is not nn.Module.__init__
    asked = inspect.signature(nn.RNNBase if recurrent else kind).parameters if own else {}
    found = {}
    for key, parameter in asked.items():
        source = ELSEWHERE.get((kind, key), key)
        if key in ("device", "dtype") or key.startswith("_") or beside(module, parameter):
            continue
        if not hasattr(module, source) or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise bad_value(name, received=f"a {kind.__name__} that does not keep its argument {key!r}",
                            expected="a layer that keeps its arguments in attributes of their names",
                            fix=f"Give {kind.__name__} a get_config() that returns its arguments as a dict.")
        value = getattr(module, source)
        # a layer has its bias under the name of the argument that asks for one
        asks = source != key or key == "bias"
        found[key] = value is not None if asks and not isinstance(value, bool) else value
    return found


def beside(module: nn.Module, parameter: inspect.Parameter) -> bool:
    """Whether torch's layer does without an argument: an older name for another, or one of other recurrent layers."""
    if not type(module).__module__.startswith("torch.nn."):
        return False
    if isinstance(module, nn.RNNBase):
        return parameter.name == "mode" or (parameter.name == "proj_size" and not module.proj_size)
    return parameter.default is None and not hasattr(module, parameter.name)


def construct(described: Mapping[str, Any], custom: Mapping[str, Any]) -> nn.Module:
    """A layer from its description; classes come from torch.nn, this package and ``custom_objects`` only."""
    name = described["class"]
    if name == NET:
        return made(described["config"], custom)
    with explained(f"a layer of class {name[:60]!r}"):
        if name == ROW:
            return nn.Sequential(OrderedDict((key, construct(one, custom))
                                             for key, one in described["layers"].items()))
        kind = known_class(name, custom)
        taken = {key: construct(one["layer"], custom) if isinstance(one, Mapping) and "layer" in one else meant(one, {})
                 for key, one in described["arguments"].items()}
        make = getattr(kind, "from_config", None)
        layer = make(taken) if callable(make) else kind(**taken)
        return layer.to(dtype_of(described["dtype"]))


def known_class(name: str, custom: Mapping[str, Any]) -> Any:
    """A class that may be made."""
    home, _, short = name.rpartition(".")
    found = custom.get(name) if not home else vars(nn).get(short) if home == "torch.nn" else OWN.get(
        short) if home == "torchkeras.functional" else None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise wrong(f"the class {name[:60]!r}", "a layer of torch.nn, of torchkeras.functional or of custom_objects",
                    did_you_mean(short[:60], [*custom, *OWN]) or f"Pass custom_objects={{{short[:60]!r}: ...}}.")
    return found


