"""Log a run to TensorBoard."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from torchkeras.callbacks.needed import needed
from torchkeras.engine.callback import Callback
from torchkeras.engine.checks import whole_number


class TensorBoardCallback(Callback):
    """See the rows of the history in TensorBoard, training and validation of a quantity side by side.

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

    main_only = True

    def __init__(self, save_dir: str | os.PathLike[str] = "runs", model_name: str = "model", log_weight: bool = False,
                 log_weight_freq: int = 5) -> None:
        whole_number("log_weight_freq", log_weight_freq, least=1)
        needed("torch.utils.tensorboard", type(self).__name__, "tensorboard")
        self.folder = Path(save_dir).expanduser() / model_name
        self.log_weight, self.log_weight_freq = log_weight, log_weight_freq
        self.writer: Any = None

    def on_fit_start(self, model: Any) -> None:
        """Open the log."""
        tensorboard = needed("torch.utils.tensorboard", type(self).__name__, "tensorboard")
        self.writer = tensorboard.SummaryWriter(str(self.folder))

    def on_validation_epoch_end(self, model: Any) -> None:
        """Write the epoch's row, and weights where it is time."""
        run = model.run
        for name, column in run.history.items():
            if name != "epoch" and not math.isnan(column[-1]):
                self.writer.add_scalar(tag(name), column[-1], run.epoch)
        if self.log_weight and run.epoch % self.log_weight_freq == 0:
            for name, weight in model.net.named_parameters():
                self.writer.add_histogram(name, weight.detach().float().cpu(), run.epoch)
        self.writer.flush()

    def on_fit_end(self, model: Any) -> None:
        """Close the log."""
        self.close()

    def on_exception(self, model: Any) -> None:
        """Close it, with what is there."""
        self.close()

    def close(self) -> None:
        """Everything is on disk after this."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None


def tag(column: str) -> str:
    """``loss/train`` for ``train_loss``, so that both stages share a chart's group.

    Example:
        >>> tag("val_loss"), tag("lr")
        ('loss/val', 'lr')
    """
    stage, _, quantity = column.partition("_")
    return f"{quantity}/{stage}" if stage in ("train", "val") and quantity else column
