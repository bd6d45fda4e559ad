"""Keep the history of a run in a file that only grows.

Each checkpoint links to it and says how many bytes are its own, so what a save writes does not
grow with the length of the run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchkeras.core.files import flush

HISTORY = "history.rows"  # little-endian 8-byte numbers, row by row
MAX_BYTES, MAX_COLUMNS = 32 << 20, 10_000  # of a history that can be read again
COMPARED_ROWS = 100  # rows before the new ones that are compared: callbacks may fill one in later


class Rows(NamedTuple):
    """Rows of a history that are to be written."""

    columns: list[str]
    kept: int  # rows before them that are in the file already
    content: bytes


class HistoryFile:
    """Writes the rows of a history, after those that the latest checkpoint has in its file."""

    def __init__(self) -> None:
        self.path: Path | None = None  # in the latest checkpoint that this process wrote
        self.columns: list[str] = []
        self.tail = b""  # its last rows
        self.rows, self.size, self.hash = 0, 0, hashlib.sha256()

    def take(self, history: Mapping[str, list[float]], rows: int) -> Rows:
        """Return the rows that are not in the file; all of them if those in the file changed."""
        columns, first = list(history), max(self.rows - COMPARED_ROWS, 0)
        same = (columns == self.columns and rows >= self.rows
                and self.tail == rows_to_bytes(history, first, self.rows))
        kept = self.rows if same and self.path is not None and self.path.is_file() else 0
        return Rows(columns, kept, rows_to_bytes(history, kept, rows))

    def write(self, rows: Rows, folder: Path) -> tuple[str, int]:
        """Write the file into the folder of a new checkpoint; return its checksum and size."""
        target, row = folder / HISTORY, 8 * len(rows.columns)
        tail = self.tail if rows.kept else b""
        if not rows.kept:
            self.hash, self.size = hashlib.sha256(), 0
        if self.size + len(rows.content) > MAX_BYTES:
            raise OSError(f"the history has more than {MAX_BYTES} bytes of numbers, "
                          "which are the most that are read again")
        self.rows = 0  # if anything fails from here on, the next checkpoint has a file of its own
        if rows.kept and self.path is not None:
            try:
                os.link(self.path, target)
            except OSError:  # a file system without links
                shutil.copyfile(self.path, target)
        with target.open("r+b" if rows.kept else "xb") as file:
            file.seek(self.size)
            file.write(rows.content)
            file.flush()
            flush(file.fileno())
        self.hash.update(rows.content)
        self.size += len(rows.content)
        self.tail = (tail + rows.content)[-COMPARED_ROWS * row:] if row else b""
        self.rows, self.columns = self.size // row if row else 0, rows.columns
        return self.hash.hexdigest(), self.size

    def moved_to(self, state: Path) -> None:
        """Note that the file lies in a finished checkpoint, which the next one links to."""
        self.path = state / HISTORY


def rows_to_bytes(history: Mapping[str, list[float]], first: int, end: int) -> bytes:
    """Return rows as bytes."""
    columns = [column[first:end] for column in history.values()]
    return np.array(columns, dtype="<f8").T.tobytes()


def columns_from_bytes(columns: object, content: bytes) -> dict[str, Tensor]:
    """Return columns by name, from the bytes of a file.

    Raises:
        ValueError: the bytes are not rows with these columns.
    """
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise ValueError("a history whose columns have no names")
    if len(set(columns)) != len(columns) or len(columns) > MAX_COLUMNS:
        raise ValueError(f"a history of {len(columns)} columns, "
                         f"with {len(set(columns))} different names")
    if not columns and not content:
        return {}
    table = np.frombuffer(content, dtype="<f8").reshape(-1, len(columns))
    return {name: torch.from_numpy(table[:, place].astype(np.float64))
            for place, name in enumerate(columns)}
