"""Show the progress of ultralytics' trainers."""

from __future__ import annotations

from typing import Any

from torchkeras.vlog import VLog


class VLogCallback:
    """Show the numbers of an ultralytics model; add its two methods with ``model.add_callback``.

    ``metrics/accuracy_top1`` becomes ``accuracy_top1``, and ``val/box_loss`` ``val_box_loss``.

    Args:
        epochs: how many there are to be.
        monitor_metric: which number says what is best.
        monitor_mode: "min" or "max".

    Attributes:
        vlog: the :class:`torchkeras.VLog`; ``vlog.log_start()`` and ``vlog.log_end()`` are yours
            to call around the training.

    Example:
        >>> shown = VLogCallback(100, "accuracy_top1", "max")
        >>> for event in ("on_train_batch_end", "on_fit_epoch_end"):
        ...     model.add_callback(event, getattr(shown, event))  # doctest: +SKIP
    """

    def __init__(self, epochs: int, monitor_metric: str, monitor_mode: str) -> None:
        self.vlog = VLog(epochs, monitor_metric, monitor_mode)

    def on_train_batch_end(self, trainer: Any) -> None:
        """Log a batch."""
        numbers = trainer.label_loss_items(trainer.tloss, prefix="train")
        self.vlog.log_step({column(name): value for name, value in numbers.items()})

    def on_fit_epoch_end(self, trainer: Any) -> None:
        """Log an epoch. When all are over, ultralytics measures the best weights once more."""
        if len(self.vlog.history.get("epoch", ())) <= trainer.epoch:
            self.vlog.log_epoch({column(name): value for name, value in trainer.metrics.items()})


def column(name: str) -> str:
    """Return a name of ultralytics' as a column."""
    return name.removeprefix("metrics/").replace("/", "_")
