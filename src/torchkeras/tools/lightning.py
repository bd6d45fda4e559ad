"""Show the progress of pytorch-lightning's Trainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torchkeras.callbacks.needed import needed
from torchkeras.core.types import Value
from torchkeras.vlog import VLog

if TYPE_CHECKING:
    import pytorch_lightning as pl
else:
    pl = needed("pytorch_lightning", "VLogCallback", "pytorch-lightning")


class VLogCallback(pl.Callback):
    """Show what a LightningModule logs: for every epoch in which the monitored number is measured.

    Args:
        monitor_metric: which logged number says what is best.
        monitor_mode: "min" or "max".

    Attributes:
        vlog: the :class:`torchkeras.VLog`, from the start of ``fit`` on.

    Example:
        >>> shown = VLogCallback("val_acc", "max")
        >>> trainer = pl.Trainer(max_epochs=10, callbacks=[shown],
        ...                      enable_progress_bar=False)  # doctest: +SKIP
    """

    vlog: VLog

    def __init__(self, monitor_metric: str = "val_loss", monitor_mode: str = "min") -> None:
        super().__init__()
        self.monitor_metric, self.monitor_mode = monitor_metric, monitor_mode
        self.trained = self.validated = False  # since the last row

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the view."""
        epochs = trainer.max_epochs or 0
        self.vlog = VLog(epochs if epochs > 0 else 1000, self.monitor_metric, self.monitor_mode)
        self.vlog.log_start()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule,
                           outputs: Value, batch: Value, batch_idx: int) -> None:
        """Log a batch by its loss."""
        self.trained = True
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        if loss is not None:
            self.vlog.log_step({"train_loss": loss.detach()})

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note that the epoch was validated."""
        self.validated = not trainer.sanity_checking

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the epoch before: a module logs its training numbers after this callback's turn."""
        self.log_row(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the last epoch."""
        self.log_row(trainer)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the view."""
        self.vlog.log_end()

    def log_row(self, trainer: pl.Trainer) -> None:
        """Log an epoch, if the monitored number was measured in it."""
        numbers = {name: value for name, value in trainer.callback_metrics.items()
                   if self.validated or not name.startswith("val")}  # else it is an earlier one
        stale = trainer.enable_validation and not self.validated and (
            not self.monitor_metric.startswith("train"))
        if self.trained and not stale and self.monitor_metric in numbers:
            self.vlog.log_epoch(numbers)
        self.trained = self.validated = False
