"""The history in a file that grows by a row an epoch, so that a killed run keeps its curve."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from itertools import zip_longest
from typing import Any

from torchkeras.callbacks.logger import Row, RowLogger, rows_of, sweep
from torchkeras.display.targets import target
from torchkeras.engine.checkpoint import write_whole
from torchkeras.engine.checks import bad_value


class CSVLogger(RowLogger):
    """Keeps the history as a table that spreadsheets and pandas read; each epoch is in the file when it ends.

    A resumed run goes on in the file: it holds the rows of the run without a break, none twice. While the file cannot
    be written (a full disk, another program that holds it), rows wait in memory and the run goes on.

    Args:
        path: the file, ``.csv``. It is begun anew by each fit, but for one that is resumed.
        append: keep the rows of earlier runs that are in it, and write below them.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: it cannot be written; or, to append, what is in it is no text.

    Example:
        >>> import tempfile, torch
        >>> from torchkeras import KerasModel
        >>> model = KerasModel(torch.nn.Linear(4, 1), loss_fn="mse")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = CSVLogger(os.path.join(folder, "history.csv"))
        ...     history = model.fit((torch.zeros(8, 4), torch.zeros(8, 1)), epochs=2, ckpt_path=None, quiet=True,
        ...                         callbacks=[log])
        ...     print(log.path.read_text().splitlines()[0])
        epoch,train_loss,lr
    """

    suffix = ".csv"
    failures = (OSError,)

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        super().__init__()
        self.path, self.append = target("path", path, (self.suffix,)), append
        self.earlier: int | None = None  # rows in the file that are of earlier runs

    def state_dict(self) -> dict[str, Any]:
        """Return how many rows at the head of the file are of earlier runs."""
        return {"earlier": self.earlier}

    def on_fit_start(self, model: Any) -> None:
        """Find what stays in the file; a resumed run puts its own rows below that at once."""
        resumed = model.run.resumes_at is not None
        self.waiting, self.failing = [], False
        found = self.read(model.run) if (self.append or resumed) and self.path.exists() else []
        earlier = self.stopped.get("earlier") if resumed else None
        self.earlier = len(found) if self.append and earlier is None else min(earlier or 0, len(found))
        self.rows, found = found[:self.earlier], found[self.earlier:]
        self.columns: list[str] = []
        self.sound = False  # whether the file holds these rows and nothing else
        if resumed:
            self.rows += self.matched(rows_of(model.run.history), found)
            self.put_back(model.run)

    def put_back(self, run: Any) -> None:
        """Leave in the file what it held when the state of the run was saved."""
        sweep(self.path.parent, self.path.name)
        try:
            self.write_all() if self.rows else self.path.unlink(missing_ok=True)
        except OSError as error:
            self.fails(run, "its rows", error)

    def write_all(self) -> None:
        """Write the whole file anew: with the rows of which it has some, under all their columns."""
        self.columns = list(dict.fromkeys(name for row in self.rows if isinstance(row, dict) for name in row))
        self.sound = False
        write_whole(self.path, lambda temporary: temporary.write_text(self.head() + self.spell(self.rows),
                                                                      encoding="utf-8", newline=""))
        self.sound = True

    def write(self, row: Row, model: Any) -> None:
        """Add a row; write the whole file anew where that is needed."""
        self.rows.append(row)
        sound, self.sound = self.sound and self.knows(row) and self.path.exists(), False
        try:
            if sound:
                with self.path.open("a", encoding="utf-8", newline="") as file:
                    file.write(self.spell([row]))
            else:
                self.write_all()
        except OSError:
            self.rows.pop()
            raise
        self.sound = True

    def end(self, model: Any) -> None:
        """Write what still waits."""
        if self.failing and not self.waiting:
            self.put_back(model.run)
        super().end(model)
        self.earlier = None

    def on_fit_end(self, model: Any) -> None:
        """Write what still waits."""
        self.end(model)

    def on_exception(self, model: Any) -> None:
        """Write what still waits."""
        self.end(model)

    def place(self) -> str:
        """Return the file's name."""
        return str(self.path)

    def knows(self, row: Row) -> bool:
        """Whether the file has all columns of a row."""
        return set(row) <= set(self.columns)

    def read(self, run: Any) -> list[Any]:
        """Read the rows that are in the file; a last line that a killed process left unfinished is none."""
        try:
            text = self.path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise bad_value("path", received=f"{str(self.path)!r}, which is no text in UTF-8 ({error})",
                            expected="a file to append to", fix="Name another file, or pass append=False.") from error
        whole, _, torn = text.rpartition("\n")
        if torn:
            run.notes.append(f"{self.path}: its last line had no end and is left out: {torn[:80]!r}")
        return self.parse(whole)

    def head(self) -> str:
        """The names of the columns."""
        return lines([self.columns])

    def spell(self, rows: list[Any]) -> str:
        """Rows as they stand in the file."""
        return lines([["" if row.get(name) is None else row[name] for name in self.columns] for row in rows])

    def parse(self, text: str) -> list[Any]:
        """The rows of a file."""
        return list(csv.DictReader(io.StringIO(text)))

    def matched(self, own: list[Row], found: list[Any]) -> list[Any]:
        """Rows of a stopped run, as they are to stand in the file: there, some may be missing, or be too many."""
        return own


class JSONLLogger(CSVLogger):
    """Keeps the history as one JSON object a line; each epoch is in the file when it ends.

    Args:
        path: the file, ``.jsonl``. It is begun anew by each fit, but for one that is resumed.
        append: keep the lines that are in it, and write below them.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: it cannot be written; or, to append, what is in it is no text.

    Example:
        >>> model.fit(train, callbacks=[JSONLLogger("history.jsonl")])  # doctest: +SKIP
    """

    suffix = ".jsonl"

    def knows(self, row: Row) -> bool:
        """Each row has its names with it."""
        return True

    def head(self) -> str:
        """None is needed."""
        return ""

    def spell(self, rows: list[Any]) -> str:
        """Rows as they stand in the file; JSON has no infinity, so that is told in words."""
        return "".join((row if isinstance(row, str) else json.dumps(
            {name: in_json(value) for name, value in row.items()})) + "\n" for row in rows)

    def parse(self, text: str) -> list[Any]:
        """The lines of a file, as they are."""
        return [line for line in text.split("\n") if line.strip()]

    def matched(self, own: list[Row], found: list[Any]) -> list[Any]:
        """Rows of a stopped run; a line that says the same stays, as it did not have the columns that came later."""
        return [line if line is not None and present(line) == present(self.spell([row])) else row
                for row, line in zip_longest(own, found[:len(own)])]


def present(line: str) -> Any:
    """What a line of JSON holds, without what is null in it."""
    try:
        return {name: value for name, value in json.loads(line).items() if value is not None}
    except (ValueError, AttributeError):
        return line

def in_json(value: Any) -> Any:
    """A number that every reader of JSON takes."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def lines(rows: list[list[Any]]) -> str:
    """Rows as comma-separated lines."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
