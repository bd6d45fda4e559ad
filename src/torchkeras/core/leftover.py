"""Names for temporary files and folders that say whose they are, so that those of processes that are gone are cleared.

A name holds the process number and a mark of the machine (its host name and, in containers, its space of process
numbers): only where the mark is ours does a number without a process mean that nobody writes there.
"""

from __future__ import annotations

import contextlib
import glob
import os
import re
import secrets
import shutil
import socket
import time
import zlib
from functools import cache
from pathlib import Path

DAY = 86400.0  # seconds after which what another machine left is nobody's: a file is written within minutes


@cache
def mark() -> str:
    """Return a mark of this machine and its space of process numbers."""
    numbers = ""
    with contextlib.suppress(OSError):
        numbers = os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(f'{socket.gethostname()} {numbers}'.encode()):08x}"


def owned() -> str:
    """Return the part of a temporary name that says whose it is, and that no two share."""
    return f"{os.getpid()}-{mark()}-{secrets.token_hex(4)}"


def clear(folder: Path, before: str, after: str = "", *, aged: bool = False) -> None:
    """Remove what processes that are gone left in a folder under names ``<before><owned><after>``.

    Args:
        folder: where to look.
        before: how the names begin.
        after: how they end.
        aged: whether what another machine left, or a process that cannot be asked for, is removed when it is older
            than a day.
    """
    for path in glob.glob(os.path.join(glob.escape(str(folder)), f"{glob.escape(before)}[0-9]*{after}")):
        inner = os.path.basename(path)[len(before):]
        found = re.fullmatch(r"(\d+)(?:-([0-9a-f]{8}))?-[0-9a-f]{8}(?:-[a-z0-9_]{8})?" + re.escape(after), inner)
        if found is not None and abandoned(path, int(found[1]), found[2], aged):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)


def abandoned(path: str, number: int, of: str | None, aged: bool) -> bool:
    """Return whether nobody writes there any more."""
    if of == mark() and (found := lives(number)) is not None:
        return not found
    with contextlib.suppress(OSError):
        return aged and time.time() - os.lstat(path).st_mtime > DAY
    return False


def lives(number: int) -> bool | None:
    """Return whether there is a process with a number on this machine; None where that cannot be asked."""
    if os.name == "nt":
        return None  # there, a signal of number 0 ends a process
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
