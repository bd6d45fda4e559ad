"""Check paths of files to be written before any work is done."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from torchkeras.core.errors import bad_type, bad_value


def target(argument: str, path: object, suffixes: tuple[str, ...] = ()) -> Path:
    """Return the path of a file after checking that it can be written; create nothing.

    Args:
        argument: the name of the user's argument, for the message.
        path: a name or a path.
        suffixes: the suffixes it may have. Default: any.

    Raises:
        TypeError: it is not a path.
        ValueError: it names a folder or a device, has another suffix, or its folder cannot be
            written.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise bad_type(argument, received=f"{path!r} ({type(path).__name__})",
                       expected="the path of a file")
    found = Path(path).expanduser()
    if not os.fspath(path) or found.is_dir():
        raise bad_value(argument, received=repr(str(path)),
                        expected="the path of a file, and this is a folder")
    if found.exists() and not found.is_file():
        raise bad_value(argument, received=repr(str(path)),
                        expected="the path of a file, and this is a device, a pipe "
                        "or a socket")
    if suffixes and found.suffix.lower() not in suffixes:
        raise bad_value(argument, received=repr(str(path)),
                        expected="a name that ends in " + " or ".join(suffixes))
    folder = found.parent
    while not folder.exists():
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise bad_value(argument, received=repr(str(path)), expected="a file that can be written",
                        fix=f"The folder {str(folder)!r} cannot be written: "
                        f"{error.strerror}.") from error
    return found
