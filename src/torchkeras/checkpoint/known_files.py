"""Which weights files a model has loaded or saved: its next run must not replace a better one by a worse one."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Identity = tuple[int, ...] | None  # None: there is no such file


class Known(NamedTuple):
    """A file as it was when a model loaded or saved it, and how it was loaded."""

    identity: Identity
    options: Mapping[str, Any]


def identity(path: Any) -> Identity:
    """Return what changes when another file is put in the place of a file; all spellings of its path share it."""
    try:
        found = os.stat(os.path.expanduser(path))
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def place(path: Any) -> str:
    """Return the one spelling of a path."""
    return os.path.realpath(os.path.expanduser(os.fspath(path)))


def files_of(model: Any) -> dict[str, Known]:
    """Return what a model knows, by place."""
    found: dict[str, Known] = vars(model).setdefault("known_files", {})
    return found


def remember(model: Any, path: Any, **options: Any) -> None:
    """Note that a model has saved a file, or has loaded it with these options."""
    files_of(model)[place(path)] = Known(identity(path), options)


def known(model: Any, path: Any) -> Known | None:
    """Return what a model knows of the file at a path; None where it knows nothing of this very file."""
    found = identity(path)
    own = files_of(model).get(place(path))
    if own is not None and own.identity == found:
        return own
    return next((one for one in files_of(model).values() if found is not None and one.identity == found), None)


def was_changed(model: Any, path: Any) -> bool:
    """Return whether a model knew the file at a path, and another one is there now."""
    return place(path) in files_of(model) and identity(path) is not None and known(model, path) is None


def remembering(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a model's own ``save_ckpt`` or ``load_ckpt`` note which file it was called with."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = method(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        path = bound.args[1] if len(bound.args) > 1 else bound.arguments.get("ckpt_path")
        if isinstance(path, (str, os.PathLike)):
            remember(self, path, **(given(bound) if method.__name__ == "load_ckpt" else {}))
        return found

    return called


def given(bound: inspect.BoundArguments) -> dict[str, Any]:
    """Return the arguments of a call after the model and the path, by name."""
    found = dict(list(bound.arguments.items())[2:])
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= found.pop(name, {})
        elif parameter.kind is parameter.VAR_POSITIONAL:
            found.pop(name, None)
    return found
