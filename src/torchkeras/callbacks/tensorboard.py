"""Log a run to TensorBoard."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from torchkeras.callbacks.logger import Row, RowLogger, numbers
from torchkeras.callbacks.needed import needed
from torchkeras.core.errors import whole_number


class TensorBoardCallback(RowLogger):
    """See the rows of the history in TensorBoard, training and validation of a quantity side by side.

    A resumed run goes on in the same folder, and each epoch counts once. While the folder cannot be written, rows wait
    in memory and the run goes on.

    Args:
        save_dir: the folder that ``tensorboard --logdir`` is given.
        model_name: the run's folder in it.
        log_weight: also log histograms of the weights.
        log_weight_freq: that each so many epochs.

    Raises:
        ImportError: tensorboard is not installed.
        TypeError: ``log_weight_freq`` is no int.
        ValueError: it is below 1.

    Example:
        >>> model.fit(train, callbacks=[TensorBoardCallback("runs", "digits")])  # doctest: +SKIP
    """

    def __init__(self, save_dir: str | os.PathLike[str] = "runs", model_name: str = "model", log_weight: bool = False,
                 log_weight_freq: int = 5) -> None:
        super().__init__()
        whole_number("log_weight_freq", log_weight_freq, least=1)
        needed("torch.utils.tensorboard", type(self).__name__, "tensorboard")
        self.folder = Path(save_dir).expanduser() / model_name
        self.log_weight, self.log_weight_freq = log_weight, log_weight_freq
        self.writer: Any = None

    def on_fit_start(self, model: Any) -> None:
        """Open the log; of a run that is resumed, what was logged after its state was saved does not count."""
        if not any(self.folder.glob("events.out.tfevents.*")):
            self.stopped = {}  # the log is gone, or another: it gets all rows
        self.open(model.run.resumes_at)
        self.begin(model)

    def open(self, purge_step: int | None) -> None:
        """Begin a file of events; earlier ones from this epoch on are not shown any more."""
        if purge_step is not None:
            wait_for_a_later_name(self.folder)
        tensorboard = needed("torch.utils.tensorboard", type(self).__name__, "tensorboard")
        self.writer = tensorboard.SummaryWriter(str(self.folder), purge_step=purge_step)

    def write(self, row: Row, model: Any) -> None:
        """Write a row, and the weights where it is time; a file that could not be written is given up for a new one."""
        if self.writer is None:
            self.open(row["epoch"])
        try:
            for name, value in numbers(row).items():
                self.writer.add_scalar(tag(name), value, row["epoch"])
            if self.log_weight and row["epoch"] == model.run.epoch and row["epoch"] % self.log_weight_freq == 0:
                for name, weight in model.net.named_parameters():
                    self.writer.add_histogram(name, weight.detach().float().cpu(), row["epoch"])
            self.writer.flush()
        except Exception:
            self.close()
            raise

    def on_fit_end(self, model: Any) -> None:
        """Close the log."""
        self.end(model)
        self.close()

    def on_exception(self, model: Any) -> None:
        """Close it, with what is there."""
        self.end(model)
        self.close()

    def close(self) -> None:
        """Everything that can be is on disk after this."""
        writer, self.writer = self.writer, None
        if writer is not None:
            with suppress(OSError):  # a full disk, of which was told
                writer.close()

    def place(self) -> str:
        """Return the folder's name."""
        return str(self.folder)


def wait_for_a_later_name(folder: Path) -> None:
    """Wait for the next second where needed: files are read in the order of their names, which begin with seconds."""
    names = [one.name.split(".")[3] for one in folder.glob("events.out.tfevents.*")]
    seconds = max((int(name) for name in names if name.isdigit()), default=0)
    time.sleep(min(max(seconds + 1 - time.time(), 0), 1))


def tag(column: str) -> str:
    """``loss/train`` for ``train_loss``, so that both stages share a chart's group.

    Example:
        >>> tag("val_loss"), tag("lr")
        ('loss/val', 'lr')
    """
    stage, _, quantity = column.partition("_")
    return f"{quantity}/{stage}" if stage in ("train", "val") and quantity else column
