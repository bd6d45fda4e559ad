"""Read the folder of a saved state: every file is checked before any of it is used.

Anybody may have made the folder. Links and pipes are not followed, and files are limited in size
and content before they are parsed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from torchkeras.checkpoint.history_file import HISTORY, MAX_BYTES, columns_from_bytes
from torchkeras.checkpoint.tensor_file import LimitExceeded, Limits
from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.core.types import Value

VERSION = 3
FIRST_LINE = f"torchkeras-state {VERSION}"
OLDER_FIRST_LINES = {"torchkeras-state 1", "torchkeras-state 2"}  # the history is among the tensors
TENSORS = ("weights.safetensors", "best.safetensors", "state.safetensors")
FROZEN = "frozen.safetensors"  # only if something is frozen; version 1 has no such file
FACTS, MANIFEST = "state.json", "MANIFEST"
NEWER = "was written by a newer torchkeras"
STATE_LIMITS = Limits(times=16)  # optimizers keep tensors per parameter: torch's at most five


class SavedState(NamedTuple):
    """A state that was read."""

    number: int
    facts: Value  # what its JSON says
    tensors: Mapping[str, Mapping[str, Tensor]]  # by file


def format_manifest(digests: Mapping[str, tuple[str, int]], first: str = FIRST_LINE) -> bytes:
    """Return the text of a manifest: a line for each file, then the checksum of the lines."""
    lines = [first, *(f"{digest} {size} {name}"
                      for name, (digest, size) in sorted(digests.items()))]
    text = "".join(line + "\n" for line in lines)
    return f"{text}{hashlib.sha256(text.encode()).hexdigest()}\n".encode()


def read_manifest(folder: Path) -> dict[str, tuple[str, int]]:
    """Return the checksum and size of each file; refuse a manifest that is not exactly right.

    It must have the expected format to the last byte, and name the files of a state and no others.
    """
    label, text = file_label(folder, MANIFEST), read_limited(folder / MANIFEST, 4096)
    digests = {}
    first, *lines = text.decode(errors="replace").split("\n")
    number = re.fullmatch(r"torchkeras-state ([1-9]\d{0,5})", first)
    if number and int(number[1]) > VERSION:
        raise CheckpointCorruptError(
            f"{folder.name} {NEWER} (state format {number[1]}, and this one reads up to "
            f"{VERSION}): update torchkeras to resume from it")
    for line in lines[:-2]:
        match = re.fullmatch(r"([0-9a-f]{64}) (0|[1-9]\d{0,17}) ([a-z.]{1,40})", line)
        if match is None:
            raise CheckpointCorruptError(f"{label} has the line {line[:80]!r}")
        digests[match[3]] = (match[1], int(match[2]))
    names = set(digests) - ({FROZEN} if first != "torchkeras-state 1" else set())
    files = {*TENSORS, FACTS, *({HISTORY} if first == FIRST_LINE else ())}
    known = first in {FIRST_LINE, *OLDER_FIRST_LINES}
    if not known or format_manifest(digests, first) != text or names != files:
        raise CheckpointCorruptError(
            f"{label} is damaged or of another format than {FIRST_LINE!r}")
    return digests


def read_state(folder: Path, number: int, limits: Limits = STATE_LIMITS) -> SavedState:
    """Read a state; check all of it before any of it is used.

    Args:
        folder: the folder of the state.
        number: the number of the state within its run.
        limits: what it may hold.

    Raises:
        CheckpointCorruptError: it is damaged, not a state, or holds more than can be needed.
    """
    try:
        if not stat.S_ISDIR(folder.lstat().st_mode):
            raise CheckpointCorruptError(f"{folder.name} is not a folder")
        digests = read_manifest(folder)
        for one in os.scandir(folder):
            if one.name not in digests and one.name != MANIFEST:
                raise CheckpointCorruptError(
                    f"{file_label(folder, one.name)} does not belong there")
        check_sizes(folder, digests, limits)
        for name, (digest, size) in digests.items():
            check_file(folder / name, digest, size)
        text = read_limited(folder / FACTS, limits.text)
        facts = parse_json(text, file_label(folder, FACTS), limits)
        tensors: dict[str, Mapping[str, Tensor]] = {
            name: TensorFile(folder / name, limits)
            for name in digests if name not in (FACTS, HISTORY)}
        if HISTORY in digests:
            tensors[HISTORY] = read_history(folder / HISTORY, digests[HISTORY][1], facts)
        return SavedState(number, facts, tensors)
    except OSError as error:
        raise CheckpointCorruptError(
            f"{folder.name} cannot be read: {error.strerror or error}") from error


def check_sizes(folder: Path, digests: Mapping[str, tuple[str, int]], limits: Limits) -> None:
    """Refuse a state whose files are too large for the run, before their content is read."""
    for name in digests:
        try:
            with open_regular(folder / name) as file:
                limits.check_size(file)
                if name == HISTORY and digests[name][1] > MAX_BYTES:
                    raise LimitExceeded(f"has {digests[name][1]} bytes of rows, and {MAX_BYTES} "
                                        "are the most that can be needed")
                if name.endswith(".safetensors"):
                    limits.check_header(file)
        except LimitExceeded as error:
            raise CheckpointCorruptError(f"{file_label(folder, name)} {error}") from None


def read_history(path: Path, size: int, facts: Value) -> dict[str, Tensor]:
    """Return the columns of a history from the first ``size`` bytes of a file."""
    try:
        return columns_from_bytes(facts["history"], read_limited(path, size, beginning=True))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointCorruptError(
            f"{file_label(path.parent, path.name)} does not fit its state: {error}") from None


def file_label(folder: Path, name: str) -> str:
    """Return the name of a file of a state, for a message."""
    return f"{folder.name}/{name}"


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file; refuse a link, which may lead anywhere, or a pipe."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)
                         | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    file = os.fdopen(descriptor, "rb")
    if not stat.S_ISREG(os.fstat(descriptor).st_mode) or path.is_symlink():
        file.close()
        raise CheckpointCorruptError(
            f"{file_label(path.parent, path.name)} is not an ordinary file")
    return file


def read_limited(path: Path, limit: int, beginning: bool = False) -> bytes:
    """Return the content of a file that may have ``limit`` bytes; or only its beginning."""
    with open_regular(path) as file:
        content = file.read(limit + 1 - beginning)
    if len(content) > limit:
        raise CheckpointCorruptError(
            f"{file_label(path.parent, path.name)} is larger than {limit} bytes")
    return content


def check_file(path: Path, digest: str, size: int) -> None:
    """Compare a file with its line in the manifest; that of the history may have grown since."""
    label = file_label(path.parent, path.name)
    with open_regular(path) as file:
        found, grows = os.fstat(file.fileno()).st_size, path.name == HISTORY
        if found < size or (found > size and not grows):
            raise CheckpointCorruptError(f"{label} has {found} bytes in place of {size}")
        made = hashlib.sha256(file.read(size)) if grows else hashlib.file_digest(file, "sha256")
        if made.hexdigest() != digest:
            raise CheckpointCorruptError(f"{label} is damaged: its checksum differs")


def parse_json(text: bytes, name: str, limits: Limits) -> Value:
    """Parse JSON; refuse a key that occurs twice, and more of it than can be needed."""
    def once(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
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
    """The tensors of a safetensors file, each mapped into memory when it is first read."""

    def __init__(self, path: Path, limits: Limits) -> None:
        from safetensors import safe_open

        self.name, self.read = file_label(path.parent, path.name), dict[str, Tensor]()
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
        """Turn the errors of safetensors into ours, with the name of the file."""
        from safetensors import SafetensorError

        try:
            yield
        except (SafetensorError, ValueError, RuntimeError) as error:
            raise CheckpointCorruptError(f"{self.name}: {error}") from error
