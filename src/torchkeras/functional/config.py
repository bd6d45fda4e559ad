"""The structure of a net as JSON-ready data, and back; weight values are not included."""

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
from torchkeras.core.types import Value
from torchkeras.functional import layers
from torchkeras.functional.building import build
from torchkeras.functional.checking import (
    FUNCTIONAL,
    MOST_PIECES,
    SEQUENTIAL,
    VERSION,
    check_config,
    config_error,
)
from torchkeras.functional.data import decode, dtype_of, encode
from torchkeras.functional.drawing import Input
from torchkeras.functional.model import FunctionalModel, conversions
from torchkeras.functional.plan import INFIX, SWAPPED, Node
from torchkeras.functional.symbol import BATCH, VALUE_READS, Symbol, leaves, symbolic_leaves

OWN_LAYERS = {
    name: kind for name, kind in vars(layers).items()
    if isinstance(kind, type) and issubclass(kind, nn.Module) and not name.startswith("_")}
BATCH_MATH = {
    f"operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod")}
MOST_BYTES = 1 << 30  # of weights, unless the caller allows more
ATTRIBUTE_NAMES: dict[tuple[type, str], str] = {
    (nn.MultiheadAttention, "bias"): "in_proj_bias",
    (nn.MultiheadAttention, "add_bias_kv"): "bias_k"}


def get_config(net: FunctionalModel) -> dict[str, Any]:
    """Return the structure of a net; see :meth:`FunctionalModel.get_config`."""
    nodes = [{
        "name": node.name, "kind": node.kind, "target": node.target, "args": encode(node.args),
        "kwargs": encode(node.kwargs), **(source_fields(net, node))} for node in net.plan.nodes]
    parts = {name: describe(module, name) for name, module in net.named_children()}
    return {
        "version": VERSION, "nodes": nodes, "layers": parts, "outputs": encode(net.plan.outputs)}


def source_fields(net: FunctionalModel, node: Node) -> dict[str, Any]:
    """Return shape and dtype of an input or a tensor; nothing for other nodes."""
    if node.kind not in ("input", "tensor"):
        return {}
    shape = node.shapes[0][1:] if node.kind == "input" else node.shapes[0]
    held = getattr(net, node.target, None) if node.kind == "tensor" else None
    return {"shape": list(shape), "dtype": str(node.dtype).removeprefix("torch."),
            "parameter": isinstance(held, nn.Parameter)}


def from_config(config: Mapping[str, Any], custom_objects: Mapping[str, Any] | None = None,
                max_bytes: int = MOST_BYTES) -> FunctionalModel:
    """Return a net with new weights; see :meth:`FunctionalModel.from_config`."""
    custom = dict(custom_objects or {})
    check_config(config)
    check_memory(config, custom, max_bytes)
    return build_checked(config, custom)


def build_checked(config: Mapping[str, Any], custom: Mapping[str, Any]) -> FunctionalModel:
    """Return the net of a config that has been checked."""
    parts = {name: construct(one, custom) for name, one in config["layers"].items()}
    given: dict[str, Any] = {}
    for node in config["nodes"]:
        with explain_errors(f"the node {node['name']!r}"):
            given[node["name"]] = redraw(node, parts, given, custom)
    inputs = {
        node["name"]: given[node["name"]] for node in config["nodes"] if node["kind"] == "input"}
    with explain_errors("outputs"):
        return build(inputs, decode(config["outputs"], given), names=parts)


@contextmanager
def explain_errors(what: str) -> Iterator[None]:
    """Re-raise a foreign error as one that names the part of the config where it arose."""
    try:
        yield
    except Exception as error:
        if "user_mistake" in vars(error) or isinstance(error, Warning):
            raise
        raise config_error(
            f"{what}, which cannot be made", "what get_config() returned",
            f"{type(error).__name__}: {(str(error) or 'nothing more').splitlines()[0][:200]}"
        ) from error


def check_memory(config: Mapping[str, Any], custom: Mapping[str, Any], most: int) -> None:
    """Refuse weights of more than ``most`` bytes; they are counted on the meta device."""
    whole_number("max_bytes", most, least=0)
    count = 0
    for name, size in net_bytes(config, custom):
        count += size
        if count > most:
            raise config_error(
                f"weights of {count:,} bytes up to {name[:60]!r}", f"at most {most:,}",
                "Pass a larger max_bytes if you trust the config and have the memory.")


def net_bytes(config: Mapping[str, Any], custom: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield name and bytes of each tensor and layer, nested nets included."""
    for node in config["nodes"]:
        if node["kind"] == "tensor":
            yield node["name"], math.prod(node["shape"]) * dtype_of(node["dtype"]).itemsize
    for name, described in config["layers"].items():
        yield from layer_bytes(described, name, custom)


def layer_bytes(described: Mapping[str, Any], name: str,
                custom: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield the bytes of a layer and of those inside it, each before the next is made."""
    if described["class"] == FUNCTIONAL:
        yield from net_bytes(described["config"], custom)
    elif described["class"] == SEQUENTIAL:
        for key, one in described["layers"].items():
            yield from layer_bytes(one, f"{name}.{key}", custom)
    else:
        for key, one in described["arguments"].items():
            if isinstance(one, Mapping) and "layer" in one:
                yield from layer_bytes(one["layer"], f"{name}.{key}", custom)
        with torch.device("meta"), explain_errors(f"the layer {name!r}"):
            layer = construct(described, custom)
            tensors = [*layer.parameters(), *layer.buffers()]
            if any(map(is_lazy, tensors)):
                raise config_error(f"{name!r}, a {type(layer).__name__} without sizes",
                                   "layers with sizes")
        yield name, sum(one.numel() * one.element_size() for one in tensors)


def redraw(node: Mapping[str, Any], parts: Mapping[str, nn.Module], given: Mapping[str, Any],
           custom: Mapping[str, Any]) -> Any:
    """Draw one node again."""
    kind, target = node["kind"], node["target"]
    if kind == "input":
        return Input(tuple(node["shape"]), dtype_of(node["dtype"]), node["name"])
    if kind == "tensor":
        zeros = torch.zeros(node["shape"], dtype=dtype_of(node["dtype"]))
        return nn.Parameter(zeros) if node["parameter"] else zeros
    call = parts[target] if kind == "module" else recordable_call(kind, target, custom)
    args, kwargs = decode(node["args"], given), decode(node["kwargs"], given)
    if next(symbolic_leaves((args, kwargs)), None) is None:  # torch would compute it now
        raise config_error(f"{node['name']!r}, which takes nothing from the net",
                           "nodes that take values")
    check_pieces(node, args, kwargs)
    return call(*args, **kwargs)


def check_pieces(node: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse a node that makes too many pieces, each of which would have to be recorded."""
    numbers = [one for one in leaves((args[1:], kwargs)) if type(one) is int and one > 0]
    if re.search(r"diff|histogram|lowrank|combinations|(^|\.)index$", node["target"]):
        return check_piece_count(node, max(numbers, default=0))
    if not re.search(r"(split|chunk|unbind|__iter__)[a-z_]*$", node["target"]):
        return None
    sizes = [
        size for one in leaves((args, kwargs)) if isinstance(one, Symbol)
        for size in one.value.shape]
    longest = max((size for size in sizes if size % BATCH), default=1)
    count = next(iter(numbers), None)
    if count is None or re.search(r"unbind|__iter__", node["target"]):
        pieces = longest
    elif re.search(r"(^|[._])split$", node["target"]) and "tensor_" not in node["target"]:
        pieces = longest // count  # a size; the others take a number of pieces
    else:
        pieces = count
    return check_piece_count(node, pieces)


def check_piece_count(node: Mapping[str, Any], count: int) -> None:
    """Refuse more than ``MOST_PIECES`` pieces or repetitions."""
    if count > MOST_PIECES:
        raise config_error(f"{node['name']!r}, which makes {count:,} pieces or repetitions",
                           f"at most {MOST_PIECES:,}")


def recordable_call(kind: str, target: str, custom: Mapping[str, Any]) -> Callable[..., Any]:
    """Return a function, method or attribute that torch can record; refuse all others."""
    if kind == "function" and target in custom:
        own: Callable[..., Any] = custom[target]
        return own
    key = {
        "function": target, "method": f"torch.Tensor.{target}",
        "attribute": f"torch.Tensor.{target}.__get__"}.get(kind, "")
    found = BATCH_MATH.get(key) or recordable().get(key)
    hidden = target.startswith("_") and target not in {
        *INFIX, *SWAPPED, "__invert__", "__lshift__", "__rshift__"}
    if found is None or target in VALUE_READS or hidden:
        raise config_error(f"the {kind} {target[:60]!r}", "what torch can record on tensors",
                           did_you_mean(key[:60], recordable()) or "Pass it in custom_objects.")
    return found


@functools.cache
def recordable() -> dict[str, Callable[..., Any]]:
    """Return by name the tensor functions, methods and attributes that torch can record."""
    listed = [
        function for group in torch.overrides.get_overridable_functions().values()
        for function in group]
    return {
        name: function for function in listed
        if (name := torch.overrides.resolve_name(function)) is not None}


def describe(module: nn.Module, name: str) -> dict[str, Any]:
    """Return a layer's class and constructor arguments; check that they make the same layer."""
    kind = type(module)
    if isinstance(module, FunctionalModel):
        return {"class": FUNCTIONAL, "config": get_config(module)}
    if kind is nn.Sequential:
        inside = {key: describe(child, f"{name}.{key}") for key, child in module.named_children()}
        return {"class": SEQUENTIAL, "layers": inside}
    own = getattr(module, "get_config", None)
    taken = own() if callable(own) else constructor_arguments(module, name)
    described = {"class": class_name(kind), "arguments": {key: encode_argument(one, f"{name}.{key}")
                                                          for key, one in taken.items()}}
    dtype = next((one.dtype for one in module.parameters() if one.is_floating_point()),
                 torch.float32)
    described["dtype"] = str(dtype).removeprefix("torch.")
    with torch.device("meta"):
        twin = construct(described, {type(one).__name__: type(one) for one in module.modules()})
    if repr(twin) != repr(module) or state_shapes(twin) != state_shapes(module):
        raise bad_value(
            name, received=f"a {kind.__name__} that its arguments do not make again",
            expected="a layer that keeps its arguments in attributes of their names",
            fix=f"Give {kind.__name__} a get_config() that returns its arguments as a dict.")
    return described


def state_shapes(module: nn.Module) -> dict[str, Any]:
    """Return the names and shapes of a layer's weights."""
    return {
        name: tuple(one.shape) for name, one in module.state_dict().items()
        if isinstance(one, Tensor)}


def encode_argument(value: Value, name: str) -> Any:
    """Return a layer's argument, itself perhaps a layer, in JSON form."""
    return {"layer": describe(value, name)} if isinstance(value, nn.Module) else encode(value)


def class_name(kind: type) -> str:
    """Return the name by which :func:`known_class` finds a class."""
    if getattr(nn, kind.__name__, None) is kind:
        return f"torch.nn.{kind.__name__}"
    own = OWN_LAYERS.get(kind.__name__) is kind
    return f"torchkeras.functional.{kind.__name__}" if own else kind.__name__


def constructor_arguments(module: nn.Module, name: str) -> dict[str, Any]:
    """Return the constructor arguments of a layer, read from attributes of the same names."""
    kind = type(module)
    recurrent = isinstance(module, nn.RNNBase) and kind.__module__.startswith("torch.nn.")
    own = kind.__init__ is not nn.Module.__init__
    asked = inspect.signature(nn.RNNBase if recurrent else kind).parameters if own else {}
    found = {}
    for key, parameter in asked.items():
        source = ATTRIBUTE_NAMES.get((kind, key), key)
        if key in ("device", "dtype") or key.startswith("_") or is_not_needed(module, parameter):
            continue
        if not hasattr(module, source) or parameter.kind in (
                parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise bad_value(
                name, received=f"a {kind.__name__} that does not keep its argument {key!r}",
                expected="a layer that keeps its arguments in attributes of their names",
                fix=f"Give {kind.__name__} a get_config() that returns its arguments as a dict.")
        value = getattr(module, source)
        # the attribute named like the argument ``bias`` (a bool) is the bias itself, or None
        asks = source != key or key == "bias"
        found[key] = value is not None if asks and not isinstance(value, bool) else value
    return found


def is_not_needed(module: nn.Module, parameter: inspect.Parameter) -> bool:
    """Tell whether a torch layer needs no value for this argument."""
    if not type(module).__module__.startswith("torch.nn."):
        return False
    if isinstance(module, nn.RNNBase):
        return parameter.name == "mode" or (parameter.name == "proj_size" and not module.proj_size)
    return parameter.default is None and not hasattr(module, parameter.name)


def construct(described: Mapping[str, Any], custom: Mapping[str, Any]) -> nn.Module:
    """Return a layer from its description; classes are those of :func:`known_class` only."""
    name = described["class"]
    if name == FUNCTIONAL:
        return build_checked(described["config"], custom)
    with explain_errors(f"a layer of class {name[:60]!r}"):
        if name == SEQUENTIAL:
            return nn.Sequential(OrderedDict((key, construct(one, custom))
                                             for key, one in described["layers"].items()))
        kind = known_class(name, custom)
        taken = {
            key: construct(one["layer"], custom) if isinstance(one, Mapping) and "layer" in one
            else decode(one, {}) for key, one in described["arguments"].items()}
        make = getattr(kind, "from_config", None)
        layer: nn.Module = make(taken) if callable(make) else kind(**taken)
        return layer.to(dtype_of(described["dtype"]))


def known_class(name: str, custom: Mapping[str, Any]) -> Any:
    """Return a class of torch.nn, of this package or of ``custom_objects``; refuse others."""
    home, _, short = name.rpartition(".")
    homes = {"": custom, "torch.nn": vars(nn), "torchkeras.functional": OWN_LAYERS}
    found = homes.get(home, {}).get(short if home else name)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise config_error(
            f"the class {name[:60]!r}",
            "a layer of torch.nn, of torchkeras.functional or of custom_objects",
            did_you_mean(short[:60], [*custom, *OWN_LAYERS])
            or f"Pass custom_objects={{{short[:60]!r}: ...}}.")
    return found


conversions.get_config, conversions.from_config = get_config, from_config
