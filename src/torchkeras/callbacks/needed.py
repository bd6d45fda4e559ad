"""Packages that only some listeners need."""

from __future__ import annotations

import importlib
from typing import Any


def needed(module: str, who: str, install: str) -> Any:
    """A module by its name; where it is not installed, an error that says how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{who} needs {module.split('.')[0]}, which is not there ({error}). "
                          f"Install it: pip install {install}") from error
