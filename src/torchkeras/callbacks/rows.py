"""The history in a file that grows by a row an epoch, so that a killed run keeps its curve."""

from __future__ import annotations

import csv
import glob
import io
import json
import math
import os
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, TextIO

from torchkeras.callbacks.logger import Row, RowLogger, is_count, rows_of, sweep
from torchkeras.checkpoint.weights_path import write_whole
from torchkeras.core.errors import bad_value
from torchkeras.core.files import naming, patiently
from torchkeras.display.targets import target

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # of East Asian widths too


class CSVLogger(RowLogger):
    """Keeps the history as a table that spreadsheets and pandas read; each epoch is in the file when it ends.

    A resumed run goes on in the file: it holds the rows of the run without a break, none twice. While the file cannot
    be written (a full disk, another program that holds it), rows wait in memory and the run goes on; where that lasts
    to its end, all rows are in a file of another name beside it. A name that spreadsheets would take for a formula has
    an apostrophe before it.

    Args:
        path: the file, ``.csv``. It is begun anew by each fit, but for one that is resumed.
        append: keep the rows of earlier runs that are in it, and write below them.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: it cannot be written; or, to append, what is in it is no table with commas, in UTF-8.

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
    forms = {"earlier": (is_count, "a number of rows")}

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
        found = self.read(model.run, resumed) if (self.append or resumed) and self.path.exists() else []
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
        sweep(self.path.parent, glob.escape(self.path.name))
        try:
            self.write_all() if self.rows else self.path.unlink(missing_ok=True)
        except OSError as error:
            self.fails(run, "its rows", error)

    def write_all(self) -> None:
        """Write the whole file anew: with the rows of which it has some, under all their columns."""
        self.sound = False
        self.write_to(self.path)
        self.sound = True

    def write_to(self, path: Path) -> None:
        """Write all rows to a file, under all their columns."""
        self.columns = list(dict.fromkeys(name for row in self.rows if isinstance(row, dict) for name in row))
        write_whole(path, lambda temporary: temporary.write_text(self.head() + self.spell(self.rows),
                                                                 encoding="utf-8", newline=""))

    def elsewhere(self) -> str:
        """Write all rows to another file, since they would be gone with the process; say where."""
        other = self.path.with_stem(f"{self.path.stem}-{datetime.now():%Y%m%d-%H%M%S}")
        self.rows += self.waiting
        try:
            self.write_to(other)
        except OSError as error:
            return f"nor to {other.name} beside it ({error.strerror}): they are in model.history, save them elsewhere"
        return f"all rows are in {other}: close what holds the file, and put this one in its place"

    def write(self, row: Row, model: Any) -> None:
        """Add a row; write the whole file anew where that is needed."""
        self.rows.append(row)
        sound, self.sound = self.sound and self.knows(row) and self.path.exists(), False
        try:
            if sound:
                with patiently(self.path, self.opened) as file:
                    file.write(self.spell([row]))
            else:
                self.write_all()
        except BaseException:  # Ctrl-C too: the row waits, and would be there twice
            self.rows.pop()
            raise
        self.sound = True

    def opened(self) -> TextIO:
        """Return the file, open for a row to be added."""
        return self.path.open("a", encoding="utf-8", newline="")

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

    def read(self, run: Any, resumed: bool) -> list[Any]:
        """Read the rows that are in the file; a last line that a killed process left unfinished is none."""
        try:
            try:
                with naming(self.path):
                    text = self.path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                raise self.unlike(f"is no text in UTF-8 ({error})") from error
            whole, torn = self.ended(text)
            found = self.parse(whole)
            if torn and not resumed and self.append and self.doubtful(found, torn):
                raise self.unlike(f"has a last line without an end, which may be cut off: {torn[:80]!r}",
                                  "If it is whole, add a line break after it; else remove it.")
        except ValueError as error:
            if self.append:
                raise
            run.notes.append(f"{error} It is written anew.")  # the history has all rows
            return []
        if torn:
            run.notes.append(f"{self.path}: its last line had no end and is left out: {torn[:80]!r}")
        return found

    def unlike(self, what: str, fix: str = "Name another file, or pass append=False.") -> ValueError:
        """Return the error for a file that no row can be added to."""
        return bad_value("path", received=f"{str(self.path)!r}, which {what}",
                         expected=f"a {self.suffix} file to append to, as this writes it", fix=fix)

    def ended(self, text: str) -> tuple[str, str]:
        """The lines that are whole, and the rest."""
        whole, _, torn = text.rpartition("\n")
        return whole, torn

    def doubtful(self, rows: list[Any], torn: str) -> bool:
        """Whether a last line without an end may be a whole row, of a program that leaves the end out."""
        return bool(rows) and torn.count(",") + 1 >= len(rows[0])

    def head(self) -> str:
        """The names of the columns."""
        return lines([[harmless(name) for name in self.columns]])

    def spell(self, rows: list[Any]) -> str:
        """Rows as they stand in the file."""
        return lines([["" if row.get(name) is None else row[name] for name in self.columns] for row in rows])

    def parse(self, text: str) -> list[Any]:
        """The rows of a file; what spreadsheets write in other ways, or another program, is refused."""
        try:
            head, *rows = table(text) or [[]]
        except csv.Error as error:
            raise self.unlike(f"cannot be read as a table ({error})") from error
        for mark in (";", "\t", "|"):
            if "epoch" not in head and len(head[0].split(mark) if head else []) > 1:
                raise self.unlike(f"has {mark!r} between its columns: {head[0][:80]!r}",
                                  "Save it with commas, as CSV in UTF-8, or name another file.")
        names = [itself(name) for name in head]
        if len(set(names)) < len(names):
            raise self.unlike(f"has a column twice: {', '.join(names)[:80]}")
        if ragged := next((row for row in rows if len(row) > len(names)), None):
            raise self.unlike(f"has {len(ragged)} values in a row and {len(names)} columns: {ragged}"[:200])
        return [dict(zip_longest(names, row)) for row in rows]

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

    def ended(self, text: str) -> tuple[str, str]:
        """The lines that are whole, and the rest; an object of JSON ends with its bracket."""
        whole, torn = super().ended(text)
        return (text, "") if isinstance(present(torn), dict) else (whole, torn)

    def doubtful(self, rows: list[Any], torn: str) -> bool:
        """No: see :meth:`ended`."""
        return False

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
    except (ValueError, AttributeError, RecursionError):
        return line


def in_json(value: Any) -> Any:
    """A number that every reader of JSON takes."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def harmless(name: str) -> str:
    """Return a column's name as spreadsheets take it for a text.

    A name may be a class's, from data of somebody else's, and a spreadsheet computes what begins like a formula.
    Source: https://owasp.org/www-community/attacks/CSV_Injection

    Example:
        >>> harmless("=1+1"), harmless("val_loss")
        ("'=1+1", 'val_loss')
    """
    return f"'{name}" if name.startswith(FORMULA) else name


def itself(name: str) -> str:
    """Return a column's name as it was before it was made harmless."""
    return name[1:] if name[:1] == "'" and name[1:].startswith(FORMULA) else name


def table(text: str) -> list[list[str]]:
    """Comma-separated lines as rows, without empty lines."""
    return [row for row in csv.reader(io.StringIO(text)) if row]


def lines(rows: list[list[Any]]) -> str:
    """Rows as comma-separated lines."""
    return "".join(map(line_of, rows))


def line_of(row: list[Any]) -> str:
    """One row; Python's csv puts a name with a carriage return in quotes only where that ends lines."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(row)
    return text.getvalue()[:-2] + "\n"
