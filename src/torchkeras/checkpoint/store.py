"""Keep the saved states of a run in a folder: each is complete or absent, and checked when read.

A state is a folder of tensors (safetensors), JSON, the rows of the history, and a MANIFEST with the
size and SHA-256 of every file. It holds no pickle and nothing that names code. It is written under
a temporary name, flushed to the disk and renamed; older states are removed after that.
"""

from __future__ import annotations

import contextlib
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
from typing import TYPE_CHECKING, TypeAlias

from torch import Tensor

from torchkeras.checkpoint.frozen_file import FrozenFile, link_or_copy, temporary_in, write_pieces
from torchkeras.checkpoint.history_file import HISTORY, HistoryFile, Rows
from torchkeras.checkpoint.state_folder import (
    FACTS,
    FROZEN,
    MANIFEST,
    NEWER,
    STATE_LIMITS,
    TENSORS,
    SavedState,
    format_manifest,
    read_limited,
    read_manifest,
    read_state,
)
from torchkeras.checkpoint.tensor_file import LimitExceeded, Limits
from torchkeras.checkpoint.weight_file import Chunk, safetensors_chunks
from torchkeras.core import leftover
from torchkeras.core.errors import bad_value
from torchkeras.core.files import flush_to_disk, remove_tree, replace
from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.core.types import State, Value

if TYPE_CHECKING:
    from filelock import BaseFileLock

PATIENCE = 10.0  # seconds that loader workers may live on after their process was killed
MAX_TRIED, SHOWN = 100, 5  # states that are tried, the newest first, and that an error names
MAX_NUMBER = 99_999_999  # the highest number that a state can have
TensorFiles: TypeAlias = Mapping[str, Mapping[str, Tensor]]  # the tensors of each file, by name


class CheckpointStore:
    """The states of one run, numbered in the order they were written.

    Args:
        folder: the folder that holds them.
        keep: how many of them to keep.
        limits: what a state of this run can need; more is neither written nor read.
    """

    def __init__(self, folder: Path, keep: int = 2, limits: Limits = STATE_LIMITS) -> None:
        self.folder, self.keep, self.limits = folder, keep, limits
        self.lock: BaseFileLock | None = None
        self.latest: int | None = None
        self.best_digest: tuple[str, int] | None = None  # of the best weights in the latest state
        self.best_owner: object = None  # the Weights.moment that these are of
        self.best_facts: Value = None  # what the JSON says of them
        self.frozen = FrozenFile(folder)
        self.history = HistoryFile()
        self.best_frozen: Mapping[str, str] | None = None  # frozen weights that they leave out
        self.removal_error = ""  # why an older state could not be removed
        self.replaces_earlier = False  # the states that are there are of a run that is abandoned

    def open(self) -> None:
        """Lock the folder for this process, and remove what a killed one left unfinished.

        Whatever lies there may be anybody's: links and pipes in the place of our files are removed.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for name in (".lock", ".owner"):
                unlink_irregular(self.folder / name)
            self.acquire()
            self.write_owner()
            for old in self.folder.glob(".tmp-*"):
                self.remove(old)
            if MAX_NUMBER in self.numbers():
                raise OSError(f"it holds a state {MAX_NUMBER}, after which there is no number for "
                              "another: remove it")
        except OSError as error:
            self.close()
            raise bad_value(
                "save_every", received=f"the folder {str(self.folder)!r}",
                expected="one that can be written",
                fix=f"{type(error).__name__}: {error.strerror or error}.") from error

    def acquire(self) -> None:
        """Take the lock; wait a little where the process that holds it has died."""
        from filelock import FileLock, Timeout

        self.lock = FileLock(self.folder / ".lock")
        began = time.monotonic()
        while True:
            try:
                self.lock.acquire(timeout=0)
                break
            except Timeout:
                if self.owner_lives() or time.monotonic() - began > PATIENCE:
                    raise self.locked_error() from None
                time.sleep(0.05)

    def write_owner(self) -> None:
        """Write process number and host to the folder; by renaming, so that no link is followed."""
        temporary = temporary_in(self.folder)
        temporary.write_text(f"{os.getpid()} {socket.gethostname()}")
        replace(temporary, self.folder / ".owner")

    def close(self) -> None:
        """Release the folder to other processes."""
        self.frozen.clear()
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def owner(self) -> tuple[int, str]:
        """Return process number and host of the folder's owner; 0 when unknown."""
        with contextlib.suppress(OSError, ValueError):  # also where it is not an ordinary file
            number, host = read_limited(self.folder / ".owner", 500).decode().split()
            if int(number) > 0:
                return int(number), host
        return 0, "unknown"

    def owner_lives(self) -> bool:
        """Return whether the process that holds the folder is known to run."""
        number, host = self.owner()
        return host != socket.gethostname() or (
            number != 0 and leftover.process_exists(number) is not False)

    def locked_error(self) -> Exception:
        """Return the error for a folder that another run holds."""
        number, host = self.owner()
        return bad_value(
            "ckpt_path",
            received=f"{str(self.folder)!r}, which process {number} on {host} writes to",
            expected="a folder of this run's own",
            fix="Wait for that run, or give another ckpt_path.")

    def numbers(self) -> list[int]:
        """Return the numbers of the states in the folder, the newest first."""
        if not self.folder.is_dir():
            return []
        found = (one.name for one in self.folder.iterdir() if re.fullmatch("[0-9]{8}", one.name))
        return sorted(map(int, found), reverse=True)

    def path_of(self, number: int) -> Path:
        """Return the folder of a state."""
        return self.folder / f"{number:08d}"

    def write(self, facts: State, tensors: TensorFiles, best_owner: object, rows: Rows) -> int:
        """Write a new state, then remove the oldest; return its number.

        Without an owner, the best weights are a link to those of the latest state.
        """
        self.folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        if (number := max(self.numbers(), default=0) + 1) > MAX_NUMBER:
            raise OSError(f"{str(self.folder)!r} holds a state {MAX_NUMBER}, after which there is "
                          "no number for another")
        temporary = temporary_in(self.folder)
        try:
            digests = self.write_files(temporary, facts, tensors, best_owner, rows)
            replace(temporary, self.path_of(number))
            flush_to_disk(self.folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self.latest, self.best_digest = number, digests["best.safetensors"]
        self.best_owner, self.best_facts = best_owner or self.best_owner, facts["best"]
        self.best_frozen = self.frozen.checksums
        for one in (self.frozen, self.history):
            one.moved_to(self.path_of(number))
        self.drop_old()
        return number

    def write_files(self, folder: Path, facts: State, tensors: TensorFiles, best_owner: object,
                    rows: Rows) -> dict[str, tuple[str, int]]:
        """Write all files of a state into a new folder; return their checksums and sizes."""
        folder.mkdir()
        all_facts = {**facts, "history": rows.columns}
        digests = {name: write_pieces(folder / name, pieces)
                   for name, pieces in self.contents(all_facts, tensors, best_owner)}
        digests[HISTORY] = self.history.write(rows, folder)
        if (frozen := self.frozen.existing()) is not None:
            digests[FROZEN] = link_or_copy(frozen, folder, self.frozen.digest)
        if best_owner is None:
            latest = self.path_of(self.latest or 0) / "best.safetensors"
            digests["best.safetensors"] = link_or_copy(
                latest, folder, self.best_digest or ("", 0))
        write_pieces(folder / MANIFEST, [format_manifest(digests)])
        flush_to_disk(folder)
        return digests

    def contents(self, facts: State, tensors: TensorFiles,
                 best_owner: object) -> Iterator[tuple[str, Iterable[Chunk]]]:
        """Yield the name and the pieces of each file that is not a link to an earlier one."""
        yield FACTS, [self.check(facts, tensors)]
        for name in TENSORS:
            if name != "best.safetensors" or best_owner is not None:
                yield name, safetensors_chunks(tensors[name])

    def check(self, facts: State, tensors: TensorFiles) -> bytes:
        """Return the facts as JSON; refuse a state that would be too large to be read again."""
        text = json.dumps(facts, separators=(",", ":")).encode()
        try:
            self.limits.check_json(text)
            for content in tensors.values():
                self.limits.check_names(content)
        except LimitExceeded as error:
            raise bad_value(
                "state", received=f"one that {error}", expected="one that this run can resume from",
                fix="In a state_dict of your own, keep long lists as one tensor.") from None
        return text

    def best_is_there(self) -> bool:
        """Return whether this process wrote or read a latest state whose best weights exist."""
        return (self.latest is not None
                and (self.path_of(self.latest) / "best.safetensors").is_file())

    def drop_old(self) -> None:
        """Remove states beyond those to keep, so that none is ever left in part.

        On Windows a folder cannot be renamed while another program has a file in it open; there
        the manifest is removed first.
        """
        keep, self.replaces_earlier = 1 if self.replaces_earlier else self.keep, False
        for number in self.numbers()[keep:]:
            place = self.path_of(number)
            doomed = self.folder / f".tmp-old-{number}-{secrets.token_hex(4)}"
            with contextlib.suppress(OSError):
                os.rename(place, doomed)
                place = doomed
            self.remove(place)

    def remove(self, place: Path) -> None:
        """Remove a state, or what is left of one; note why it cannot be removed, and go on."""
        try:
            remove_tree(place, MANIFEST)
        except OSError as error:
            self.removal_error = self.removal_error or (
                f"{str(place)!r} cannot be removed ({error.strerror or error})")

    def newest(self) -> tuple[SavedState | None, list[str]]:
        """Return the newest sound state, and notes on newer ones that are damaged."""
        damaged: list[str] = []
        for number in self.numbers()[:MAX_TRIED]:
            try:
                found = read_state(self.path_of(number), number, self.limits)
            except CheckpointCorruptError as error:
                damaged.append(f"resume: {error}")
                continue
            self.latest = number
            self.best_digest = read_manifest(self.path_of(number))["best.safetensors"]
            return found, [f"{text}; state {number} is used" for text in damaged[:SHOWN]]
        if damaged:
            raise self.damaged_error(damaged)
        return None, []

    def damaged_error(self, damaged: list[str]) -> CheckpointCorruptError:
        """Return the error for a folder of states none of which can be read."""
        newer = any(NEWER in text for text in damaged)
        texts = "; ".join(damaged[:SHOWN]) + (" and others" if len(damaged) > SHOWN else "")
        return CheckpointCorruptError(
            f"{texts}. No {'state that this version reads' if newer else 'sound state'} is left in "
            f"{str(self.folder)!r}: {'give another ckpt_path' if newer else 'remove the folder'} "
            "to begin anew.")


def unlink_irregular(path: Path) -> None:
    """Remove a link, a pipe, or a file with another name (hard link), which may be anybody's."""
    with contextlib.suppress(FileNotFoundError):
        found = path.lstat()
        if stat.S_ISDIR(found.st_mode):
            raise OSError(f"{path.name} in it is a folder: remove it")
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
            path.unlink()
