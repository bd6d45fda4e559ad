"""Describe functions, classes and their options as text, to compare them on resume."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Mapping
from types import CodeType, FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.core.types import Value
from torchkeras.data.fingerprint import digest

# bytecode differs between versions of Python
PYTHON = f"code of Python {sys.version_info.major}.{sys.version_info.minor}"
FEW = 64  # numbers of a list that are written down


def name_of(one: object) -> str:
    """Return the name of a class or function, or of an object's class, with its module.

    A script's own have no module: ``__main__`` says nothing.
    """
    if isinstance(one, functools.partial):
        return f"partial of {name_of(one.func)}"
    named: Any = one if hasattr(one, "__qualname__") else type(one)
    module = getattr(named, "__module__", None)
    return named.__qualname__ if module in (None, "__main__") else f"{module}.{named.__qualname__}"


def is_simple(value: object) -> bool:
    """Tell whether a value can be compared as text: a number, a str, a short list of these."""
    if isinstance(value, (list, tuple)):
        return len(value) <= FEW and all(map(is_simple, value))
    return value is None or isinstance(value, (bool, int, float, str))


def describe(one: object) -> dict[str, str]:
    """Return names, code and options of a function or callable object, flat and as text."""
    if one is None:
        return {"kind": "None"}
    found = {"kind": name_of(one)}
    if isinstance(one, nn.Module):
        for name, module in one.named_modules():
            at = f"{name}." if name else ""
            found |= {f"{at}kind": name_of(module), **options(at, vars(module))}
        if not any(True for _ in one.parameters()):  # else buffers are restored with these
            found |= {name: digest(value) for name, value in one.named_buffers()}
        return found
    if isinstance(one, functools.partial):
        inner = describe(one.func)
        return {**found, **{f"function.{name}": text for name, text in inner.items()},
                **options("", {**dict(enumerate(one.args)), **one.keywords})}
    if isinstance(one, MethodType):
        return {**found, **describe(one.__func__), **describe_object(one.__self__)}
    if isinstance(one, FunctionType):
        return found | describe_function(one)
    return found | describe_object(one)


def describe_object(one: object) -> dict[str, str]:
    """Return the options that an object has as attributes."""
    return options("", getattr(one, "__dict__", {}))


def describe_function(function: FunctionType) -> dict[str, str]:
    """Return a checksum of a function's code, its variables from outside, and its defaults."""
    names, cells = function.__code__.co_freevars, function.__closure__ or ()
    held = {}
    for name, cell in zip(names, cells, strict=False):
        try:
            held[name] = cell.cell_contents
        except ValueError:  # a variable without a value yet
            continue
    defaults = dict(enumerate(function.__defaults__ or ())) | (function.__kwdefaults__ or {})
    return {PYTHON: code_checksum(function.__code__, function.__doc__),
            **options("variable ", held), **options("default ", defaults)}


def options(at: str, values: Mapping[Any, Value]) -> dict[str, str]:
    """Return public values that can be compared, as text."""
    found = {}
    for name, value in values.items():
        if str(name).startswith("_") or name == "training":
            continue
        ordinary = isinstance(value, Tensor) and value.layout == torch.strided
        if is_simple(value):
            found[f"{at}{name}"] = repr(value)
        elif ordinary and not isinstance(value, nn.Parameter):
            found[f"{at}{name}"] = digest(value)
        elif isinstance(value, FunctionType):
            code = code_checksum(value.__code__, value.__doc__)
            found |= {f"{at}{name}.kind": name_of(value), f"{at}{name}.{PYTHON}": code}
    return found


def code_checksum(code: CodeType, doc: str | None = None) -> str:
    """Return a checksum of what code does; line numbers and its docstring do not count."""
    found = hashlib.sha256(code.co_code)
    found.update(repr(code.co_names).encode())
    for one in code.co_consts:
        if isinstance(one, CodeType):
            found.update(code_checksum(one).encode())
        elif one != doc or doc is None:
            text = repr(sorted(map(repr, one))) if isinstance(one, frozenset) else repr(one)
            found.update(text.encode())
    return found.hexdigest()[:12]
