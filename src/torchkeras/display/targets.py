"""Files that are written only when asked: looked at before any work."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from torchkeras.core.errors import bad_type, bad_value


def target(argument: str, path: Any, suffixes: tuple[str, ...] = ()) -> Path:
    """The file that a path names, if it can be written; leaves nothing behind.

    Args:
        argument: what the user calls it, for the message.
        path: a name or a path.
        suffixes: the endings it may have; any when there are none.

    Raises:
        TypeError: it is no path.
        ValueError: it names a folder or a device, has another ending, or its folder cannot be written.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise bad_type(argument, received=f"{path!r} ({type(path).__name__})", expected="the path of a file")
    found = Path(path).expanduser()
    if not os.fspath(path) or found.is_dir():
        raise bad_value(argument, received=repr(str(path)), expected="the path of a file, and this is a folder")
    if found.exists() and not found.is_file():
        raise bad_value(argument, received=repr(str(path)), expected="the path of a file, and this is a device, a pipe "
                        "or a socket")
    if suffixes and found.suffix.lower() not in suffixes:
        raise bad_value(argument, received=repr(str(path)), expected="a name that ends in " + " or ".join(suffixes))
    folder = found.parent
    while not folder.exists():
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise bad_value(argument, received=repr(str(path)), expected="a file that can be written",
                        fix=f"The folder {str(folder)!r} cannot be written: {error.strerror}.") from error
    return found
