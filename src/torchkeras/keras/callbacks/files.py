"""Callbacks that write files, and the one that prints."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchkeras.core.errors import bad_type, bad_value, check_str, whole_number
from torchkeras.core.screen import Plain
from torchkeras.display.epochlines import numbers
from torchkeras.display.targets import target
from torchkeras.keras.backup import mark
from torchkeras.keras.base import check_suffix
from torchkeras.keras.callbacks.base import Callback, Logs, MonitorCallback, finite


class ModelCheckpoint(MonitorCallback):
    """Saves the weights every epoch, or the best ones, as Keras's ModelCheckpoint decides.

    The files are those of :meth:`torchkeras.Model.save`: weights that plain torch loads.

    Args:
        filepath: the file; ``{epoch:02d}``, ``{batch}`` and names of the logs, such as
            ``{val_loss:.3f}``, are filled in. Epochs and batches count from 1 there.
        monitor: the number that tells which weights are the best.
        verbose: 1 prints each save.
        save_best_only: write only what is better than all before.
        save_weights_only: accepted as in Keras: files hold weights in any case.
        mode: "min", "max" or "auto".
        save_freq: "epoch", or a number of batches.
        initial_value_threshold: a value that must be beaten by the first save.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or the file cannot be written.

    Example:
        >>> ModelCheckpoint("best.pt", monitor="val_loss", save_best_only=True).mode
        'auto'
    """

    state = ("best", "seen")

    def __init__(self, filepath: str | os.PathLike[str], monitor: str = "val_loss",
                 verbose: int = 0, save_best_only: bool = False, save_weights_only: bool = False,
                 mode: str = "auto", save_freq: str | int = "epoch",
                 initial_value_threshold: float | None = None) -> None:
        super().__init__(monitor, mode)
        self.filepath = os.fspath(target("filepath", check_suffix("filepath", filepath)))
        check_freq(save_freq)
        if initial_value_threshold is not None:
            finite("initial_value_threshold", initial_value_threshold)
        self.verbose, self.save_best_only, self.save_freq = verbose, save_best_only, save_freq
        self.save_weights_only = save_weights_only
        self.best, self.seen, self.epoch = initial_value_threshold, 0, 0

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Note the epoch."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Save when enough batches were seen."""
        if self.save_freq == "epoch":
            return
        self.seen += 1
        if self.seen >= int(self.save_freq):
            self.seen = 0
            self.save(self.epoch, batch, logs or {})

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Save at the end of an epoch."""
        if self.save_freq == "epoch":
            self.save(epoch, None, logs or {})

    def save(self, epoch: int, batch: int | None, logs: Logs) -> None:
        """Save the weights, if they are to be saved."""
        if self.save_best_only:
            value = self.current(logs)
            if value is None or not self.improves(value, self.best):
                return
            self.best = value
        path = Path(self.path_for(epoch, batch, logs))
        if self.model.engine.run.communicator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
        self.model.save_weights(path)
        if self.verbose:
            Plain().line(f"Epoch {epoch + 1}: weights saved in {path}")

    def path_for(self, epoch: int, batch: int | None, logs: Logs) -> str:
        """Return the file's path with all names filled in."""
        words: dict[str, Any] = {"epoch": epoch + 1, **logs}
        if batch is not None:
            words["batch"] = batch + 1
        try:
            return self.filepath.format(**words)
        except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
            raise bad_value("filepath", received=repr(self.filepath),
                            expected="names in braces among " + ", ".join(words)) from error


class BackupAndRestore(Callback):
    """Lets an interrupted run go on where it was, exactly, when the same ``fit`` is called again.

    This is ``fit(..., resume=True)`` in Keras's words: weights, optimizer, history, data and random
    state go on bit for bit. Interrupted are runs that Ctrl-C, a signal, an error or ``run.stop``
    has ended; a run that ``stop_training`` or a loss that is NaN has ended is over.

    Args:
        backup_dir: the folder of the backup. Other files in it are left alone.
        save_freq: "epoch", or a number of batches.
        double_checkpoint: keep the backup before the newest, too.
        delete_checkpoint: delete the files of the backup when the run is over, and the folder if
            nothing else is in it and it was made for the backup.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or the folder cannot be written.

    Example:
        >>> BackupAndRestore("backup", save_freq=100).options()["save_every"]
        100
    """

    def __init__(self, backup_dir: str | os.PathLike[str], save_freq: str | int = "epoch",
                 double_checkpoint: bool = False, delete_checkpoint: bool = True) -> None:
        if not isinstance(backup_dir, (str, os.PathLike)) or not os.fspath(backup_dir):
            raise bad_type("backup_dir", received=repr(backup_dir), expected="the path of a folder")
        check_freq(save_freq)
        self.path = target("backup_dir", Path(backup_dir) / "weights.pt")
        self.makes_folder = not self.path.parent.exists()
        self.save_freq, self.double_checkpoint = save_freq, double_checkpoint
        self.delete_checkpoint = delete_checkpoint

    def options(self) -> dict[str, Any]:
        """Return the options of ``fit`` that do it."""
        return {"ckpt_path": os.fspath(self.path), "resume": True, "save_every": self.save_freq,
                "keep": 1 + self.double_checkpoint, "restore_best": False}

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Mark the backup as one, so that its files alone are deleted when the run is over."""
        if self.model.engine.run.communicator.is_main_process:
            mark(self.path, self.makes_folder)


class CSVLogger(Callback):
    """Writes the numbers of every epoch to a table, with Keras's columns.

    Args:
        filename: the file.
        separator: what stands between two cells.
        append: add to a file that is there.

    Raises:
        TypeError, ValueError: the file cannot be written.

    Example:
        >>> CSVLogger("log.csv", separator=";").append
        False
    """

    main_only = True

    def __init__(self, filename: str | os.PathLike[str], separator: str = ",",
                 append: bool = False) -> None:
        self.path = target("filename", filename)
        check_str("separator", separator, ",")
        if len(separator) != 1 or separator in '\r\n"':
            raise bad_value("separator", received=repr(separator), expected="one character, such "
                            "as ',' or a tab, other than a quote or a line break")
        self.separator, self.append = separator, append
        self.columns: list[str] = []
        self.resumed = False

    def state_dict(self) -> dict[str, Any]:
        """Return the columns, with which a resumed run goes on."""
        return {"columns": list(self.columns)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the rows that a stopped run wrote."""
        self.columns, self.resumed = list(state["columns"]), True

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Forget the columns of an earlier run."""
        self.columns, self.resumed = [], False

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Write a row; before the first one a new file and its head."""
        values = dict(logs or {})
        rows: list[list[object]] = []
        adds = self.append or self.resumed
        has_head = adds and self.path.exists() and self.path.stat().st_size > 0
        mode = "a" if self.columns or has_head else "w"
        if not self.columns:
            self.columns = sorted(values)
            if not any(name.startswith("val_") for name in self.columns):
                self.columns += [f"val_{name}" for name in self.columns]
            rows += [] if has_head else [["epoch", *self.columns]]
        rows.append([epoch, *(values.get(name, "NA") for name in self.columns)])
        with self.path.open(mode, newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=self.separator).writerows(rows)


class ProgbarLogger(Callback):
    """Prints each epoch: its number, then steps, time and numbers.

    With ``fit(..., verbose=0)`` it prints nothing, as in Keras. ``verbose`` of ``fit`` chooses a
    display without it.
    """

    main_only = True

    def on_epoch_begin(self, epoch: int, logs: Logs | None = None) -> None:
        """Print which epoch begins."""
        self.began, self.steps = time.perf_counter(), 0
        if self.params.get("verbose") and self.params["epochs"] > 1:
            Plain().line(f"Epoch {epoch + 1}/{self.params['epochs']}")

    def on_train_batch_end(self, batch: int, logs: Logs | None = None) -> None:
        """Count a step."""
        self.steps = batch + 1

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Print the numbers of the epoch."""
        if self.params.get("verbose"):
            steps = self.params.get("steps") or self.steps
            seconds = time.perf_counter() - self.began
            Plain().line(f"{self.steps}/{steps} - {seconds:.1f}s - {numbers(logs or {})}")


def check_freq(save_freq: object) -> None:
    """Raise unless a frequency is "epoch" or a number of batches."""
    if save_freq != "epoch":
        whole_number("save_freq", save_freq, least=1)
