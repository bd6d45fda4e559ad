"""A folder for compiled code that nobody else can have written to: what lies in it is run."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

OTHERS = stat.S_IRWXG | stat.S_IRWXO  # what others than the owner may do
MOST = 50_000  # files; a folder that holds more is no cache of this package


class Untrusted(Exception):
    """A folder in which compiled code cannot be kept safely; the text says why, for a note."""


def cache_home() -> Path:
    """Return where the system keeps caches of this user.

    Raises:
        RuntimeError: the user has no home folder.
    """
    if sys.platform == "win32":
        given, usual = os.environ.get("LOCALAPPDATA"), "AppData/Local"
    elif sys.platform == "darwin":
        given, usual = os.environ.get("XDG_CACHE_HOME"), "Library/Caches"
    else:
        given, usual = os.environ.get("XDG_CACHE_HOME"), ".cache"
    if given and os.path.isabs(given):  # a relative one is invalid, by the standard
        return Path(given)
    if os.environ.get("HOME") == "" and sys.platform != "win32":  # pathlib would take it for "/"
        raise RuntimeError("the environment variable HOME is empty")
    return Path.home() / usual


def open_private(*names: str) -> Path:
    """Return a folder below ``cache_home()``, made where it is missing, that only this user writes.

    Args:
        names: of the folders on the way, the outermost first.

    Raises:
        Untrusted: somebody else owns or may write to one of them or to what lies in them, or it is
            a link; or this user may not write to it, as on a disk that is read-only.
        OSError: it cannot be made or read.
        RuntimeError: the user has no home folder.
    """
    home = cache_home()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = Path(os.path.realpath(home))
    for above in (folder, *folder.parents):
        check_above(above)
    for name in names:
        folder = folder / name
        try:
            folder.mkdir(mode=0o700)
        except FileExistsError:
            check_own(folder, folder.lstat(), private=True)
    for number, (path, found) in enumerate(contents(folder)):
        check_own(path, found)
        if number == MOST:
            raise Untrusted(f"{folder} holds more than {MOST:,} files; remove it")
    if not os.access(folder, os.W_OK):
        raise Untrusted(f"{folder} cannot be written to")
    return folder


def check_above(folder: Path) -> None:
    """Refuse a folder in which others could put another one in the place of ours."""
    found = folder.stat()
    if not hasattr(os, "geteuid"):  # Windows gives each user a folder that others cannot write to
        return
    writable = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX
    if found.st_uid not in (0, os.geteuid()) or writable:
        raise Untrusted(f"others can write to {folder}")


def check_own(path: Path, found: os.stat_result, *, private: bool = False) -> None:
    """Refuse what is not an ordinary file or folder of this user.

    Args:
        path: where it lies.
        found: what ``lstat`` says of it.
        private: whether it must be a folder that only its owner can use.
    """
    folder = stat.S_ISDIR(found.st_mode)
    if not folder and (private or not stat.S_ISREG(found.st_mode)):
        raise Untrusted(f"{path} is no ordinary {'folder' if private else 'file'}; remove it")
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise Untrusted(f"{path} belongs to another user")
    if hasattr(os, "geteuid") and private and found.st_mode & OTHERS:
        raise Untrusted(f"others can read or write {path}; remove it")


def contents(folder: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield everything below a folder with its ``lstat``; what is removed meanwhile is skipped."""
    pending = [folder]
    while pending:
        try:
            entries = list(os.scandir(pending.pop()))
        except FileNotFoundError:
            continue
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if stat.S_ISDIR(found.st_mode):
                pending.append(Path(entry.path))
            yield Path(entry.path), found
