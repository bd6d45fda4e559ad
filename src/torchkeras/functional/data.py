"""Conversion of arguments to JSON-ready data, and back."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.types import Value
from torchkeras.functional.plan import Ref


def dtype_of(name: str) -> torch.dtype:
    """Return the dtype of a name: ``torch.float32`` for "float32"."""
    found = vars(torch).get(name) if isinstance(name, str) else None
    if not isinstance(found, torch.dtype):
        raise bad_value("config", received=f"the dtype {str(name)[:60]!r}",
                        expected="a dtype such as 'float32'")
    return found


ENCODERS: list[tuple[Any, Callable[[Any], Any]]] = [
    (Ref, lambda value: {"ref": value.name, "path": list(value.path)}),
    ((torch.dtype, torch.memory_format, torch.layout),
     lambda value: {"torch": str(value).removeprefix("torch.")}),
    (torch.device, lambda value: {"device": str(value)}),
    (dict, lambda value: {"dict": [[key, encode(item)] for key, item in value.items()]}),
    (tuple, lambda value: {"tuple": [encode(item) for item in value]}),
    (list, lambda value: {"list": [encode(item) for item in value]}),
    (slice,
     lambda value: {"slice": [encode(item) for item in (value.start, value.stop, value.step)]}),
    (type(...), lambda value: {"ellipsis": True}),
    (float, lambda value: value if math.isfinite(value) else {"float": str(value)}),
    ((bool, int, str, type(None)), lambda value: value),
]


def encode(value: Value) -> Any:
    """Return a value in a form that JSON can hold."""
    for kind, write in ENCODERS:
        if isinstance(value, kind):
            return write(value)
    raise bad_type("get_config", received=f"an argument of type {type(value).__name__}",
                   expected="numbers, texts, dtypes, devices and containers of them",
                   fix="Give the layer a get_config() that returns its arguments.")


DECODERS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "torch": lambda name, given: torch_constant(name),
    "device": lambda name, given: torch.device(name),
    "dict": lambda items, given: {key: decode(item, given) for key, item in items},
    "tuple": lambda items, given: tuple(decode(item, given) for item in items),
    "list": lambda items, given: [decode(item, given) for item in items],
    "slice": lambda items, given: slice(*(decode(item, given) for item in items)),
    "ellipsis": lambda _, given: ...,
    "float": lambda text, given: float(text),
}


def decode(value: Value, given: Mapping[str, Any]) -> Any:
    """Return the value that :func:`encode` was given."""
    if not isinstance(value, Mapping):
        return value
    if "ref" in value:
        return functools.reduce(lambda found, key: found[key], value["path"], given[value["ref"]])
    kind = next(iter(value), "")
    if kind not in DECODERS:
        raise bad_value("config", received=f"a value of kind {kind!r}",
                        expected=", ".join(DECODERS))
    return DECODERS[kind](value[kind], given)


def torch_constant(name: str) -> Any:
    """Return a dtype, memory format or layout by its name."""
    found = vars(torch).get(name)  # getattr would import a part of torch by its name
    if not isinstance(found, (torch.dtype, torch.memory_format, torch.layout)):
        raise bad_value("config", received=f"torch.{name}",
                        expected="a dtype, memory format or layout")
    return found
