"""VLog: this library's display for any other loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple

from torchkeras.core.errors import bad_type, one_of, whole_number
from torchkeras.core.screen import detect
from torchkeras.core.tracebacks import short_traceback
from torchkeras.core.types import Value
from torchkeras.display.live import LiveProgress
from torchkeras.display.notebook import NotebookProgress
from torchkeras.engine.history import History
from torchkeras.engine.monitor import Monitor


class Epochs(NamedTuple):
    """The epochs of a loop."""

    epochs: int
    initial_epoch: int = 0


@dataclass
class LoggedRun:
    """A run as the displays read it, filled by the user's loop."""

    config: Epochs
    monitor: Monitor
    history: History = field(default_factory=History)
    notes: list[str] = field(default_factory=list)
    device: str = ""
    stage: str = "train"
    epoch: int = 1
    step: int = 0
    steps: int | None = None
    global_step: int = 0
    logs: dict[str, Any] = field(default_factory=dict)
    stop_reason: str | None = None
    interrupted: bool = False

    def current_metrics(self) -> dict[str, float]:
        """Return the numbers of the last step."""
        return {name: to_number(name, value) for name, value in self.logs.items()}


class VLog:
    """Show the progress of any loop: gradient boosting, a detector's own trainer, a plain ``for``.

    The same picture in a notebook, live line in a terminal and plain lines in a log as those of
    ``fit``. As a context manager it starts and ends by itself, and shows an error.

    Args:
        epochs: how many there are to be.
        monitor_metric: which number of ``log_epoch`` says what is best.
        monitor_mode: "min" or "max".
        plot: draw the curves.
        write: takes each line in place of the display.

    Raises:
        TypeError: ``epochs`` is not an int.
        ValueError: it is below 1, or the mode is neither of the two.

    Example:
        >>> vlog = VLog(epochs=2, monitor_metric="val_loss", monitor_mode="min",
        ...             write=lambda line: None)
        >>> vlog.log_start()
        >>> for epoch in range(2):
        ...     for step in range(10):
        ...         vlog.log_step({"train_loss": 1 / (step + 1)})
        ...     vlog.log_epoch({"train_loss": 0.3, "val_loss": 0.4 - epoch / 10})
        >>> vlog.log_end()
        >>> vlog.history["val_loss"], vlog.best_epoch
        ([0.4, 0.30000000000000004], 2)
    """

    @short_traceback
    def __init__(self, epochs: int, monitor_metric: str = "val_loss", monitor_mode: str = "min", *,
                 plot: bool = True, write: Callable[[str], object] | None = None) -> None:
        whole_number("epochs", epochs, least=1)
        one_of("monitor_mode", monitor_mode, ("min", "max"))
        self.asked = (monitor_metric, monitor_mode)
        self.epochs, self.plot, self.write = epochs, plot, write
        self.run = self.fresh()
        self.shown: LiveProgress | NotebookProgress | None = None
        self.steps: dict[str, int] = {}  # of the last pass of each stage

    def fresh(self) -> LoggedRun:
        """Return an empty run."""
        return LoggedRun(Epochs(self.epochs), Monitor(*self.asked))

    @property
    def history(self) -> History:
        """Return the history: one row an epoch, as ``fit`` keeps it."""
        return self.run.history

    @property
    def best_epoch(self) -> int | None:
        """Return the epoch with the best number; None before the first."""
        return self.run.monitor.best_epoch

    def log_start(self) -> None:
        """Open the display and forget what was logged before."""
        self.run, self.steps = self.fresh(), {}
        in_notebook = self.write is None and detect() == "notebook"
        self.shown = (NotebookProgress(self.plot) if in_notebook
                      else LiveProgress(self.plot, write=self.write))
        self.shown.on_fit_start(self)
        self.begin(1)

    def begin(self, epoch: int) -> None:
        """Begin an epoch with its training pass."""
        self.run.epoch, self.run.stage, self.run.step, self.run.logs = epoch, "train", 0, {}
        self.run.steps = self.steps.get("train")
        self.display.on_epoch_start(self)

    @short_traceback
    def log_step(self, info: Mapping[str, Any], training: bool = True) -> None:
        """Log a batch.

        Args:
            info: its numbers by name, such as ``{"train_loss": 0.3}``: floats, or scalar tensors,
                which are read only when they are drawn.
            training: False for a batch of validation.
        """
        display, stage = self.display, "train" if training else "val"
        run = self.run
        if stage != run.stage:
            display.on_train_epoch_end(self)
            self.steps[run.stage] = run.step
            run.stage, run.step, run.steps = stage, 0, self.steps.get(stage)
        run.step += 1
        run.global_step += training
        run.logs = dict(info)
        if training and "train_loss" not in info and "loss" in info:
            run.logs["train_loss"] = run.logs.pop("loss")
        display.on_step_end(self)

    @short_traceback
    def log_epoch(self, info: Mapping[str, Any]) -> None:
        """Log an epoch that is over.

        Args:
            info: its numbers by name, such as ``{"train_loss": 0.3, "val_loss": 0.4}``.

        Raises:
            TypeError: a value is not a number.
            ValueError: the monitored number is not among them.
        """
        display, run = self.display, self.run
        row = {name: to_number(name, value) for name, value in info.items() if name != "epoch"}
        one_of("monitor_metric", run.monitor.name, row)
        self.steps[run.stage] = run.step
        run.history.open(run.epoch)
        run.history.record(row)
        run.monitor.update(run.epoch, row[run.monitor.name])
        display.on_validation_epoch_end(self)
        if run.epoch < self.epochs:
            self.begin(run.epoch + 1)

    def log_end(self) -> None:
        """Close the display with its last view."""
        display = self.display
        done = len(self.run.history.get("epoch", ()))
        if done < self.epochs and self.run.stop_reason is None:
            self.run.stop_reason = f"ended after {done} of {self.epochs} epochs"
        display.on_fit_end(self)

    @property
    def display(self) -> LiveProgress | NotebookProgress:
        """Return the display; open it if it is not open yet."""
        if self.shown is None:
            self.log_start()
        return self.shown  # type: ignore[return-value]

    def __enter__(self) -> VLog:
        self.log_start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        if error is None:
            self.log_end()
        else:
            self.display.on_exception(self)


def to_number(name: str, value: Value) -> float:
    """Return a logged value as a float."""
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        received = f"{value!r} ({type(value).__name__})"
        raise bad_type(f"info[{name!r}]", received=received, expected="a number") from error
