"""Files on the disk: put in place with some patience, flushed for good, removed one by one.

On Windows a file cannot be replaced or opened while another program holds it: a virus scanner or
an indexer for a moment, a sync client for a second, a spreadsheet for an hour. The first two are
waited for; whoever writes keeps what waits for the third. Network folders and the disks of Windows
under Linux behave like that too.
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
PATIENCE = 2.0  # seconds: a scanner lets go within one, and nobody misses two where an epoch ends
HELD_BY_OTHERS = {5, 32, 33, 1224}  # of Windows: access denied, sharing, lock, mapped by a program
UNKNOWN_HERE = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY,
                errno.EBADF}
waited_for: set[str] = set()  # for these the patience has run out, until they give way


def is_held(error: OSError) -> bool:
    """Return whether an error may be another program's doing, and gone in a moment."""
    return (isinstance(error, PermissionError) or error.errno in (errno.EBUSY, errno.ETXTBSY)
            or getattr(error, "winerror", None) in HELD_BY_OTHERS)


def patiently(path: AnyPath, act: Callable[[], Found]) -> Found:
    """Do something with a file, for two seconds again and again while another program holds it.

    A file that stays held is waited for once only, until it gives way: a run of many short epochs
    must not wait in each.

    Args:
        path: the file, or the folder in which something of a new name is written.
        act: what is done; must leave nothing behind when it fails.

    Raises:
        OSError: the file is held for longer, or something else is wrong, which is raised at once.
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
def naming(path: AnyPath) -> Iterator[None]:
    """Let an error of the disk name this file: not a temporary one beside it, and not none."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            error.filename = os.fspath(path)
            del error.filename2
        raise


def check_ordinary(path: AnyPath) -> None:
    """Refuse to put a file in the place of a device, a pipe or a socket.

    Raises:
        OSError: there is one.
    """
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise OSError(errno.EINVAL, "this is a device, a pipe or a socket, and no file",
                          os.fspath(path))


def open_ordinary(path: AnyPath) -> BinaryIO:
    """Open an ordinary file to read it; a link, which may lead anywhere, and a pipe are none.

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
    """Read an ordinary file that must not be large.

    Raises:
        OSError: it is larger, or no ordinary file, or not there.
    """
    with open_ordinary(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise OSError(errno.EFBIG, f"is larger than {limit} bytes", os.fspath(path))
    return content


def replace(source: AnyPath, target: AnyPath) -> None:
    """Move a file or folder to its place, over the file that is there, patiently.

    Args:
        source: what is there now.
        target: where it is to be; in the same file system.

    Raises:
        OSError: another program holds one of them, or the file system refuses; both are as they were.
    """
    patiently(target, lambda: os.replace(source, target))


def remove(path: AnyPath) -> None:
    """Remove a file, or a link, patiently; one that is not there is none.

    Raises:
        OSError: another program holds it, or the file system refuses.
    """
    with contextlib.suppress(FileNotFoundError):
        patiently(path, lambda: os.unlink(path))


def remove_tree(path: AnyPath, first: str = "") -> None:
    """Remove a folder file by file; links, pipes and plain files are unlinked, none followed.

    What can be removed is removed, also where something else cannot be: on Windows no file that a
    program holds goes, nor can its folder be renamed.

    Args:
        path: the folder, or a file, or a link.
        first: the name of the file in it that says that the folder is whole. It goes before all
            others, so that the rest is never taken for whole; where it cannot go, nothing does.

    Raises:
        OSError: something is left: the first that could not be removed.
    """
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        remove(path)
        return
    if first:
        remove(Path(path) / first)
    failures: list[BaseException] = []

    def noted(function: Any, name: str, error: Any) -> None:
        failures.append(error[1] if isinstance(error, tuple) else error)

    heard: dict[str, Any] = {"onexc" if sys.version_info >= (3, 12) else "onerror": noted}
    shutil.rmtree(path, **heard)
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
    descriptor = os.open(path, os.O_RDONLY) if folder else patiently(
        os.path.dirname(os.path.abspath(path)), lambda: os.open(path, os.O_RDWR))
    try:
        flush(descriptor)
    except OSError as error:
        if not folder or error.errno not in UNKNOWN_HERE:
            raise
    finally:
        os.close(descriptor)
