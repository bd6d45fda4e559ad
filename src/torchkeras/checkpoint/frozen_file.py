"""Write one file beside the states, which several states share."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from torchkeras.checkpoint.state_folder import FROZEN
from torchkeras.checkpoint.weight_file import Chunk, safetensors_chunks
from torchkeras.core.files import flush, flush_to_disk


class FrozenFile:
    """Weights with ``requires_grad=False``: written once, and linked into each state.

    They are written when a state is taken, one by one: a copy of them, to be written by a thread
    during training, might not fit into memory.

    Args:
        folder: the folder of the states.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checksums: dict[str, str] | None = None  # by name
        self.path: Path | None = None
        self.digest = ("", 0)
        self.failure: OSError | None = None

    def write(self, weights: Mapping[str, tuple[Tensor, str]]) -> None:
        """Write weights unless the file has them; keep an error until a state is written."""
        checksums = {name: checksum for name, (_, checksum) in weights.items()}
        if checksums == self.checksums and (self.path is None or self.path.is_file()):
            return
        self.clear()
        self.checksums, self.path, self.failure = checksums, None, None
        if not weights:
            return
        path = temporary_in(self.folder) / FROZEN
        tensors = {name: one for name, (one, _) in weights.items()}
        try:
            path.parent.mkdir()
            self.digest = write_pieces(path, safetensors_chunks(tensors))
        except OSError as error:
            shutil.rmtree(path.parent, ignore_errors=True)
            self.failure, self.checksums = error, None
        else:
            self.path = path

    def existing(self) -> Path | None:
        """Return the file; None where nothing is frozen."""
        if self.failure is not None:
            raise self.failure
        return self.path

    def moved_to(self, state: Path) -> None:
        """Note that a finished state has the file."""
        self.clear()
        self.path = None if self.path is None else state / FROZEN

    def clear(self) -> None:
        """Remove a file that no state has yet."""
        if self.path is not None and self.path.parent.name.startswith(".tmp-"):
            shutil.rmtree(self.path.parent, ignore_errors=True)


def link_or_copy(source: Path, folder: Path, digest: tuple[str, int]) -> tuple[str, int]:
    """Link a written file into a folder, or copy it there; return its checksum and size."""
    try:
        os.link(source, folder / source.name)
    except OSError:  # a file system without links
        shutil.copyfile(source, folder / source.name)
        flush_to_disk(folder / source.name)
    return digest


def write_pieces(path: Path, pieces: Iterable[Chunk]) -> tuple[str, int]:
    """Write a new file piece by piece; return its checksum and size."""
    found, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for piece in pieces:
            file.write(piece)
            found.update(piece)
            size += len(piece)
        file.flush()
        flush(file.fileno())
    return found.hexdigest(), size


def temporary_in(folder: Path) -> Path:
    """Return a new temporary name in a folder; what is left of it is removed by the next run."""
    return folder / f".tmp-{os.getpid()}-{secrets.token_hex(4)}"
