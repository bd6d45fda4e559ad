"""Remember which weights files a model has loaded or saved.

The next run of that model must not replace better weights in such a file by worse ones.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias, TypeVar, cast

from torchkeras.checkpoint.weight_file import FilePath
from torchkeras.core.types import Value

FileIdentity: TypeAlias = tuple[int, ...] | None  # None: there is no such file
Method = TypeVar("Method", bound=Callable[..., object])


class KnownFile(NamedTuple):
    """A file as it was when a model loaded or saved it, and the options it was loaded with."""

    identity: FileIdentity
    options: Mapping[str, Value]


def file_identity(path: FilePath) -> FileIdentity:
    """Return numbers that change when the file is replaced, equal for all spellings of its path.

    A folder, which a ``save_ckpt`` of one's own may write, has those of all files in it.
    """
    place = os.path.expanduser(path)
    try:
        inside = (os.path.join(folder, name) for folder, _, names in os.walk(place)
                  for name in sorted(names))
        found = [os.stat(place), *map(os.stat, inside)]
    except (OSError, ValueError):
        return None
    return tuple(number for one in found
                 for number in (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns))


def canonical_path(path: FilePath) -> str:
    """Return the absolute path without links, the same for all spellings of a path."""
    return os.path.realpath(os.path.expanduser(os.fspath(path)))


def known_files_of(model: object) -> dict[str, KnownFile]:
    """Return the files that a model has loaded or saved, by canonical path."""
    found: dict[str, KnownFile] = vars(model).setdefault("known_files", {})
    return found


def remember(model: object, path: FilePath, **options: Value) -> None:
    """Note that a model has saved a file, or has loaded it with these options."""
    known_files_of(model)[canonical_path(path)] = KnownFile(file_identity(path), options)


def known_file(model: object, path: FilePath) -> KnownFile | None:
    """Return the model's record of the file at a path; None if it never met this very file."""
    found = file_identity(path)
    own = known_files_of(model).get(canonical_path(path))
    if own is not None and own.identity == found:
        return own
    return next((one for one in known_files_of(model).values()
                 if found is not None and one.identity == found), None)


def was_changed(model: object, path: FilePath) -> bool:
    """Return whether a model knew the file at a path, and another one is there now."""
    return (canonical_path(path) in known_files_of(model) and file_identity(path) is not None
            and known_file(model, path) is None)


def remembers_path(method: Method) -> Method:
    """Wrap a user's ``save_ckpt`` or ``load_ckpt`` so that the model remembers the file."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def wrapper(self: object, *args: Value, **kwargs: Value) -> object:
        result = method(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        path = bound.args[1] if len(bound.args) > 1 else bound.arguments.get("ckpt_path")
        if isinstance(path, (str, os.PathLike)):
            remember(self, path, **(load_options(bound) if method.__name__ == "load_ckpt" else {}))
        return result

    return cast(Method, wrapper)


def load_options(bound: inspect.BoundArguments) -> dict[str, Value]:
    """Return the arguments of a call after the model and the path, by name."""
    found = dict(list(bound.arguments.items())[2:])
    for name, parameter in bound.signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            found |= found.pop(name, {})
        elif parameter.kind is parameter.VAR_POSITIONAL:
            found.pop(name, None)
    return found
