"""A folder of saved states: each there whole or not at all, each checked to the last bit before it is used.

A state is a folder of tensors (safetensors), JSON, the rows of the history, and a MANIFEST with the size and SHA-256 of
every file. There is no pickle in it, and nothing that names code. It is written beside its place, flushed to the disk
and renamed; older states are removed after that.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from torchkeras.checkpoint.history_file import HISTORY, HistoryFile, Rows
from torchkeras.checkpoint.state_folder import (
    ANY,
    FACTS,
    FROZEN,
    MANIFEST,
    NEWER,
    TENSORS,
    Saved,
    content_of,
    listed,
    manifest,
    read,
)
from torchkeras.checkpoint.tensor_file import Limits, TooMuch
from torchkeras.checkpoint.weight_file import safetensors_chunks
from torchkeras.core import leftover
from torchkeras.core.errors import bad_value
from torchkeras.core.files import flush, flush_to_disk, remove_tree, replace
from torchkeras.core.stop import CheckpointCorruptError

PATIENCE = 10.0  # seconds that loader workers may live on after their process was killed
LOOKED_AT, SHOWN = 100, 5  # states that are tried, the newest first, and that an error names
LAST = 99_999_999  # the highest number that a state can have


class Vault:
    """The states of one run, numbered as they came.

    Args:
        folder: where they are.
        keep: how many of them.
        limits: what a state of this run can need, so that more is neither written nor read.
    """

    def __init__(self, folder: Path, keep: int = 2, limits: Limits = ANY) -> None:
        self.folder, self.keep, self.limits = folder, keep, limits
        self.lock: Any = None
        self.latest: int | None = None
        self.best_digest: tuple[str, int] | None = None  # of the best weights in the latest state
        self.best_owner: Any = None  # whose weights these are
        self.best_facts: Any = None  # and what the JSON says of them
        self.frozen = Frozen(folder)
        self.history = HistoryFile()
        self.best_frozen: Any = None  # what was frozen in the latest state, which its best weights leave out
        self.stuck = ""  # why an older state could not be removed
        self.forget = False  # whether the states that are there belong to a run that nobody goes on with

    def open(self) -> None:
        """Make the folder this process's own, and clear away what a killed one left half done.

        Whatever lies there may be somebody else's: links and pipes in the place of our own files are removed.
        """
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in (".lock", ".owner"):
                unlink_unless_ordinary(self.folder / name)
            self.lock = FileLock(self.folder / ".lock")
            began = time.monotonic()
            while True:
                try:
                    self.lock.acquire(timeout=0)
                    break
                except Timeout:
                    if self.owner_lives() or time.monotonic() - began > PATIENCE:
                        raise self.taken() from None
                    time.sleep(0.05)
            self.sign()
            for old in self.folder.glob(".tmp-*"):
                self.remove(old)
            if LAST in self.numbers():
                raise OSError(f"it holds a state {LAST}, after which there is no number for another: remove it")
        except OSError as error:
            self.close()
            raise bad_value("save_every", received=f"the folder {str(self.folder)!r}", expected="one that can be "
                            "written", fix=f"{type(error).__name__}: {error.strerror or error}.") from error

    def sign(self) -> None:
        """Say in the folder whose it is; through a file of another name, so that no link is followed."""
        temporary = self.folder / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
        temporary.write_text(f"{os.getpid()} {socket.gethostname()}")
        replace(temporary, self.folder / ".owner")

    def close(self) -> None:
        """Leave the folder to others."""
        self.frozen.clear()
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def owner(self) -> tuple[int, str]:
        """Process number and host of whoever holds the folder; 0 when unknown."""
        with contextlib.suppress(OSError, ValueError):  # one of which is that it is no file of ours
            number, host = content_of(self.folder / ".owner", 500).decode().split()
            if int(number) > 0:
                return int(number), host
        return 0, "unknown"

    def owner_lives(self) -> bool:
        """Whether the process that holds the folder is known to be at work."""
        number, host = self.owner()
        return host != socket.gethostname() or (number != 0 and leftover.lives(number) is not False)

    def taken(self) -> Exception:
        """The error for a folder that another run holds."""
        number, host = self.owner()
        return bad_value("ckpt_path", received=f"{str(self.folder)!r}, which process {number} on {host} writes to",
                         expected="a folder of this run's own", fix="Wait for that run, or give another ckpt_path.")

    def numbers(self) -> list[int]:
        """The states that there are, the newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((int(one.name) for one in self.folder.iterdir() if re.fullmatch("[0-9]{8}", one.name)),
                      reverse=True)

    def place(self, number: int) -> Path:
        """The folder of a state."""
        return self.folder / f"{number:08d}"

    def write(self, facts: Any, tensors: Mapping[str, Mapping[str, Tensor]], best_owner: Any, rows: Rows) -> int:
        """Add a state; then drop the oldest. Without an owner, the best weights are linked to those of the latest."""
        self.folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        if (number := max(self.numbers(), default=0) + 1) > LAST:
            raise OSError(f"{str(self.folder)!r} holds a state {LAST}, after which there is no number for another")
        temporary = self.folder / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            temporary.mkdir()
            digests = {name: write_pieces(temporary / name, pieces)
                       for name, pieces in self.contents({**facts, "history": rows.columns}, tensors, best_owner)}
            digests[HISTORY] = self.history.write(rows, temporary)
            if (frozen := self.frozen.found()) is not None:
                digests[FROZEN] = link(frozen, temporary, self.frozen.digest)
            if best_owner is None:
                digests["best.safetensors"] = link(self.place(self.latest or 0) / "best.safetensors", temporary,
                                                   self.best_digest or ("", 0))
            write_pieces(temporary / MANIFEST, [manifest(digests)])
            flush_to_disk(temporary)
            replace(temporary, self.place(number))
            flush_to_disk(self.folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self.latest, self.best_digest = number, digests["best.safetensors"]
        self.best_owner, self.best_facts = best_owner or self.best_owner, facts["best"]
        self.best_frozen = self.frozen.marks
        for one in (self.frozen, self.history):
            one.lies_in(self.place(number))
        self.drop_old()
        return number

    def contents(self, facts: Any, tensors: Mapping[str, Mapping[str, Tensor]],
                 best_owner: Any) -> Iterator[tuple[str, Iterable[Any]]]:
        """Yield the name and the pieces of each file that is written anew."""
        yield FACTS, [self.check(facts, tensors)]
        for name in TENSORS:
            if name != "best.safetensors" or best_owner is not None:
                yield name, safetensors_chunks(tensors[name])

    def check(self, facts: Any, tensors: Mapping[str, Mapping[str, Tensor]]) -> bytes:
        """Return what is no tensor as JSON; refuse a state that would be too much to be read again."""
        text = json.dumps(facts, separators=(",", ":")).encode()
        try:
            self.limits.check_json(text)
            for content in tensors.values():
                self.limits.check_names(content)
        except TooMuch as error:
            raise bad_value("state", received=f"one that {error}", expected="what this run can go on from",
                            fix="In a state_dict of your own, keep long lists as one tensor.") from None
        return text

    def best_is_there(self) -> bool:
        """Whether the latest state is this process's own, and its best weights can be linked to."""
        return self.latest is not None and (self.place(self.latest) / "best.safetensors").is_file()

    def drop_old(self) -> None:
        """Remove states beyond those to keep, so that none is ever half there.

        A folder of which another program holds a file cannot be renamed on Windows; there, the manifest goes first.
        """
        keep, self.forget = 1 if self.forget else self.keep, False
        for number in self.numbers()[keep:]:
            place, doomed = self.place(number), self.folder / f".tmp-old-{number}-{secrets.token_hex(4)}"
            with contextlib.suppress(OSError):
                os.rename(place, doomed)
                place = doomed
            self.remove(place)

    def remove(self, place: Path) -> None:
        """Remove a state, or what is left of one; what cannot go, as a file that another program holds, ends no run."""
        try:
            remove_tree(place, MANIFEST)
        except OSError as error:
            self.stuck = self.stuck or f"{str(place)!r} cannot be removed ({error.strerror or error})"

    def newest(self) -> tuple[Saved | None, list[str]]:
        """The newest state that is sound, and what is to be said of newer ones that are not."""
        damaged: list[str] = []
        for number in self.numbers()[:LOOKED_AT]:
            try:
                found = read(self.place(number), number, self.limits)
            except CheckpointCorruptError as error:
                damaged.append(f"resume: {error}")
                continue
            self.latest, self.best_digest = number, listed(self.place(number))["best.safetensors"]
            return found, [f"{text}; state {number} is used" for text in damaged[:SHOWN]]
        if damaged:
            newer = any(NEWER in text for text in damaged)
            told = "; ".join(damaged[:SHOWN]) + (" and others" if len(damaged) > SHOWN else "")
            raise CheckpointCorruptError(
                f"{told}. No {'state that this version reads' if newer else 'sound state'} is left in "
                f"{str(self.folder)!r}: {'give another ckpt_path' if newer else 'remove the folder'} to begin anew.")
        return None, []


class Frozen:
    """Weights that do not learn: written once, and linked into each state.

    They are written when a state is taken down, one by one: a copy to be written beside the training has no room.

    Args:
        folder: where the states are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.marks: dict[str, str] | None = None  # their names and checksums
        self.path: Path | None = None
        self.digest = ("", 0)
        self.failure: OSError | None = None

    def write(self, weights: Mapping[str, tuple[Tensor, str]]) -> None:
        """Write weights, unless they are those that are there; an error waits until a state is to be written."""
        marks = {name: mark for name, (_, mark) in weights.items()}
        if marks == self.marks and (self.path is None or self.path.is_file()):
            return
        self.clear()
        self.marks, self.path, self.failure = marks, None, None
        if not weights:
            return
        path = self.folder / f".tmp-{os.getpid()}-{secrets.token_hex(4)}" / FROZEN
        try:
            path.parent.mkdir()
            self.digest = write_pieces(path, safetensors_chunks({name: one for name, (one, _) in weights.items()}))
        except OSError as error:
            shutil.rmtree(path.parent, ignore_errors=True)
            self.failure, self.marks = error, None
        else:
            self.path = path

    def found(self) -> Path | None:
        """Return the file; None where nothing is frozen."""
        if self.failure is not None:
            raise self.failure
        return self.path

    def lies_in(self, state: Path) -> None:
        """A state has it now."""
        self.clear()
        self.path = None if self.path is None else state / FROZEN

    def clear(self) -> None:
        """Remove a file that is in no state yet."""
        if self.path is not None and self.path.parent.name.startswith(".tmp-"):
            shutil.rmtree(self.path.parent, ignore_errors=True)


def unlink_unless_ordinary(path: Path) -> None:
    """Remove a link, a pipe or a file that has another name too, which may be any of the user's files."""
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode):
            raise OSError(f"{path.name} in it is a folder: remove it")
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            path.unlink()


def link(source: Path, folder: Path, digest: tuple[str, int]) -> tuple[str, int]:
    """Take over a file that has been written, with its checksum and size."""
    try:
        os.link(source, folder / source.name)
    except OSError:  # a file system without links
        shutil.copyfile(source, folder / source.name)
        flush_to_disk(folder / source.name)
    return digest


def write_pieces(path: Path, pieces: Iterable[Any]) -> tuple[str, int]:
    """Write a file piece by piece; return its checksum and size."""
    found, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
            found.update(piece)
            size += len(piece)
        file.flush()
        flush(file.fileno())
    return found.hexdigest(), size
