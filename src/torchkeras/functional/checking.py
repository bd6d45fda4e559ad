"""Checks of a config before anything is made from it: it may come from anybody.

The source of ``forward`` is generated from its names and keys, and classes are called with its
numbers. So names must be plain, nesting must end, and the weights must fit into the memory that the
caller allows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torchkeras.core.errors import bad_value, did_you_mean
from torchkeras.core.types import Value
from torchkeras.functional.data import DECODERS, dtype_of
from torchkeras.functional.plan import is_plain_name

VERSION = 1
MOST_VALUES, DEEPEST, LONGEST = 300_000, 100, 1_000  # values in all, levels, letters of a text
MOST_REPEATS = MOST_PIECES = 1_000  # layers within a layer, pieces of a tensor
KINDS = ("input", "tensor", "module", "function", "method", "attribute")
FUNCTIONAL, SEQUENTIAL = "torchkeras.functional.FunctionalModel", "torch.nn.Sequential"


def config_error(received: str, expected: str, fix: str = "") -> ValueError:
    """Return the error for a bad config."""
    return bad_value("config", received=received, expected=expected, fix=fix)


def shortened(value: object) -> str:
    """Return a short text for a value, however long or deep it is."""
    if isinstance(value, (Mapping, list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number of more than 64 bits"
    return repr(value)[:60]


def check_config(config: object) -> None:
    """Refuse anything that is not a valid config of a net."""
    if (not isinstance(config, Mapping) or type(config.get("version")) is not int
            or config["version"] != VERSION):
        raise config_error(shortened(config), f"what get_config() returned, version {VERSION}")
    check_size(config)
    check_net(config)


def check_size(config: object) -> None:
    """Refuse data that are too large, too deep or cyclic, or that JSON has no form for."""
    waiting: list[Iterator[Any]] = [iter([config])]
    seen = 0
    while waiting:
        value = next(waiting[-1], waiting)
        if value is waiting:
            waiting.pop()
            continue
        inside = items_in(value)
        seen += 1 + len(inside)
        if inside:
            waiting.append(iter(inside))
        if len(waiting) > DEEPEST or seen > MOST_VALUES:
            raise config_error(
                f"more than {DEEPEST} levels of nesting" if len(waiting) > DEEPEST else
                f"more than {MOST_VALUES:,} values", "the config of a net")


def items_in(value: object) -> Collection[Any]:
    """Return a container's items; refuse values that JSON has no form for."""
    if isinstance(value, Mapping):
        for key in value:
            check_text(key)
        return value.values()
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, str):
        check_text(value)
    elif not (value is None or isinstance(value, (bool, float)) or
              (isinstance(value, int) and abs(value) < 1 << 63)):
        raise config_error(shortened(value), "dicts, lists, texts, and numbers of 64 bits")
    return ()


def check_text(text: object) -> None:
    """Refuse what is not a string, and strings that are too long."""
    if not isinstance(text, str) or len(text) > LONGEST:
        raise config_error(f"{shortened(text)} for a text", f"texts of {LONGEST:,} letters at most")


def field_of(owner: object, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Return ``owner[key]``; refuse it when missing or of another type."""
    value = owner.get(key) if isinstance(owner, Mapping) else None
    wants_bool = kind is bool
    if not isinstance(value, kind) or (isinstance(value, bool) and not wants_bool):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise config_error(f"{shortened(value)} for {key!r} of {where}", f"a {names}")
    return value


def check_net(config: Mapping[str, Any]) -> None:
    """Check the nodes, layers and outputs of a net, and of the nets inside it."""
    if config.get("version") != VERSION:
        raise config_error(f"version {shortened(config.get('version'))}",
                           f"what get_config() returned, version {VERSION}")
    layers = field_of(config, "layers", Mapping, "the net")
    for name, layer in layers.items():
        if not is_plain_name(name):
            raise config_error(f"the name {shortened(name)} of a layer",
                               "names that an attribute can have")
        check_layer(layer, name)
    known: set[str] = set()
    for place, node in enumerate(field_of(config, "nodes", (list, tuple), "the net")):
        check_node(node, f"node {place}", layers, known)
        known.add(node["name"])
    called = {node["target"] for node in config["nodes"] if node["kind"] == "module"}
    if idle := next((name for name in layers if name not in called), None):
        raise config_error(f"the layer {idle!r}, which no node calls", "layers that are used")
    if "outputs" not in config:
        raise config_error("no outputs", "what get_config() returned")
    check_value(config["outputs"], known, "the outputs")


def check_node(node: Value, where: str, layers: Mapping[str, Any], known: set[str]) -> None:
    """Check one node, which may take values from earlier nodes only."""
    name, kind, target = (field_of(node, key, str, where) for key in ("name", "kind", "target"))
    where = f"the node {name[:60]!r}"
    if not is_plain_name(name) or name in known:
        raise config_error(where + (" for the second time" if name in known else ""),
                           "a plain name, another for each node")
    if kind not in KINDS:
        raise config_error(f"the kind {kind[:60]!r} of {where}",
                           ", ".join(KINDS) + ": what torch can record")
    if kind in ("input", "tensor"):
        return check_source_node(node, kind, where)
    if kind == "module" and target not in layers:
        raise config_error(f"the layer {target[:60]!r} of {where}", "one of the layers",
                           did_you_mean(target, layers))
    return check_call(node, known, where)


def check_source_node(node: Mapping[str, Any], kind: str, where: str) -> None:
    """Check the shape and dtype of an input or a tensor."""
    sizes = field_of(node, "shape", (list, tuple), where)
    if len(sizes) > 64 or not all(type(size) is int and size >= 0 for size in sizes):
        raise config_error(f"the shape {str(sizes)[:60]} of {where}", "sizes")
    dtype_of(field_of(node, "dtype", str, where))
    if kind == "tensor":
        field_of(node, "parameter", bool, where)


def check_call(node: Mapping[str, Any], known: set[str], where: str) -> None:
    """Check the arguments of a layer, function, method or attribute."""
    args, kwargs = field_of(node, "args", Mapping, where), field_of(node, "kwargs", Mapping, where)
    check_value(args, known, where)
    check_value(kwargs, known, where)
    if "tuple" not in args or "dict" not in kwargs:
        raise config_error(
            f"{shortened(args)} and {shortened(kwargs)} for the arguments of {where}",
            "a tuple and a dict")
    for key, _ in kwargs["dict"]:
        if not is_plain_name(key):
            raise config_error(f"the argument {shortened(key)} of {where}",
                               "a name that an argument can have")


def check_value(value: object, known: set[str], where: str) -> None:
    """Check an argument in the form of :func:`torchkeras.functional.data.encode`."""
    if isinstance(value, (list, tuple)):
        raise config_error(f"{shortened(value)} in {where}",
                           "containers as get_config() writes them")
    if not isinstance(value, Mapping):
        return
    if "ref" in value:
        check_ref(value, known, where)
        return
    kind = next(iter(value), "")
    if kind not in DECODERS or len(value) != 1:
        raise config_error(f"a value of kind {kind[:60]!r}", ", ".join(DECODERS))
    if kind in ("torch", "device", "float"):
        field_of(value, kind, str, where)
    elif kind != "ellipsis":
        for item in items_of(value, kind, where):
            check_value(item, known, where)


def items_of(value: Mapping[str, Any], kind: str, where: str) -> list[Any]:
    """Return the items of an encoded container."""
    items = field_of(value, kind, (list, tuple), where)
    if kind == "slice" and len(items) != 3:
        raise config_error(f"a slice of {len(items)} in {where}", "start, stop and step")
    return [value_of_pair(item, where) for item in items] if kind == "dict" else list(items)


def check_ref(value: Mapping[str, Any], known: set[str], where: str) -> None:
    """Check a reference to the output of an earlier node."""
    path = field_of(value, "path", (list, tuple), where)
    if field_of(value, "ref", str, where) not in known:
        raise config_error(f"a value from {value['ref'][:60]!r} in {where}",
                           "values from nodes before")
    if not all(type(key) in (str, int) for key in path):
        raise config_error(f"the path {str(path)[:60]} in {where}", "places and names")


def value_of_pair(pair: object, where: str) -> Any:
    """Return the value of a (key, value) pair; refuse anything else."""
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or (
            isinstance(pair[0], (Mapping, list, tuple))):
        raise config_error(f"{shortened(pair)} in {where}", "pairs of a key and a value")
    return pair[1]


def check_layer(layer: object, name: str) -> None:
    """Check the description of a layer, and of the layers inside it."""
    kind = field_of(layer, "class", str, f"the layer {name[:60]!r}")
    if kind == FUNCTIONAL:
        return check_net(field_of(layer, "config", Mapping, f"the layer {name[:60]!r}"))
    if kind == SEQUENTIAL:
        for key, one in field_of(layer, "layers", Mapping, f"the layer {name[:60]!r}").items():
            check_layer(one, f"{name}.{key}")
        return None
    dtype_of(field_of(layer, "dtype", str, f"the layer {name[:60]!r}"))
    for key, value in field_of(layer, "arguments", Mapping, f"the layer {name[:60]!r}").items():
        if not is_plain_name(key):
            raise config_error(f"the argument {shortened(key)} of {name[:60]!r}",
                               "names that an argument can have")
        repeats = key.startswith("num_") and key.endswith("layers")
        if kind.startswith("torch.nn.") and (key in ("device", "dtype") or (
                repeats and not 0 < _size(value) <= MOST_REPEATS)):
            raise config_error(f"{key}={shortened(value)} of {name[:60]!r}",
                               f"at most {MOST_REPEATS:,} layers in one, and no place")
        if isinstance(value, Mapping) and "layer" in value:
            check_layer(value["layer"], f"{name}.{key}")
        else:
            check_value(value, set(), f"the layer {name[:60]!r}")
    return None


def _size(value: object) -> float:
    return value if isinstance(value, int) else math.inf
