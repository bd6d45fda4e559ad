"""Names for temporary files that say which process owns them, so that leftovers can be removed.

A name holds the process number and an identifier of the machine (its host name and, in containers,
its namespace of process numbers). Only where that identifier is this machine's does a process
number without a process mean that nobody writes there any more.
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

DAY = 86400.0  # seconds until another machine's leftovers count as abandoned; writing takes minutes


@cache
def machine_id() -> str:
    """Return an identifier of this machine and its namespace of process numbers."""
    numbers = ""
    with contextlib.suppress(OSError):
        numbers = os.readlink("/proc/self/ns/pid")
    return f"{zlib.crc32(f'{socket.gethostname()} {numbers}'.encode()):08x}"


def owner_tag() -> str:
    """Return the part of a temporary name that says which process owns it; no two are equal."""
    return f"{os.getpid()}-{machine_id()}-{secrets.token_hex(4)}"


def remove_abandoned(folder: Path, before: str, after: str = "", *, aged: bool = False) -> None:
    """Remove what processes that ended left in a folder under names ``<before><owned><after>``.

    Args:
        folder: where to look.
        before: how the names begin.
        after: how they end.
        aged: remove what is older than a day, too, if it is another machine's or if it is unknown
            whether its process still runs.
    """
    pattern = os.path.join(glob.escape(str(folder)), f"{glob.escape(before)}[0-9]*{after}")
    owner = r"(\d+)(?:-([0-9a-f]{8}))?-[0-9a-f]{8}(?:-[a-z0-9_]{8})?"
    for path in glob.glob(pattern):
        inner = os.path.basename(path)[len(before):]
        found = re.fullmatch(owner + re.escape(after), inner)
        if found is not None and is_abandoned(path, int(found[1]), found[2], aged):
            with contextlib.suppress(OSError):
                is_folder = os.path.isdir(path) and not os.path.islink(path)
                shutil.rmtree(path) if is_folder else os.unlink(path)


def is_abandoned(path: str, number: int, of: str | None, aged: bool) -> bool:
    """Return whether no process writes to a path any more."""
    if of == machine_id() and (found := process_exists(number)) is not None:
        return not found
    with contextlib.suppress(OSError):
        return aged and time.time() - os.lstat(path).st_mtime > DAY
    return False


def process_exists(number: int) -> bool | None:
    """Return whether a process of this number runs on this machine; None where that is unknown."""
    if os.name == "nt":
        return None  # on Windows, os.kill with signal 0 ends the process
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
