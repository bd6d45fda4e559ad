"""Import packages that only some callbacks need."""

from __future__ import annotations

import importlib
from typing import Any


def needed(module: str, who: str, install: str) -> Any:
    """Import a module by name, or raise an error that says how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"{who} needs {module.split('.')[0]}, which cannot be imported "
                          f"({error}). Install it: pip install {install}") from error
