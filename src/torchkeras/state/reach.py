"""Find what code refers to: the globals it names, and whether a module is a user's own."""

from __future__ import annotations

import dis
import functools
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

CORE = frozenset({*sys.stdlib_module_names, "torch", "numpy", "torchkeras",
                  "accelerate"}) - {"__main__"}
INSTALLED = frozenset({"site-packages", "dist-packages"})
GLOBAL = frozenset({"LOAD_GLOBAL", "STORE_GLOBAL", "DELETE_GLOBAL", "LOAD_NAME", "IMPORT_NAME"})


def is_core_module(module: str | None) -> bool:
    """Tell whether a module is of torch, numpy, the standard library or this package."""
    return str(module).partition(".")[0] in CORE


@functools.lru_cache(maxsize=4096)
def is_user_module(module: str | None) -> bool:
    """Tell whether a module is a user's own: not core, and not of an installed package."""
    if is_core_module(module) or module is None:
        return False
    file = vars(sys.modules[module]).get("__file__") if module in sys.modules else None
    if not isinstance(file, str):
        return True
    folders = {sysconfig.get_paths().get(name, "") for name in ("purelib", "platlib")} - {""}
    installed = INSTALLED.intersection(Path(file).parts)
    return not installed and not any(file.startswith(one) for one in folders)


def nested_code(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a function and of the functions in it."""
    yield code
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from nested_code(one)


@functools.lru_cache(maxsize=4096)
def names_in_code(code: CodeType) -> frozenset[str]:
    """Return the globals and attributes that a function names."""
    return frozenset(name for one in nested_code(code) for name in one.co_names)


@functools.lru_cache(maxsize=4096)
def globals_in_code(code: CodeType) -> frozenset[str]:
    """Return the globals that a function reads or assigns, and the modules that it imports."""
    return frozenset(str(step.argval) for one in nested_code(code)
                     for step in dis.get_instructions(one) if step.opname in GLOBAL)
