"""Log a run to TensorBoard."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchkeras.callbacks.logger import Row, RowLogger, numbers
from torchkeras.callbacks.needed import needed
from torchkeras.core.errors import whole_number

if TYPE_CHECKING:
    from torchkeras.engine.trainable import Trainable


class TensorBoardCallback(RowLogger):
    """See the history in TensorBoard, training and validation of a quantity in one chart.

    A resumed run continues in the same folder, and each epoch counts once. While the folder cannot
    be written, rows stay in memory and the run continues.

    Args:
        save_dir: the folder that ``tensorboard --logdir`` is given.
        model_name: the run's folder in it.
        log_weight: also log histograms of the weights.
        log_weight_freq: log them every ``log_weight_freq`` epochs.

    Raises:
        ImportError: tensorboard is not installed.
        TypeError: ``log_weight_freq`` is not an int.
        ValueError: it is below 1.

    Example:
        >>> model.fit(train, callbacks=[TensorBoardCallback("runs", "digits")])  # doctest: +SKIP
    """

    def __init__(self, save_dir: str | os.PathLike[str] = "runs", model_name: str = "model",
                 log_weight: bool = False, log_weight_freq: int = 5) -> None:
        super().__init__()
        whole_number("log_weight_freq", log_weight_freq, least=1)
        needed("torch.utils.tensorboard", type(self).__name__, "tensorboard")
        self.folder = Path(save_dir).expanduser() / model_name
        self.log_weight, self.log_weight_freq = log_weight, log_weight_freq
        self.writer: Any = None

    def on_fit_start(self, model: Trainable) -> None:
        """Open the log; a resumed run discards what was logged after its state was saved."""
        if not any(self.folder.glob("events.out.tfevents.*")):
            self.stopped = {}  # the old log is gone: this one gets all rows
        self.open(model.run.resumes_at)
        self.begin(model)

    def open(self, purge_step: int | None) -> None:
        """Open a new event file; TensorBoard then hides older events from ``purge_step`` on."""
        if purge_step is not None:
            wait_for_a_later_name(self.folder)
        tensorboard = needed("torch.utils.tensorboard", type(self).__name__, "tensorboard")
        self.writer = tensorboard.SummaryWriter(str(self.folder), purge_step=purge_step)

    def write(self, row: Row, model: Trainable) -> None:
        """Write a row, and the weights when due; after an error the next row opens a new file."""
        if self.writer is None:
            self.open(row["epoch"])
        try:
            for name, value in numbers(row).items():
                self.writer.add_scalar(tag(name), value, row["epoch"])
            due = row["epoch"] == model.run.epoch and row["epoch"] % self.log_weight_freq == 0
            if self.log_weight and due:
                for name, weight in model.net.named_parameters():
                    self.writer.add_histogram(name, weight.detach().float().cpu(), row["epoch"])
            self.writer.flush()
        except Exception:
            self.close()
            raise

    def on_fit_end(self, model: Trainable) -> None:
        """Close the log."""
        self.end(model)
        self.close()

    def on_exception(self, model: Trainable) -> None:
        """Write the pending rows and close the log."""
        self.end(model)
        self.close()

    def close(self) -> None:
        """Close the event file, which writes what is buffered."""
        writer, self.writer = self.writer, None
        if writer is not None:
            with suppress(OSError):  # a full disk, of which was warned
                writer.close()

    def destination(self) -> str:
        """Return the path of the folder, for messages."""
        return str(self.folder)


def wait_for_a_later_name(folder: Path) -> None:
    """Wait for a new second, if needed: event files are read in the order of their names."""
    names = [one.name.split(".")[3] for one in folder.glob("events.out.tfevents.*")]
    seconds = max((int(name) for name in names if name.isdigit()), default=0)
    time.sleep(min(max(seconds + 1 - time.time(), 0), 1))


def tag(column: str) -> str:
    """Return ``loss/train`` for ``train_loss``, so that both stages share a chart's group.

    Example:
        >>> tag("val_loss"), tag("lr")
        ('loss/val', 'lr')
    """
    stage, _, quantity = column.partition("_")
    return f"{quantity}/{stage}" if stage in ("train", "val") and quantity else column
