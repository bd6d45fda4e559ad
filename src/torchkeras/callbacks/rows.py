"""The history in a file that grows by a row an epoch, so that a killed run keeps its curve."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

from torchkeras.display.targets import target
from torchkeras.engine.callback import Callback
from torchkeras.engine.checkpoint import write_whole

Row = dict[str, Any]


class CSVLogger(Callback):
    """Keeps the history as a table that spreadsheets and pandas read; each epoch is in the file when it ends.

    Args:
        path: the file, ``.csv``. It is begun anew by each fit.
        append: keep the rows that are in it, and write below them.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: it cannot be written.

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

    main_only = True
    suffix = ".csv"

    def __init__(self, path: str | os.PathLike[str], append: bool = False) -> None:
        self.path, self.append = target("path", path, (self.suffix,)), append

    def on_fit_start(self, model: Any) -> None:
        """What was there, if that is to stay."""
        kept = self.append and self.path.exists()
        self.rows = self.parse(self.path.read_text(encoding="utf-8")) if kept else []
        self.columns = list(dict.fromkeys(name for row in self.rows for name in row))
        self.begun = kept

    def on_validation_epoch_end(self, model: Any) -> None:
        """One more row; the whole file anew where it has a column that was not there."""
        row = {name: None if math.isnan(column[-1]) else column[-1] for name, column in model.run.history.items()}
        self.rows.append(row)
        fresh = [name for name in row if name not in self.columns]
        self.columns += fresh
        if fresh or not self.begun:
            write_whole(self.path, self.write_all)
            self.begun = True
        else:
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(self.spell([row]))

    def write_all(self, temporary: Path) -> None:
        """All rows, under a head."""
        temporary.write_text(self.head() + self.spell(self.rows), encoding="utf-8", newline="")

    def head(self) -> str:
        """The names of the columns."""
        return lines([self.columns])

    def spell(self, rows: list[Row]) -> str:
        """Rows as they stand in the file."""
        return lines([["" if row.get(name) is None else row[name] for name in self.columns] for row in rows])

    def parse(self, text: str) -> list[Row]:
        """The rows of a file."""
        return list(csv.DictReader(io.StringIO(text)))


class JSONLLogger(CSVLogger):
    """Keeps the history as one JSON object a line; each epoch is in the file when it ends.

    Args:
        path: the file, ``.jsonl``. It is begun anew by each fit.
        append: keep the rows that are in it, and write below them.

    Raises:
        TypeError: ``path`` is no path.
        ValueError: it cannot be written.

    Example:
        >>> model.fit(train, callbacks=[JSONLLogger("history.jsonl")])  # doctest: +SKIP
    """

    suffix = ".jsonl"

    def head(self) -> str:
        """None is needed: each row has its names."""
        return ""

    def spell(self, rows: list[Row]) -> str:
        """Rows as they stand in the file; JSON has no infinity, so that is told in words."""
        return "".join(json.dumps({name: in_json(value) for name, value in row.items()}) + "\n" for row in rows)

    def parse(self, text: str) -> list[Row]:
        """The rows of a file; a last line that a killed process left unfinished is none."""
        found = []
        for line in text.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found


def in_json(value: Any) -> Any:
    """A number that every reader of JSON takes."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def lines(rows: list[list[Any]]) -> str:
    """Rows as comma-separated lines."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
