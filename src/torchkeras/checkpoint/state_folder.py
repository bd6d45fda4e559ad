"""A saved state on the disk: what is in its folder, and how that is read, all of it checked before any is used.

Anybody may have made it. Links and pipes are not followed, and what it holds is counted before it is parsed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from torchkeras.checkpoint.history_file import HISTORY, LIMIT, unpacked
from torchkeras.checkpoint.tensor_file import Limits, TooMuch
from torchkeras.core.stop import CheckpointCorruptError

VERSION = 3
FIRST_LINE = f"torchkeras-state {VERSION}"
OLDER = {"torchkeras-state 1", "torchkeras-state 2"}  # whose history is among the tensors
TENSORS = ("weights.safetensors", "best.safetensors", "state.safetensors")
FROZEN = "frozen.safetensors"  # is there if something is frozen; version 1 has no such file
FACTS, MANIFEST = "state.json", "MANIFEST"
NEWER = "was written by a newer torchkeras"
ANY = Limits(times=16)  # an optimizer keeps tensors for each parameter: torch's own at most five


class Saved(NamedTuple):
    """A state that was read."""

    number: int
    facts: Any
    tensors: Mapping[str, Mapping[str, Tensor]]  # by file


def manifest(digests: Mapping[str, tuple[str, int]], first: str = FIRST_LINE) -> bytes:
    """The text of a manifest: a line a file, then the checksum of the lines."""
    lines = [first, *(f"{digest} {size} {name}" for name, (digest, size) in sorted(digests.items()))]
    text = "".join(line + "\n" for line in lines)
    return f"{text}{hashlib.sha256(text.encode()).hexdigest()}\n".encode()


def listed(folder: Path) -> dict[str, tuple[str, int]]:
    """What a manifest says; it must be one, to the last byte, and name the files of a state and no others."""
    text = content_of(folder / MANIFEST, 4096)
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
    names = set(digests) - ({FROZEN} if first != "torchkeras-state 1" else set())
    files = {*TENSORS, FACTS, *({HISTORY} if first == FIRST_LINE else ())}
    if first not in {FIRST_LINE, *OLDER} or manifest(digests, first) != text or names != files:
        raise CheckpointCorruptError(f"{where(folder, MANIFEST)} is damaged or of another format than "
                                     f"{FIRST_LINE!r}")
    return digests


def read(folder: Path, number: int, limits: Limits = ANY) -> Saved:
    """Read a state, all of it checked before any of it is used.

    Args:
        folder: where it is.
        number: which of the states of its run it is.
        limits: what it may hold.

    Raises:
        CheckpointCorruptError: it is damaged, of another make, or more than can be needed.
    """
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise CheckpointCorruptError(f"{folder.name} is no folder")
        digests = listed(folder)
        for one in os.scandir(folder):
            if one.name not in digests and one.name != MANIFEST:
                raise CheckpointCorruptError(f"{where(folder, one.name)} does not belong there")
        check_sizes(folder, digests, limits)
        for name, (digest, size) in digests.items():
            check_file(folder / name, digest, size)
        text = content_of(folder / FACTS, limits.text)
        facts = parsed(text, where(folder, FACTS), limits)
        tensors: dict[str, Mapping[str, Tensor]] = {
            name: TensorFile(folder / name, limits) for name in digests if name not in (FACTS, HISTORY)}
        if HISTORY in digests:
            tensors[HISTORY] = history_of(folder / HISTORY, digests[HISTORY][1], facts)
        return Saved(number, facts, tensors)
    except OSError as error:
        raise CheckpointCorruptError(f"{folder.name} cannot be read: {error.strerror or error}") from error


def check_sizes(folder: Path, digests: Mapping[str, tuple[str, int]], limits: Limits) -> None:
    """Refuse a state whose files cannot be those of the run that is to go on, before their numbers are looked at."""
    for name in digests:
        try:
            with opened(folder / name) as file:
                limits.check_size(file)
                if name == HISTORY and digests[name][1] > LIMIT:
                    raise TooMuch(f"has {digests[name][1]} bytes of rows, and {LIMIT} are the most that can be needed")
                if name.endswith(".safetensors"):
                    limits.check_header(file)
        except TooMuch as error:
            raise CheckpointCorruptError(f"{where(folder, name)} {error}") from None


def history_of(path: Path, size: int, facts: Any) -> dict[str, Tensor]:
    """Return the columns of a history, of a file of which the first bytes belong to the state."""
    try:
        return unpacked(facts["history"], content_of(path, size, beginning=True))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointCorruptError(f"{where(path.parent, path.name)} is none of its state: {error}") from None


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


def content_of(path: Path, limit: int, beginning: bool = False) -> bytes:
    """Return what is in a file that must not be larger than a limit; or its beginning."""
    with opened(path) as file:
        content: bytes = file.read(limit + 1 - beginning)
    if len(content) > limit:
        raise CheckpointCorruptError(f"{where(path.parent, path.name)} is larger than {limit} bytes")
    return content


def check_file(path: Path, digest: str, size: int) -> None:
    """Compare a file with what the manifest says of it; later states may have added to that of the history."""
    with opened(path) as file:
        found, grows = os.fstat(file.fileno()).st_size, path.name == HISTORY
        if found < size or (found > size and not grows):
            raise CheckpointCorruptError(f"{where(path.parent, path.name)} has {found} bytes in place of {size}")
        made = hashlib.sha256(file.read(size)) if grows else hashlib.file_digest(file, "sha256")
        if made.hexdigest() != digest:
            raise CheckpointCorruptError(f"{where(path.parent, path.name)} is damaged: its checksum differs")


def parsed(text: bytes, name: str, limits: Limits) -> Any:
    """Return what JSON says, strictly: no key twice, and no more of it than can be needed."""
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise CheckpointCorruptError(f"{name} has a key twice")
        return found

    try:
        limits.check_json(text)
        return json.loads(text, object_pairs_hook=once)
    except CheckpointCorruptError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointCorruptError(f"{name}: {error}") from error


class TensorFile(Mapping[str, Tensor]):
    """The tensors of a safetensors file; each is made, mapped into memory, when somebody asks for it."""

    def __init__(self, path: Path, limits: Limits) -> None:
        from safetensors import safe_open

        self.name, self.read = where(path.parent, path.name), dict[str, Tensor]()
        with self.refusing():
            self.file: Any = safe_open(path, "pt")
            self.names = dict.fromkeys(limits.names_in(self.file))

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.names:
            raise KeyError(name)
        if name not in self.read:
            with self.refusing():
                self.read[name] = self.file.get_tensor(name)
        return self.read[name]

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """Refuse what safetensors refuses, in words of ours."""
        from safetensors import SafetensorError

        try:
            yield
        except (SafetensorError, ValueError, RuntimeError) as error:
            raise CheckpointCorruptError(f"{self.name}: {error}") from error
