"""Write the history to a file, one row an epoch, so that a killed run keeps its curve."""

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
from typing import TYPE_CHECKING, Any, TextIO

from torchkeras.callbacks.logger import Row, RowLogger, is_count, remove_temporary_files, rows_of
from torchkeras.checkpoint.weights_path import write_atomically
from torchkeras.core.errors import bad_value
from torchkeras.core.files import name_in_errors, retry_while_held
from torchkeras.display.targets import target

if TYPE_CHECKING:
    from torchkeras.engine.run import Run
    from torchkeras.engine.trainable import Trainable

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # of East Asian widths too


class CSVLogger(RowLogger):
    """Writes the history as a table for spreadsheets and pandas, a row as each epoch ends.

    A resumed run continues in the file: it holds the rows of the run without a gap, none twice.
    While the file cannot be written (a full disk, another program that locks it), rows stay in
    memory and the run continues; if that lasts until its end, all rows go to a file of another name
    beside it. A name that spreadsheets would take for a formula gets an apostrophe before it.

    Args:
        path: the file, ``.csv``. Each fit overwrites it, except one that is resumed.
        append: keep the rows of earlier runs, and write below them.

    Raises:
        TypeError: ``path`` is not a path.
        ValueError: it cannot be written; or, with ``append``, is no comma-separated table in UTF-8.

    Example:
        >>> import tempfile, torch
        >>> from torchkeras import KerasModel
        >>> model = KerasModel(torch.nn.Linear(4, 1), loss_fn="mse")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = CSVLogger(os.path.join(folder, "history.csv"))
        ...     history = model.fit((torch.zeros(8, 4), torch.zeros(8, 1)), epochs=2,
        ...                         ckpt_path=None, quiet=True, callbacks=[log])
        ...     print(log.path.read_text().splitlines()[0])
        epoch,train_loss,lr
    """

    suffix = ".csv"
    failures = (OSError,)
    forms = {"earlier": (is_count, "a number of rows")}

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        super().__init__()
        self.path, self.append = target("path", path, (self.suffix,)), append
        self.earlier: int | None = None  # rows of earlier runs in the file

    def state_dict(self) -> dict[str, Any]:
        """Return how many rows at the start of the file belong to earlier runs."""
        return {"earlier": self.earlier}

    def on_fit_start(self, model: Trainable) -> None:
        """Read the rows that stay in the file; a resumed run writes its own below them at once."""
        resumed = model.run.resumes_at is not None
        self.pending, self.failing = [], False
        has_rows = (self.append or resumed) and self.path.exists()
        found = self.read(model.run, resumed) if has_rows else []
        earlier = self.stopped.get("earlier") if resumed else None
        whole_file = self.append and earlier is None
        self.earlier = len(found) if whole_file else min(earlier or 0, len(found))
        self.rows, found = found[:self.earlier], found[self.earlier:]
        self.columns: list[str] = []
        self.sound = False  # whether the file holds exactly these rows
        if resumed:
            self.rows += self.merged(rows_of(model.run.history), found)
            self.restore_file(model.run)

    def restore_file(self, run: Run) -> None:
        """Write the file as it was when the state of the run was saved."""
        remove_temporary_files(self.path.parent, glob.escape(self.path.name))
        try:
            self.write_all() if self.rows else self.path.unlink(missing_ok=True)
        except OSError as error:
            self.warn_once(run, "its rows", error)

    def write_all(self) -> None:
        """Write the whole file again, under the columns of all rows."""
        self.sound = False
        self.write_to(self.path)
        self.sound = True

    def write_to(self, path: Path) -> None:
        """Write all rows to a file, under the columns of all of them."""
        self.columns = list(dict.fromkeys(name for row in self.rows if isinstance(row, dict)
                                          for name in row))
        text = self.header() + self.format_rows(self.rows)
        write_atomically(path, lambda temporary: temporary.write_text(
            text, encoding="utf-8", newline=""))

    def save_elsewhere(self) -> str:
        """Write all rows to another file, before the process ends; return where they are."""
        other = self.path.with_stem(f"{self.path.stem}-{datetime.now():%Y%m%d-%H%M%S}")
        self.rows += self.pending
        try:
            self.write_to(other)
        except OSError as error:
            return (f"nor to {other.name} beside it ({error.strerror}): they are in model.history, "
                    "save them elsewhere")
        return f"all rows are in {other}: close what holds the file, and put this one in its place"

    def write(self, row: Row, model: Trainable) -> None:
        """Append a row; write the whole file again where a column is new."""
        self.rows.append(row)
        sound, self.sound = self.sound and self.knows(row) and self.path.exists(), False
        try:
            if sound:
                with retry_while_held(self.path, self.opened) as file:
                    file.write(self.format_rows([row]))
            else:
                self.write_all()
        except BaseException:  # Ctrl-C too: the row stays pending, and would be written twice
            self.rows.pop()
            raise
        self.sound = True

    def opened(self) -> TextIO:
        """Open the file for appending."""
        return self.path.open("a", encoding="utf-8", newline="")

    def end(self, model: Trainable) -> None:
        """Write the rows that are still pending."""
        if self.failing and not self.pending:
            self.restore_file(model.run)
        super().end(model)
        self.earlier = None

    def on_fit_end(self, model: Trainable) -> None:
        """Write the rows that are still pending."""
        self.end(model)

    def on_exception(self, model: Trainable) -> None:
        """Write the rows that are still pending."""
        self.end(model)

    def destination(self) -> str:
        """Return the path of the file, for messages."""
        return str(self.path)

    def knows(self, row: Row) -> bool:
        """Return whether the file has all columns of a row."""
        return set(row) <= set(self.columns)

    def read(self, run: Run, resumed: bool) -> list[Any]:
        """Read the rows of the file; drop a last line that a killed process left unfinished."""
        try:
            try:
                with name_in_errors(self.path):
                    text = self.path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                raise self.format_error(f"is not UTF-8 text ({error})") from error
            whole, torn = self.split_lines(text)
            found = self.parse(whole)
            if torn and not resumed and self.append and self.may_be_whole(found, torn):
                raise self.format_error(
                    f"has a last line without an end, which may be cut off: {torn[:80]!r}",
                    "If it is whole, add a line break after it; else remove it.")
        except ValueError as error:
            if self.append:
                raise
            run.notes.append(f"{error} It is written anew.")  # the history has all rows
            return []
        if torn:
            run.notes.append(f"{self.path}: its last line had no end and is left out: "
                             f"{torn[:80]!r}")
        return found

    def format_error(self, what: str,
                     fix: str = "Name another file, or pass append=False.") -> ValueError:
        """Return the error for a file that no row can be appended to."""
        return bad_value("path", received=f"{str(self.path)!r}, which {what}",
                         expected=f"a {self.suffix} file to append to, as this writes it", fix=fix)

    def split_lines(self, text: str) -> tuple[str, str]:
        """Split a text into its complete lines and an unfinished rest."""
        whole, _, torn = text.rpartition("\n")
        return whole, torn

    def may_be_whole(self, rows: list[Any], torn: str) -> bool:
        """Return whether an unfinished last line may be a whole row without a line break."""
        return bool(rows) and torn.count(",") + 1 >= len(rows[0])

    def header(self) -> str:
        """Return the header line."""
        return lines([[escaped(name) for name in self.columns]])

    def format_rows(self, rows: list[Any]) -> str:
        """Return rows as the text that the file holds."""
        return lines([["" if row.get(name) is None else row[name] for name in self.columns]
                      for row in rows])

    def parse(self, text: str) -> list[Any]:
        """Return the rows of a text; raise ValueError if it is no comma-separated table."""
        try:
            head, *rows = table(text) or [[]]
        except csv.Error as error:
            raise self.format_error(f"cannot be read as a table ({error})") from error
        for mark in (";", "\t", "|"):
            if "epoch" not in head and len(head[0].split(mark) if head else []) > 1:
                raise self.format_error(
                    f"has {mark!r} between its columns: {head[0][:80]!r}",
                    "Save it with commas, as CSV in UTF-8, or name another file.")
        names = [unescaped(name) for name in head]
        if len(set(names)) < len(names):
            raise self.format_error(f"has a column twice: {', '.join(names)[:80]}")
        if ragged := next((row for row in rows if len(row) > len(names)), None):
            raise self.format_error(f"has {len(ragged)} values in a row and {len(names)} columns: "
                                    f"{ragged}"[:200])
        return [dict(zip_longest(names, row)) for row in rows]

    def merged(self, own: list[Row], found: list[Any]) -> list[Any]:
        """Return the rows of a stopped run as the file should hold them; it has ``found``."""
        return own


class JSONLLogger(CSVLogger):
    """Writes the history as one JSON object a line, as each epoch ends.

    Args:
        path: the file, ``.jsonl``. Each fit overwrites it, except one that is resumed.
        append: keep the lines of earlier runs, and write below them.

    Raises:
        TypeError: ``path`` is not a path.
        ValueError: it cannot be written; or, with ``append``, is not UTF-8 text.

    Example:
        >>> model.fit(train, callbacks=[JSONLLogger("history.jsonl")])  # doctest: +SKIP
    """

    suffix = ".jsonl"

    def knows(self, row: Row) -> bool:
        """Return True: each line holds its own names."""
        return True

    def header(self) -> str:
        """Return nothing: JSON lines have no header."""
        return ""

    def format_rows(self, rows: list[Any]) -> str:
        """Return rows as JSON lines; infinity and NaN, which JSON lacks, become strings."""
        return "".join((row if isinstance(row, str) else json.dumps(
            {name: in_json(value) for name, value in row.items()})) + "\n" for row in rows)

    def split_lines(self, text: str) -> tuple[str, str]:
        """Split a text into complete lines and the rest; a JSON object needs no line break."""
        whole, torn = super().split_lines(text)
        return (text, "") if isinstance(without_nulls(torn), dict) else (whole, torn)

    def may_be_whole(self, rows: list[Any], torn: str) -> bool:
        """Return False: see :meth:`split_lines`."""
        return False

    def parse(self, text: str) -> list[Any]:
        """Return the lines of a file's text unchanged."""
        return [line for line in text.split("\n") if line.strip()]

    def merged(self, own: list[Row], found: list[Any]) -> list[Any]:
        """Return the rows of a stopped run; a line that holds the same numbers stays as it is."""
        return [line if line is not None
                and without_nulls(line) == without_nulls(self.format_rows([row])) else row
                for row, line in zip_longest(own, found[:len(own)])]


def without_nulls(line: str) -> object:
    """Return a JSON line as a dict without nulls; a line that is no object, unchanged."""
    try:
        return {name: value for name, value in json.loads(line).items() if value is not None}
    except (ValueError, AttributeError, RecursionError):
        return line


def in_json(value: object) -> object:
    """Return a value that every JSON reader accepts."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def escaped(name: str) -> str:
    """Return a column's name so that spreadsheets read it as text.

    A name may come from foreign data, and a spreadsheet computes what begins like a formula.
    Source: https://owasp.org/www-community/attacks/CSV_Injection

    Example:
        >>> escaped("=1+1"), escaped("val_loss")
        ("'=1+1", 'val_loss')
    """
    return f"'{name}" if name.startswith(FORMULA) else name


def unescaped(name: str) -> str:
    """Return a column's name without the apostrophe that ``escaped`` adds."""
    return name[1:] if name[:1] == "'" and name[1:].startswith(FORMULA) else name


def table(text: str) -> list[list[str]]:
    """Parse comma-separated lines into rows; empty lines are left out."""
    return [row for row in csv.reader(io.StringIO(text)) if row]


def lines(rows: list[list[Any]]) -> str:
    """Format rows as comma-separated lines."""
    return "".join(map(line_of, rows))


def line_of(row: list[Any]) -> str:
    """Format one row. Python's csv quotes a carriage return only where it ends lines."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(row)
    return text.getvalue()[:-2] + "\n"
