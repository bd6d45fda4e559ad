"""The history of a run in a file that only grows: each state links to it, and says how much of it is its own.

So what is written of a history at each save does not grow with the run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from torchkeras.core.files import flush

HISTORY = "history.rows"  # numbers of 8 bytes, the lowest first, row by row
LIMIT, COLUMNS = 32 << 20, 10_000  # bytes and columns of a history that is gone on with
COMPARED = 100  # rows before the new ones that are looked at for changes; a callback may fill one in later


class Rows(NamedTuple):
    """Rows of a history, taken down to be written."""

    columns: list[str]
    kept: int  # rows before them that are in the file already
    content: bytes


class HistoryFile:
    """Writes the rows of a history to a file of which a state before has the beginning."""

    def __init__(self) -> None:
        self.path: Path | None = None  # in the latest state that this process wrote
        self.columns: list[str] = []
        self.tail = b""  # its last rows
        self.rows, self.size, self.hash = 0, 0, hashlib.sha256()

    def take(self, history: Mapping[str, list[float]], rows: int) -> Rows:
        """Take down the rows that are not in the file; all of them, where those there are others by now."""
        columns, first = list(history), max(self.rows - COMPARED, 0)
        same = columns == self.columns and rows >= self.rows and self.tail == packed(history, first, self.rows)
        kept = self.rows if same and self.path is not None and self.path.is_file() else 0
        return Rows(columns, kept, packed(history, kept, rows))

    def write(self, rows: Rows, folder: Path) -> tuple[str, int]:
        """Write the file of a state that is being made in a folder; return its checksum and size."""
        target, row, tail = folder / HISTORY, 8 * len(rows.columns), self.tail if rows.kept else b""
        if not rows.kept:
            self.hash, self.size = hashlib.sha256(), 0
        if self.size + len(rows.content) > LIMIT:
            raise OSError(f"the history has more than {LIMIT} bytes of numbers, which are the most that are read again")
        self.rows = 0  # if anything fails from here on, the next state has a file of its own
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
        self.tail = (tail + rows.content)[-COMPARED * row:] if row else b""
        self.rows, self.columns = self.size // row if row else 0, rows.columns
        return self.hash.hexdigest(), self.size

    def lies_in(self, state: Path) -> None:
        """Take the file in a state that is whole now as the one that the next state links to."""
        self.path = state / HISTORY


def packed(history: Mapping[str, list[float]], first: int, end: int) -> bytes:
    """Return rows as bytes."""
    return np.array([column[first:end] for column in history.values()], dtype="<f8").T.tobytes()


def unpacked(columns: Any, content: bytes) -> dict[str, Tensor]:
    """Return columns by name, from the bytes of a file.

    Raises:
        ValueError: they are not those of rows with these columns.
    """
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise ValueError("a history whose columns have no names")
    if len(set(columns)) != len(columns) or len(columns) > COLUMNS:
        raise ValueError(f"a history of {len(columns)} columns, of which {len(set(columns))} have names of their own")
    if not columns and not content:
        return {}
    table = np.frombuffer(content, dtype="<f8").reshape(-1, len(columns))
    return {name: torch.from_numpy(table[:, place].astype(np.float64)) for place, name in enumerate(columns)}
