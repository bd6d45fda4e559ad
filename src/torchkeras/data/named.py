"""Names of functions, classes and their options, by which a later process finds out whether they are the same."""

from __future__ import annotations

import functools
import hashlib
import sys
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.data.fingerprint import digest

PYTHON = f"code of Python {sys.version_info.major}.{sys.version_info.minor}"  # another one makes other code
FEW = 64  # numbers of a list that are written down


def name_of(one: Any) -> str:
    """Return the name of a class or function; of another object, that of its class. A script's own have no module."""
    if isinstance(one, functools.partial):
        return f"partial of {name_of(one.func)}"
    named = one if hasattr(one, "__qualname__") else type(one)
    module = getattr(named, "__module__", None)
    return named.__qualname__ if module in (None, "__main__") else f"{module}.{named.__qualname__}"


def simple(value: Any) -> bool:
    """Return whether a value can be written down and compared: a number, a text, a short list of these."""
    if isinstance(value, (list, tuple)):
        return len(value) <= FEW and all(map(simple, value))
    return value is None or isinstance(value, (bool, int, float, str))


def described(one: Any) -> dict[str, str]:
    """Return what is known of a function or an object that is called: names, code and options, flat and as text."""
    if one is None:
        return {"kind": "None"}
    found = {"kind": name_of(one)}
    if isinstance(one, nn.Module):
        for name, module in one.named_modules():
            at = f"{name}." if name else ""
            found |= {f"{at}kind": name_of(module), **options(at, vars(module))}
        if not any(True for _ in one.parameters()):  # else they are put back with these
            found |= {name: digest(value) for name, value in one.named_buffers()}
        return found
    if isinstance(one, functools.partial):
        return {**found, **{f"function.{name}": text for name, text in described(one.func).items()},
                **options("", {**dict(enumerate(one.args)), **one.keywords})}
    if isinstance(one, MethodType):
        return {**found, **described(one.__func__), **described_object(one.__self__)}
    if isinstance(one, FunctionType):
        return found | of_function(one)
    return found | described_object(one)


def described_object(one: Any) -> dict[str, str]:
    """Return the options that an object holds."""
    return options("", getattr(one, "__dict__", {}))


def of_function(function: FunctionType) -> dict[str, str]:
    """Return a checksum of a function's code, and the options that it holds."""
    names, cells = function.__code__.co_freevars, function.__closure__ or ()
    held = {}
    for name, cell in zip(names, cells, strict=False):
        try:
            held[name] = cell.cell_contents
        except ValueError:  # a variable without a value yet
            continue
    defaults = dict(enumerate(function.__defaults__ or ())) | (function.__kwdefaults__ or {})
    return {PYTHON: checksum(function.__code__, function.__doc__),
            **options("variable ", held), **options("default ", defaults)}


def options(at: str, values: Any) -> dict[str, str]:
    """Return public values that can be compared, as text."""
    found = {}
    for name, value in values.items():
        if str(name).startswith("_") or name == "training":
            continue
        if simple(value):
            found[f"{at}{name}"] = repr(value)
        elif isinstance(value, Tensor) and value.layout == torch.strided and not isinstance(value, nn.Parameter):
            found[f"{at}{name}"] = digest(value)
        elif isinstance(value, FunctionType):
            found |= {f"{at}{name}.{key}": text for key, text in {"kind": name_of(value), PYTHON: checksum(
                value.__code__, value.__doc__)}.items()}
    return found


def checksum(code: CodeType, doc: str | None = None) -> str:
    """Return a checksum of what code does; where it is written and what it says of itself do not count."""
    found = hashlib.sha256(code.co_code)
    found.update(repr(code.co_names).encode())
    for one in code.co_consts:
        if isinstance(one, CodeType):
            found.update(checksum(one).encode())
        elif one != doc or doc is None:
            found.update((repr(sorted(map(repr, one))) if isinstance(one, frozenset) else repr(one)).encode())
    return found.hexdigest()[:12]
