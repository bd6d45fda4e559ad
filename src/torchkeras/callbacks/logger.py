"""What all logs of rows share: nothing is lost by a stop, nothing is written twice, and no failure ends a run."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.engine.callback import Callback

Row = dict[str, Any]
Form = tuple[Callable[[Any], bool], str]  # what may stand in a state, as a test and in words


class RowLogger(Callback):
    """Writes each epoch's row of the history when the epoch ends; subclasses say where to, in ``write``.

    A row that cannot be written waits in memory until the next one comes, and for the end of the run. A resumed run
    writes those rows of its history that the log did not get before the stop.
    """

    main_only = True
    failures: tuple[type[Exception], ...] = (Exception,)  # those for which a row is tried again
    logged: int | None = None  # the epoch of the last row that the log has
    began = 0.0  # when the run did, in seconds since 1970: several runs may share a log
    forms: Mapping[str, Form] = {
        "logged": (lambda value: is_count(value), "the number of an epoch"),
        "began": (lambda value: is_moment(value), "seconds since 1970")}

    def __init__(self) -> None:
        self.waiting: list[Row] = []
        self.failing = False
        self.stopped: dict[str, Any] = {}  # what the stopped run said of the log

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run must know of the log."""
        return {"logged": self.logged, "began": self.began}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take what the stopped run said of the log; it is used when the run begins.

        Raises:
            CheckpointCorruptError: it is nothing that a log says.
        """
        for name, form in self.forms.items():
            from_state(self, state, name, *form)
        self.stopped = {name: value for name, value in state.items() if value is not None}

    def resumed(self, run: Any) -> bool:
        """Whether the log of a stopped run is gone on with; takes down when a run began."""
        resumed = run.resumes_at is not None
        self.began = self.stopped.get("began", 0.0) if resumed else time.time()
        return resumed

    def begin(self, model: Any) -> None:
        """Write the rows that a resumed run finds missing; for ``on_fit_start``, when the log is open."""
        self.waiting, self.failing, self.logged = [], False, None
        if model.run.resumes_at is not None:
            self.logged = self.stopped.get("logged")
            least = -1 if self.logged is None else self.logged
            self.waiting = [row for row in rows_of(model.run.history) if row["epoch"] > least]
            self.write_waiting(model)

    def on_validation_epoch_end(self, model: Any) -> None:
        """Write the epoch's row, and those that wait."""
        self.waiting.append(rows_of(model.run.history, newest=1)[0])
        self.write_waiting(model)

    def write(self, row: Row, model: Any) -> None:
        """Write one row, or raise."""
        raise NotImplementedError

    def write_waiting(self, model: Any) -> None:
        """Write what can be written; of a failure, tell when it begins."""
        try:
            while self.waiting:
                self.write(self.waiting[0], model)
                self.logged = self.waiting.pop(0)["epoch"]
            self.failing = False
        except self.failures as error:
            self.fails(model.run, f"the row of epoch {self.waiting[0]['epoch']}", error)

    def fails(self, run: Any, what: str, error: Exception) -> None:
        """Tell of a failure when it begins."""
        if not self.failing:
            tell(run, f"{what} could not be written to {self.place()} ({type(error).__name__}: {error}); it is tried "
                 "again with the next row, and the run goes on")
        self.failing = True

    def end(self, model: Any) -> None:
        """Write what still waits, and tell of what could not be; for ``on_fit_end`` and ``on_exception``."""
        self.write_waiting(model)
        if self.waiting:
            tell(model.run, f"{len(self.waiting)} rows could not be written to {self.place()}; {self.elsewhere()}")
        self.waiting, self.stopped = [], {}

    def elsewhere(self) -> str:
        """Bring rows that cannot be written to safety where that can be done; say where they are."""
        return "they are in model.history"

    def place(self) -> str:
        """Return where the rows go to, for a message."""
        return type(self).__name__


class RunLogger(RowLogger):
    """Writes to a service that has runs of its own; a resumed run goes on in the one that it was in."""

    how = ""  # how a user opens a run of the service again
    run_id: str | None = None
    held: Any = frozenset()  # what the log has of the run, as it begins
    forms = {**RowLogger.forms, "run_id": (lambda value: is_name(value), "the name of a run")}

    def state_dict(self) -> dict[str, Any]:
        """Return which run of the service it is, and what it has."""
        return {**super().state_dict(), "run_id": self.run_id}

    def all_held(self) -> Any:
        """Return what the run that is open has already."""
        raise NotImplementedError

    def begin_in(self, run_id: str, stopped: str | None, model: Any) -> None:
        """Write to a run of the service from now on; where it is not the stopped one, it gets all rows."""
        self.run_id, self.held = run_id, frozenset()
        if stopped == run_id:
            self.held = self.all_held()
        elif stopped:
            another_run(model.run, self.place(), stopped, run_id, self.how)
            self.stopped = {}
        self.begin(model)


def rows_of(history: Mapping[str, list[float]], newest: int | None = None) -> list[Row]:
    """Return the rows of a history, or the newest so many, with None where there is no number.

    Example:
        >>> rows_of({"epoch": [1, 2], "val_loss": [math.nan, 0.5]})
        [{'epoch': 1, 'val_loss': None}, {'epoch': 2, 'val_loss': 0.5}]
    """
    count = len(history["epoch"]) if "epoch" in history else 0
    return [{name: None if math.isnan(column[place]) else column[place] for name, column in history.items()}
            for place in range(max(count - newest, 0) if newest else 0, count)]


def numbers(row: Row) -> dict[str, float]:
    """Return the numbers of a row that are there, without the epoch's."""
    return {name: float(value) for name, value in row.items() if name != "epoch" and value is not None}


def tell(run: Any, text: str) -> None:
    """Say something of a run that its reader must know, and that is no reason to end it."""
    run.notes.append(text)
    warnings.warn(text, stacklevel=2)


@contextmanager
def told_of(run: Any, what: str, place: str) -> Iterator[None]:
    """Tell of what goes wrong at the end of a run, which is over all the same."""
    try:
        yield
    except Exception as error:
        tell(run, f"{what} could not be written to {place} ({type(error).__name__}: {error})")


def another_run(run: Any, place: str, stopped: str, now: str, how: str) -> None:
    """Tell that a resumed run is logged in another place than the stopped one was; it gets all rows there."""
    tell(run, f"{place}: the stopped run was logged in {stopped}, and this one is in {now}, which gets its earlier "
         f"rows too; to go on in the former, open it yourself with {how}")


def sweep(folder: Path, name: str) -> None:
    """Remove what a killed run left half written beside files of a name; a resumed run is alone with them."""
    for left in folder.glob(f".{name}.*.tmp"):
        with suppress(OSError):
            left.unlink()


def from_state(listener: Any, state: Any, name: str, fits: Callable[[Any], bool], expected: str) -> Any:
    """Return a value of a saved state, which anybody may have made; None where nothing is said of it.

    Raises:
        CheckpointCorruptError: it is nothing that the listener saves.
    """
    kind = type(listener).__name__
    if not isinstance(state, Mapping):
        raise CheckpointCorruptError(f"what was saved of {kind} is a {type(state).__name__}")
    value = state.get(name)
    if value is not None and not fits(value):
        raise CheckpointCorruptError(f"what was saved of {kind} has {repr(value)[:80]} as its {name!r}, where "
                                     f"{expected} belongs")
    return value


def is_count(value: Any) -> bool:
    """Return whether a value is a whole number of 0 or more."""
    return type(value) is int and 0 <= value < 2**63


def is_moment(value: Any) -> bool:
    """Return whether a value is a moment in seconds since 1970, up to the year 9999."""
    return type(value) in (int, float) and 0 <= value < 253402300800


def is_name(value: Any) -> bool:
    """Return whether a value can name a run of a service, and leads to no other folder or address."""
    return (isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable() and value not in (".", "..")
            and not set(value) & set("/\\#?%:"))
