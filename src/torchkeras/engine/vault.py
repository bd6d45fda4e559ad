"""A folder of saved states: each there whole or not at all, each checked to the last bit before it is used.

A state is a folder of tensors (safetensors), JSON, and a MANIFEST with the size and SHA-256 of every file. There is no
pickle in it, and nothing that names code. It is written beside its place, flushed to the disk and renamed; older states
are removed after that.
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
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from torchkeras.engine.checks import bad_value
from torchkeras.engine.ending import CheckpointCorruptError
from torchkeras.engine.weightfile import flush_to_disk, safetensors_chunks

VERSION = 2
FIRST_LINE = f"torchkeras-state {VERSION}"
OLDER = "torchkeras-state 1"  # in which frozen weights are among the others
TENSORS = ("weights.safetensors", "best.safetensors", "state.safetensors")
NEWER = "was written by a newer torchkeras"
FROZEN = "frozen.safetensors"  # is there if something is frozen
FACTS, MANIFEST = "state.json", "MANIFEST"
FACTS_LIMIT = 8 << 20  # bytes of JSON: what Python makes of it takes up to twenty times as much
HEADER_LIMIT = 16 << 20  # bytes of the list of tensors at the head of a safetensors file
PATIENCE = 10.0  # seconds that loader workers may live on after their process was killed


class Saved(NamedTuple):
    """A state that was read."""

    number: int
    facts: Any
    tensors: dict[str, dict[str, Tensor]]  # by file


class Vault:
    """The states of one run, numbered as they came.

    Args:
        folder: where they are.
        keep: how many of them.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep
        self.lock: Any = None
        self.latest: int | None = None
        self.best_digest: tuple[str, int] | None = None  # of the best weights in the latest state
        self.best_owner: Any = None  # whose weights these are
        self.best_facts: Any = None  # and what the JSON says of them
        self.frozen = Frozen(folder)
        self.best_frozen: Any = None  # what was frozen in the latest state, which its best weights leave out
        self.forget = False  # whether the states that are there belong to a run that nobody goes on with

    def open(self) -> None:
        """Make the folder this process's own, and clear away what a killed one left half done."""
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
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
            (self.folder / ".owner").write_text(f"{os.getpid()} {socket.gethostname()}")
            for old in self.folder.glob(".tmp-*"):
                shutil.rmtree(old)
        except OSError as error:
            self.close()
            raise bad_value("save_every", received=f"the folder {str(self.folder)!r}", expected="one that can be "
                            "written", fix=f"{type(error).__name__}: {error.strerror or error}.") from error

    def close(self) -> None:
        """Leave the folder to others."""
        self.frozen.clear()
        if self.lock is not None:
            self.lock.release()
            self.lock = None

    def owner(self) -> tuple[int, str]:
        """Process number and host of whoever holds the folder; 0 when unknown."""
        with contextlib.suppress(OSError, ValueError):
            number, host = (self.folder / ".owner").read_text().split()
            return int(number), host
        return 0, "unknown"

    def owner_lives(self) -> bool:
        """Whether the process that holds the folder is known to be at work."""
        number, host = self.owner()
        if host != socket.gethostname():
            return True
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return False
        except OSError:
            return True
        return number != 0

    def taken(self) -> Exception:
        """The error for a folder that another run holds."""
        number, host = self.owner()
        return bad_value("ckpt_path", received=f"{str(self.folder)!r}, which process {number} on {host} writes to",
                         expected="a folder of this run's own", fix="Wait for that run, or give another ckpt_path.")

    def numbers(self) -> list[int]:
        """The states that there are, the newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((int(one.name) for one in self.folder.iterdir() if re.fullmatch(r"\d{8}", one.name)),
                      reverse=True)

    def place(self, number: int) -> Path:
        """The folder of a state."""
        return self.folder / f"{number:08d}"

    def write(self, facts: Any, tensors: Mapping[str, Mapping[str, Tensor]], best_owner: Any) -> int:
        """Add a state; then drop the oldest. Without an owner, the best weights are linked to those of the latest."""
        self.folder.mkdir(parents=True, exist_ok=True)  # somebody may have removed it
        number = max(self.numbers(), default=0) + 1
        temporary = self.folder / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            temporary.mkdir()
            digests = {name: self.write_file(temporary / name, content)
                       for name, content in self.contents(facts, tensors, best_owner is not None)}
            if (frozen := self.frozen.found()) is not None:
                digests[FROZEN] = link(frozen, temporary, self.frozen.digest)
            if best_owner is None:
                digests["best.safetensors"] = link(self.place(self.latest or 0) / "best.safetensors", temporary,
                                                   self.best_digest or ("", 0))
            write_flushed(temporary / MANIFEST, manifest(digests))
            flush_to_disk(temporary)
            os.rename(temporary, self.place(number))
            flush_to_disk(self.folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self.latest, self.best_digest = number, digests["best.safetensors"]
        self.best_owner, self.best_facts = best_owner or self.best_owner, facts["best"]
        self.best_frozen = self.frozen.marks
        self.frozen.lies_in(self.place(number))
        self.drop_old()
        return number

    def contents(self, facts: Any, tensors: Mapping[str, Mapping[str, Tensor]], new_best: bool) -> Any:
        """The files of a state, one at a time."""
        from safetensors.torch import save

        text = json.dumps(facts, separators=(",", ":")).encode()
        if len(text) > FACTS_LIMIT:
            raise bad_value("state", received=f"{len(text)} bytes of numbers and text", expected=f"at most "
                            f"{FACTS_LIMIT}", fix="Keep long lists in a state_dict as tensors.")
        yield FACTS, text
        for name in TENSORS:
            if name != "best.safetensors" or new_best:
                yield name, save(dict(tensors[name]))

    @staticmethod
    def write_file(path: Path, content: bytes) -> tuple[str, int]:
        """Write a file, and give its checksum and size."""
        write_flushed(path, content)
        return hashlib.sha256(content).hexdigest(), len(content)

    def best_is_there(self) -> bool:
        """Whether the latest state is this process's own, and its best weights can be linked to."""
        return self.latest is not None and (self.place(self.latest) / "best.safetensors").is_file()

    def drop_old(self) -> None:
        """Remove states beyond those to keep; renamed first, so that none is ever half there."""
        keep, self.forget = 1 if self.forget else self.keep, False
        for number in self.numbers()[keep:]:
            doomed = self.folder / f".tmp-old-{number}-{secrets.token_hex(4)}"
            with contextlib.suppress(OSError):  # the next start clears away what could not be removed
                os.rename(self.place(number), doomed)
                shutil.rmtree(doomed)

    def newest(self) -> tuple[Saved | None, list[str]]:
        """The newest state that is sound, and what is to be said of newer ones that are not."""
        damaged: list[str] = []
        for number in self.numbers():
            try:
                found = read(self.place(number), number)
            except CheckpointCorruptError as error:
                damaged.append(f"resume: {error}")
                continue
            self.latest, self.best_digest = number, listed(self.place(number))["best.safetensors"]
            return found, [f"{text}; state {number} is used" for text in damaged]
        if damaged:
            newer = any(NEWER in text for text in damaged)
            raise CheckpointCorruptError(
                f"{'; '.join(damaged)}. No {'state that this version reads' if newer else 'sound state'} is left in "
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


def link(source: Path, folder: Path, digest: tuple[str, int]) -> tuple[str, int]:
    """Take over a file that has been written, with its checksum and size."""
    try:
        os.link(source, folder / source.name)
    except OSError:  # a file system without links
        shutil.copyfile(source, folder / source.name)
        flush_to_disk(folder / source.name)
    return digest


def manifest(digests: Mapping[str, tuple[str, int]], first: str = FIRST_LINE) -> bytes:
    """The text of a manifest: a line a file, then the checksum of the lines."""
    lines = [first, *(f"{digest} {size} {name}" for name, (digest, size) in sorted(digests.items()))]
    text = "".join(line + "\n" for line in lines)
    return f"{text}{hashlib.sha256(text.encode()).hexdigest()}\n".encode()


def listed(folder: Path) -> dict[str, tuple[str, int]]:
    """What a manifest says; it must be one, to the last byte, and name the files of a state and no others."""
    text = small_file(folder / MANIFEST, 4096)
    digests = {}
    first, *lines = text.decode(errors="replace").split("\n")
    if (number := re.fullmatch(r"torchkeras-state ([1-9]\d{0,5})", first)) and int(number[1]) > VERSION:
        raise CheckpointCorruptError(f"{folder.name} {NEWER} (state format {number[1]}, and "
                                     f"this one reads up to {VERSION}): update torchkeras to go on from it")
    for line in lines[:-2]:
        match = re.fullmatch(r"([0-9a-f]{64}) (0|[1-9]\d{0,17}) ([a-z.]{1,40})", line)
        if match is None:
            raise CheckpointCorruptError(f"{where(folder, MANIFEST)} has the line {line[:80]!r}")
        digests[match[3]] = (match[1], int(match[2]))
    names = set(digests) - ({FROZEN} if first == FIRST_LINE else set())
    if first not in (FIRST_LINE, OLDER) or manifest(digests, first) != text or names != {*TENSORS, FACTS}:
        raise CheckpointCorruptError(f"{where(folder, MANIFEST)} is damaged or of another format than "
                                     f"{FIRST_LINE!r}")
    return digests


def read(folder: Path, number: int) -> Saved:
    """Read a state, all of it checked before any of it is used."""
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise CheckpointCorruptError(f"{folder.name} is no folder")
        digests = listed(folder)
        if extra := {one.name for one in folder.iterdir()} - {*digests, MANIFEST}:
            raise CheckpointCorruptError(f"{where(folder, sorted(extra)[0])} does not belong there")
        for name, (digest, size) in digests.items():
            check_file(folder / name, digest, size)
        facts = parsed(small_file(folder / FACTS, FACTS_LIMIT), where(folder, FACTS))
        return Saved(number, facts, {name: tensors_of(folder / name) for name in digests if name != FACTS})
    except OSError as error:
        raise CheckpointCorruptError(f"{folder.name} cannot be read: {error.strerror or error}") from error


def where(folder: Path, name: str) -> str:
    """A file of a state, for a message."""
    return f"{folder.name}/{name}"


def opened(path: Path) -> Any:
    """An ordinary file, opened; a link, which may lead anywhere, is none."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
                         | getattr(os, "O_BINARY", 0))
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode) or path.is_symlink():
        file.close()
        raise CheckpointCorruptError(f"{where(path.parent, path.name)} is no ordinary file")
    return file


def small_file(path: Path, limit: int) -> bytes:
    """What is in a file that must not be large."""
    with opened(path) as file:
        content: bytes = file.read(limit + 1)
    if len(content) > limit:
        raise CheckpointCorruptError(f"{where(path.parent, path.name)} is larger than {limit} bytes")
    return content


def check_file(path: Path, digest: str, size: int) -> None:
    """Compare a file with what the manifest says of it."""
    with opened(path) as file:
        if (found := os.fstat(file.fileno()).st_size) != size:
            raise CheckpointCorruptError(f"{where(path.parent, path.name)} has {found} bytes in place of {size}")
        if hashlib.file_digest(file, "sha256").hexdigest() != digest:
            raise CheckpointCorruptError(f"{where(path.parent, path.name)} is damaged: its checksum differs")


def parsed(text: bytes, name: str) -> Any:
    """JSON, strictly: no key twice."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise CheckpointCorruptError(f"{name} has a key twice")
        return found

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise CheckpointCorruptError(f"{name}: {error}") from error


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, mapped into memory."""
    from safetensors import SafetensorError, safe_open

    with opened(path) as file:
        header = int.from_bytes(file.read(8), "little")
    if header > HEADER_LIMIT:
        raise CheckpointCorruptError(f"{where(path.parent, path.name)} has a header of {header} bytes")
    try:
        with safe_open(path, "pt") as content:
            return {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 (it is no dict)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise CheckpointCorruptError(f"{where(path.parent, path.name)}: {error}") from error


def write_flushed(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_pieces(path: Path, pieces: Iterable[Any]) -> tuple[str, int]:
    """Write a file piece by piece; return its checksum and size."""
    found, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
            found.update(piece)
            size += len(piece)
        file.flush()
        os.fsync(file.fileno())
    return found.hexdigest(), size
