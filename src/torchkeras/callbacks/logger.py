"""The base of all row loggers: no row is lost or repeated on resume, no failure ends a run."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.engine.callback import Callback

if TYPE_CHECKING:
    from torchkeras.display.protocols import RunView
    from torchkeras.engine.run import Run
    from torchkeras.engine.trainable import Trainable

Row = dict[str, Any]
Form = tuple[Callable[[object], bool],
             str]  # a check of a saved value, and what it expects in words


class RowLogger(Callback):
    """Writes each epoch's row of the history when the epoch ends; subclasses override ``write``.

    A row that cannot be written stays in memory; it is tried again with the next row and at the end
    of the run. A resumed run writes those rows of its history that the log did not get before the
    stop.
    """

    main_only = True
    failures: tuple[type[Exception], ...] = (Exception,)  # after these a row is tried again
    logged: int | None = None  # the epoch of the last row that the log has
    began = 0.0  # start of the run in seconds since 1970: several runs may share a log
    forms: Mapping[str, Form] = {
        "logged": (lambda value: is_count(value), "the number of an epoch"),
        "began": (lambda value: is_moment(value), "seconds since 1970")}

    def __init__(self) -> None:
        self.pending: list[Row] = []
        self.failing = False
        self.stopped: dict[str, Any] = {}  # the state of the log in the run that is resumed

    def state_dict(self) -> dict[str, Any]:
        """Return which rows the log has, for a resumed run."""
        return {"logged": self.logged, "began": self.began}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Store the state of the log in the stopped run; ``on_fit_start`` uses it.

        Raises:
            CheckpointCorruptError: the state is not one of a log.
        """
        for name, form in self.forms.items():
            from_state(self, state, name, *form)
        self.stopped = {name: value for name, value in state.items() if value is not None}

    def resumed(self, run: Run) -> bool:
        """Return whether this run was resumed; set ``began``, when it first started."""
        resumed = run.resumes_at is not None
        self.began = self.stopped.get("began", 0.0) if resumed else time.time()
        return resumed

    def begin(self, model: Trainable) -> None:
        """Write the rows that a resumed run finds missing; call it in ``on_fit_start``."""
        self.pending, self.failing, self.logged = [], False, None
        if model.run.resumes_at is not None:
            self.logged = self.stopped.get("logged")
            least = -1 if self.logged is None else self.logged
            self.pending = [row for row in rows_of(model.run.history) if row["epoch"] > least]
            self.write_pending(model)

    def on_validation_epoch_end(self, model: Trainable) -> None:
        """Write the epoch's row, after those that are still pending."""
        self.pending.append(rows_of(model.run.history, newest=1)[0])
        self.write_pending(model)

    def write(self, row: Row, model: Trainable) -> None:
        """Write one row, or raise."""
        raise NotImplementedError

    def write_pending(self, model: Trainable) -> None:
        """Write all pending rows; warn when writing begins to fail."""
        try:
            while self.pending:
                self.write(self.pending[0], model)
                self.logged = self.pending.pop(0)["epoch"]
            self.failing = False
        except self.failures as error:
            self.warn_once(model.run, f"the row of epoch {self.pending[0]['epoch']}", error)

    def warn_once(self, run: Run, what: str, error: Exception) -> None:
        """Warn of a failure, unless the previous attempt failed too."""
        if not self.failing:
            note_and_warn(run, f"{what} could not be written to {self.destination()} "
                          f"({type(error).__name__}: {error}); it is tried "
                          "again with the next row, and the run continues")
        self.failing = True

    def end(self, model: Trainable) -> None:
        """Write the pending rows at the end of a run; warn of those that fail."""
        self.write_pending(model)
        if self.pending:
            note_and_warn(model.run, f"{len(self.pending)} rows could not be written to "
                          f"{self.destination()}; {self.save_elsewhere()}")
        self.pending, self.stopped = [], {}

    def save_elsewhere(self) -> str:
        """Save rows that cannot be written in another place, if possible; return where they are."""
        return "they are in model.history"

    def destination(self) -> str:
        """Return where the rows are written, for messages."""
        return type(self).__name__


class RunLogger(RowLogger):
    """Writes to a service that has runs of its own; a resumed run continues in the same one."""

    how = ""  # how a user opens a run of the service again
    failed: str | int = 1  # the status of a run that an error ended
    opened = False  # whether the open run was opened here, and not by the user
    run_id: str | None = None
    already_logged: Collection[object] = frozenset()  # what the service has of the run at its start
    forms = {**RowLogger.forms, "run_id": (lambda value: is_name(value), "the name of a run")}

    def state_dict(self) -> dict[str, Any]:
        """Return which run of the service this is, and which rows it has."""
        return {**super().state_dict(), "run_id": self.run_id}

    def on_fit_start(self, model: Trainable) -> None:
        """Open a run, unless the user has opened one; a resumed run opens its own again."""
        stopped = self.stopped.get("run_id") if self.resumed(model.run) else None
        self.log_to(self.open(model.run, stopped), stopped, model)
        vars(model)["run_id"] = self.run_id  # where older notebooks read it

    def open(self, run: Run, stopped: str | None) -> str:
        """Open a run of the service where none is open, and return the name of the one that is.

        Args:
            run: the call of ``fit``.
            stopped: the service's run that the stopped run was logged in.
        """
        raise NotImplementedError

    def fetch_logged(self) -> Collection[object]:
        """Return what the service's run has already logged."""
        raise NotImplementedError

    def on_exception(self, model: Trainable) -> None:
        """Close the run as failed."""
        self.end(model)
        self.close(model.run, self.failed)

    def close(self, run: Run, status: str | int) -> None:
        """Close the service's run, unless the user opened it."""
        if self.opened:
            self.opened = False
            with warn_on_failure(run, "the end of the run", self.destination()):
                self.finish(status)

    def finish(self, status: str | int) -> None:
        """Close the service's run with a status."""
        raise NotImplementedError

    def log_to(self, run_id: str, stopped: str | None, model: Trainable) -> None:
        """Log to a run of the service; one that is not the stopped run's gets all rows."""
        self.run_id, self.already_logged = run_id, frozenset()
        if stopped == run_id:
            self.already_logged = self.fetch_logged()
        elif stopped:
            warn_of_another_run(model.run, self.destination(), stopped, run_id, self.how)
            self.stopped = {}
        self.begin(model)


def rows_of(history: Mapping[str, list[float]], newest: int | None = None) -> list[Row]:
    """Return the newest ``newest`` rows of a history, or all; None stands for NaN.

    Example:
        >>> rows_of({"epoch": [1, 2], "val_loss": [math.nan, 0.5]})
        [{'epoch': 1, 'val_loss': None}, {'epoch': 2, 'val_loss': 0.5}]
    """
    count = len(history["epoch"]) if "epoch" in history else 0
    return [{name: None if math.isnan(column[place]) else column[place]
             for name, column in history.items()}
            for place in range(max(count - newest, 0) if newest else 0, count)]


def numbers(row: Row) -> dict[str, float]:
    """Return the numbers of a row, without the epoch and without missing values."""
    return {name: float(value) for name, value in row.items() if name != "epoch"
            and value is not None}


def note_and_warn(run: RunView, text: str) -> None:
    """Add a note to a run and warn: its reader must know, but the run continues."""
    run.notes.append(text)
    warnings.warn(text, stacklevel=2)


@contextmanager
def warn_on_failure(run: RunView, what: str, place: str) -> Iterator[None]:
    """Turn an error at the end of a run into a warning: the run is over anyway."""
    try:
        yield
    except Exception as error:
        note_and_warn(run, f"{what} could not be written to {place} ({type(error).__name__}: "
                      f"{error})")


def warn_of_another_run(run: Run, place: str, stopped: str, now: str, how: str) -> None:
    """Warn that a resumed run is logged elsewhere than before; it gets all rows there."""
    note_and_warn(run, f"{place}: the stopped run was logged in {stopped}, and this one is in "
                  f"{now}, which gets its earlier "
                  f"rows too; to go on in the former, open it yourself with {how}")


def remove_temporary_files(folder: Path, name: str) -> None:
    """Remove temporary files that a killed run left beside files of a name."""
    for left in folder.glob(f".{name}.*.tmp"):
        with suppress(OSError):
            left.unlink()


def from_state(callback: Callback, state: object, name: str, fits: Callable[[object], bool],
               expected: str) -> Any:
    """Return one value of a saved state after checking it; None where it is missing.

    Raises:
        CheckpointCorruptError: the value is none that this callback saves.
    """
    kind = type(callback).__name__
    if not isinstance(state, Mapping):
        raise CheckpointCorruptError(f"what was saved of {kind} is a {type(state).__name__}")
    value = state.get(name)
    if value is not None and not fits(value):
        raise CheckpointCorruptError(f"what was saved of {kind} has {repr(value)[:80]} as its "
                                     f"{name!r}, where {expected} belongs")
    return value


def is_count(value: object) -> bool:
    """Return whether a value is a whole number of 0 or more."""
    return type(value) is int and 0 <= value < 2**63


def is_moment(value: object) -> bool:
    """Return whether a value is a moment in seconds since 1970, up to the year 9999."""
    return (type(value) is int or type(value) is float) and 0 <= value < 253402300800


def is_name(value: object) -> bool:
    """Return whether a value can name a run of a service, and is no path or URL."""
    return (isinstance(value, str) and 0 < len(value) <= 256 and value.isprintable()
            and value not in (".", "..")
            and not set(value) & set("/\\#?%:"))
