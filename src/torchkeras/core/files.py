"""Write files in place with some patience, flush them to the disk, and remove folders file by file.

On Windows a file cannot be replaced or opened while another program holds it: a virus scanner or
an indexer for a moment, a sync client for a second, a spreadsheet for an hour. The first two are
waited for; for the third, the caller keeps its data until the next save. Network folders and the
disks of Windows under Linux behave like that too.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import operator
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

AnyPath = str | os.PathLike[str]
Found = TypeVar("Found")
PATIENCE = 2.0  # seconds: a scanner lets go within one, and two hardly delay the end of an epoch
HELD_BY_OTHERS = {5, 32, 33, 1224}  # of Windows: access denied, sharing, lock, mapped by a program
UNKNOWN_HERE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY,
                errno.EBADF}
waited_for: set[str] = set()  # files that were held for longer than PATIENCE, until they are free


def is_held(error: OSError) -> bool:
    """Return whether another program may be holding the file, and let go of it in a moment."""
    return (isinstance(error, PermissionError) or error.errno in (errno.EBUSY, errno.ETXTBSY)
            or getattr(error, "winerror", None) in HELD_BY_OTHERS)


def retry_while_held(path: AnyPath, act: Callable[[], Found]) -> Found:
    """Call ``act``, and retry for up to two seconds while another program holds the file.

    A file that stays held is waited for once only, until it is free again: a run of many short
    epochs must not wait in each.

    Args:
        path: the file, or the folder in which a file of a new name is written.
        act: the operation; must leave nothing behind when it fails.

    Raises:
        OSError: the file is held for longer; any other error is raised at once.
    """
    place = os.path.abspath(path)
    left, pause = 0.0 if place in waited_for else PATIENCE, 0.01
    while True:
        try:
            found = act()
        except OSError as error:
            if not is_held(error):
                raise
            if left <= 0:
                waited_for.add(place)
                raise
            time.sleep(min(pause, left))
            left, pause = left - pause, 2 * pause
        else:
            waited_for.discard(place)
            return found


@contextlib.contextmanager
def name_in_errors(path: AnyPath) -> Iterator[None]:
    """Make errors of the disk name this file, rather than a temporary one beside it or none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = os.fspath(path)
            del error.filename2
        raise


def check_ordinary(path: AnyPath) -> None:
    """Raise if a path is a device, a pipe or a socket, which a file must not replace.

    Raises:
        OSError: there is one.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EINVAL, "this is a device, a pipe or a socket, and no file",
                          os.fspath(path))


def open_ordinary(path: AnyPath) -> BinaryIO:
    """Open an ordinary file for reading; refuse links, which may lead anywhere, and pipes.

    Raises:
        OSError: there is no such file, or it is no ordinary one.
    """
    if os.path.islink(path):
        raise OSError(errno.EINVAL, "is a link", os.fspath(path))
    flags = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"))
    descriptor = os.open(path, functools.reduce(operator.or_, flags, os.O_RDONLY))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "is no ordinary file", os.fspath(path))
    return os.fdopen(descriptor, "rb")


def read_small(path: AnyPath, limit: int) -> bytes:
    """Read an ordinary file that must not be larger than ``limit`` bytes.

    Raises:
        OSError: it is larger, or no ordinary file, or not there.
    """
    with open_ordinary(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"is larger than {limit} bytes", os.fspath(path))
    return content


def replace(source: AnyPath, target: AnyPath) -> None:
    """Move a file or folder to its place, over the file that is there; retry while it is held.

    Args:
        source: what is there now.
        target: its new path; in the same file system.

    Raises:
        OSError: another program holds one of them, or the file system refuses; both are unchanged.
    """
    retry_while_held(target, lambda: os.replace(source, target))


def remove(path: AnyPath) -> None:
    """Remove a file or link, and retry while it is held; a missing one is no error.

    Raises:
        OSError: another program holds it, or the file system refuses.
    """
    with contextlib.suppress(FileNotFoundError):
        retry_while_held(path, lambda: os.unlink(path))


def remove_tree(path: AnyPath, first: str = "") -> None:
    """Remove a folder file by file; links, pipes and plain files are unlinked, none followed.

    Whatever can be removed is removed, even if something else cannot: on Windows a file that a
    program holds stays, and its folder cannot be renamed.

    Args:
        path: the folder, or a file, or a link.
        first: the name of the file in it that marks the folder as complete. It is removed before
            all others, so that a remainder is never taken for complete; if it cannot be removed,
            nothing is.

    Raises:
        OSError: something is left: the error of the first that could not be removed.
    """
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        remove(path)
        return
    if first:
        remove(Path(path) / first)
    failures: list[BaseException] = []

    def noted(function: object, name: str, error: Any) -> None:
        failures.append(error[1] if isinstance(error, tuple) else error)

    handler: dict[str, Any] = {"onexc" if sys.version_info >= (3, 12) else "onerror": noted}
    shutil.rmtree(path, **handler)

    if failures:
        raise failures[0]


def flush(descriptor: int) -> None:
    """Wait until what was written to an open file is on the disk.

    On macOS fsync leaves it in the drive's own memory, and F_FULLFSYNC is what reaches the disk;
    network folders there know fsync only. Source: ``man 2 fsync`` of macOS.
    """
    try:
        from fcntl import F_FULLFSYNC, fcntl  # type: ignore[attr-defined,unused-ignore]
    except ImportError:
        os.fsync(descriptor)
        return
    try:
        fcntl(descriptor, F_FULLFSYNC)
    except OSError as error:
        if error.errno not in UNKNOWN_HERE:
            raise
        os.fsync(descriptor)


def flush_to_disk(path: AnyPath) -> None:
    """Wait until a file, or a folder's list of names, is on the disk.

    File systems that cannot flush a list of names have nothing that could be waited for.
    """
    folder = os.path.isdir(path)
    if folder and os.name == "nt":
        return  # Windows does not open folders
    descriptor = os.open(path, os.O_RDONLY) if folder else retry_while_held(
        os.path.dirname(os.path.abspath(path)), lambda: os.open(path, os.O_RDWR))
    try:
        flush(descriptor)
    except OSError as error:
        if not folder or error.errno not in UNKNOWN_HERE:
            raise
    finally:
        os.close(descriptor)
