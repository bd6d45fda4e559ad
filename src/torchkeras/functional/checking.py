"""A config looked over before anything is made of it: it may come from anybody.

The source of ``forward`` is written from names and keys, and classes are called with its numbers. So names must be
plain, what is nested must have an end, and the weights must fit into the memory that the caller allows.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torchkeras.core.errors import bad_value, did_you_mean
from torchkeras.functional.data import READERS, dtype_of
from torchkeras.functional.plan import is_plain

VERSION = 1
MOST_VALUES, DEEPEST, LONGEST = 300_000, 100, 1_000  # values in all, levels of nesting, letters of a text
MOST_REPEATS = MOST_PIECES = 1_000  # layers within a layer, pieces of a tensor
KINDS = ("input", "tensor", "module", "function", "method", "attribute")
NET, ROW = "torchkeras.functional.FunctionalModel", "torch.nn.Sequential"


def wrong(received: str, expected: str, fix: str = "") -> ValueError:
    """The error for a config."""
    return bad_value("config", received=received, expected=expected, fix=fix)


def short(value: Any) -> str:
    """A value in a few letters, however long or deep it is."""
    if isinstance(value, (Mapping, list, tuple)):
        return f"a {type(value).__name__} of {len(value)}"
    return repr(value)[:60] if not isinstance(value, int) or abs(value) < 1 << 64 else "a number of more than 64 bits"


def check_config(config: Any) -> None:
    """Refuse what is no config of a net, whatever it holds instead."""
    if not isinstance(config, Mapping) or type(config.get("version")) is not int or config["version"] != VERSION:
        raise wrong(short(config), f"what get_config() gave, version {VERSION}")
    check_extent(config)
    check_net(config)


def check_extent(config: Any) -> None:
    """Refuse data that are too many or too deep, that JSON has no form for, or that hold themselves."""
    waiting: list[Iterator[Any]] = [iter([config])]
    seen = 0
    while waiting:
        value = next(waiting[-1], waiting)
        if value is waiting:
            waiting.pop()
            continue
        inside = held(value)
        seen += 1 + len(inside)
        if inside:
            waiting.append(iter(inside))
        if len(waiting) > DEEPEST or seen > MOST_VALUES:
            raise wrong(f"more than {DEEPEST} levels of nesting" if len(waiting) > DEEPEST else
                        f"more than {MOST_VALUES:,} values", "the config of a net")


def held(value: Any) -> Collection[Any]:
    """What a container holds; what is none and no plain value is refused."""
    if isinstance(value, Mapping):
        for key in value:
            check_text(key)
        return value.values()
    if isinstance(value, (list, tuple)):
        return value
    if isinstance(value, str):
        check_text(value)
    elif not (value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 1 << 63)):
        raise wrong(short(value), "dicts, lists, texts, and numbers of 64 bits")
    return ()


def check_text(text: Any) -> None:
    """Refuse a text that is none, or too long."""
    if not isinstance(text, str) or len(text) > LONGEST:
        raise wrong(f"{short(text)} for a text", f"texts of {LONGEST:,} letters at most")


def part(owner: Any, key: str, kind: type | tuple[type, ...], where: str) -> Any:
    """What stands under a key, of the kind that it must have."""
    value = owner.get(key) if isinstance(owner, Mapping) else None
    wants_bool = kind is bool
    if not isinstance(value, kind) or (isinstance(value, bool) and not wants_bool):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise wrong(f"{short(value)} for {key!r} of {where}", f"a {names}")
    return value


def check_net(config: Mapping[str, Any]) -> None:
    """The nodes, layers and outputs of a net, and of the nets within."""
    if config.get("version") != VERSION:
        raise wrong(f"version {short(config.get('version'))}", f"what get_config() gave, version {VERSION}")
    layers = part(config, "layers", Mapping, "the net")
    for name, layer in layers.items():
        if not is_plain(name):
            raise wrong(f"the name {short(name)} of a layer", "names that an attribute can have")
        check_layer(layer, name)
    known: set[str] = set()
    for place, node in enumerate(part(config, "nodes", (list, tuple), "the net")):
        check_node(node, f"node {place}", layers, known)
        known.add(node["name"])
    called = {node["target"] for node in config["nodes"] if node["kind"] == "module"}
    if idle := next((name for name in layers if name not in called), None):
        raise wrong(f"the layer {idle!r}, which no node calls", "layers that are used")
    if "outputs" not in config:
        raise wrong("no outputs", "what get_config() gave")
    check_value(config["outputs"], known, "the outputs")


def check_node(node: Any, where: str, layers: Mapping[str, Any], known: set[str]) -> None:
    """One node, which takes values from those before."""
    name, kind, target = (part(node, key, str, where) for key in ("name", "kind", "target"))
    where = f"the node {name[:60]!r}"
    if not is_plain(name) or name in known:
        raise wrong(where + (" for the second time" if name in known else ""), "a plain name, another for each node")
    if kind not in KINDS:
        raise wrong(f"the kind {kind[:60]!r} of {where}", ", ".join(KINDS) + ": what torch can record")
    if kind in ("input", "tensor"):
        return check_begin(node, kind, where)
    if kind == "module" and target not in layers:
        raise wrong(f"the layer {target[:60]!r} of {where}", "one of the layers", did_you_mean(target, layers))
    return check_call(node, known, where)


def check_begin(node: Mapping[str, Any], kind: str, where: str) -> None:
    """An input or a tensor."""
    sizes = part(node, "shape", (list, tuple), where)
    if len(sizes) > 64 or not all(type(size) is int and size >= 0 for size in sizes):
        raise wrong(f"the shape {str(sizes)[:60]} of {where}", "sizes")
    dtype_of(part(node, "dtype", str, where))
    if kind == "tensor":
        part(node, "parameter", bool, where)


def check_call(node: Mapping[str, Any], known: set[str], where: str) -> None:
    """The arguments of a layer, function, method or attribute."""
    args, kwargs = part(node, "args", Mapping, where), part(node, "kwargs", Mapping, where)
    check_value(args, known, where)
    check_value(kwargs, known, where)
    if "tuple" not in args or "dict" not in kwargs:
        raise wrong(f"{short(args)} and {short(kwargs)} for the arguments of {where}", "a tuple and a dict")
    for key, _ in kwargs["dict"]:
        if not is_plain(key):
            raise wrong(f"the argument {short(key)} of {where}", "a name that an argument can have")


def check_value(value: Any, known: set[str], where: str) -> None:
    """An argument, as :func:`torchkeras.functional.data.told` writes it."""
    if isinstance(value, (list, tuple)):
        raise wrong(f"{short(value)} in {where}", "containers as get_config() writes them")
    if not isinstance(value, Mapping):
        return
    if "ref" in value:
        check_ref(value, known, where)
        return
    kind = next(iter(value), "")
    if kind not in READERS or len(value) != 1:
        raise wrong(f"a value of kind {kind[:60]!r}", ", ".join(READERS))
    if kind in ("torch", "device", "float"):
        part(value, kind, str, where)
    elif kind != "ellipsis":
        for item in items_of(value, kind, where):
            check_value(item, known, where)


def items_of(value: Mapping[str, Any], kind: str, where: str) -> list[Any]:
    """What a container holds, as it is written."""
    items = part(value, kind, (list, tuple), where)
    if kind == "slice" and len(items) != 3:
        raise wrong(f"a slice of {len(items)} in {where}", "start, stop and step")
    return [second(item, where) for item in items] if kind == "dict" else list(items)


def check_ref(value: Mapping[str, Any], known: set[str], where: str) -> None:
    """A value from another node."""
    path = part(value, "path", (list, tuple), where)
    if part(value, "ref", str, where) not in known:
        raise wrong(f"a value from {value['ref'][:60]!r} in {where}", "values from nodes before")
    if not all(type(key) in (str, int) for key in path):
        raise wrong(f"the path {str(path)[:60]} in {where}", "places and names")


def second(pair: Any, where: str) -> Any:
    """The value of a pair of a key and a value."""
    if not isinstance(pair, (list, tuple)) or len(pair) != 2 or isinstance(pair[0], (Mapping, list, tuple)):
        raise wrong(f"{short(pair)} in {where}", "pairs of a key and a value")
    return pair[1]


def check_layer(layer: Any, name: str) -> None:
    """The description of a layer, and of those within."""
    kind = part(layer, "class", str, f"the layer {name[:60]!r}")
    if kind == NET:
        return check_net(part(layer, "config", Mapping, f"the layer {name[:60]!r}"))
    if kind == ROW:
        for key, one in part(layer, "layers", Mapping, f"the layer {name[:60]!r}").items():
            check_layer(one, f"{name}.{key}")
        return None
    dtype_of(part(layer, "dtype", str, f"the layer {name[:60]!r}"))
    for key, value in part(layer, "arguments", Mapping, f"the layer {name[:60]!r}").items():
        if not is_plain(key):
            raise wrong(f"the argument {short(key)} of {name[:60]!r}", "names that an argument can have")
        if kind.startswith("torch.nn.") and (key in ("device", "dtype") or (
                key.startswith("num_") and key.endswith("layers") and not 0 < _size(value) <= MOST_REPEATS)):
            raise wrong(f"{key}={short(value)} of {name[:60]!r}",
                        f"at most {MOST_REPEATS:,} layers in one, and no place")
        if isinstance(value, Mapping) and "layer" in value:
            check_layer(value["layer"], f"{name}.{key}")
        else:
            check_value(value, set(), f"the layer {name[:60]!r}")
    return None


def _size(value: Any) -> float:
    return value if isinstance(value, int) else math.inf
