"""Callbacks that end a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from torchkeras.core.errors import whole_number
from torchkeras.core.screen import Plain
from torchkeras.keras.callbacks.base import Callback, Logs, MonitorCallback, finite


class EarlyStopping(MonitorCallback):
    """Ends a run whose followed number no longer improves, as Keras's EarlyStopping does.

    ``fit(..., patience=5, monitor="val_loss")`` does so too, and brings the best weights back.

    Args:
        monitor: the number that is followed.
        min_delta: the least change that counts as an improvement.
        patience: epochs without improvement after which the run ends.
        verbose: 1 prints why the run ended.
        mode: "min", "max" or "auto".
        baseline: a value that must be beaten for patience to begin anew.
        restore_best_weights: put the weights of the best epoch back at the end.
        start_from_epoch: epochs at the beginning that are not judged.

    Attributes:
        best: the best value so far.
        best_epoch: its epoch, counted from 0.
        stopped_epoch: the epoch in which the run ended; 0 if this did not end it.

    Raises:
        TypeError, ValueError: an argument is of the wrong type, or out of range.

    Example:
        >>> EarlyStopping("val_accuracy", patience=3, restore_best_weights=True).patience
        3
    """

    state = ("best", "wait", "best_epoch", "stopped_epoch", "best_weights")
    best: float | None
    best_weights: list[Any] | None

    def __init__(self, monitor: str = "val_loss", min_delta: float = 0, patience: int = 0,
                 verbose: int = 0, mode: str = "auto", baseline: float | None = None,
                 restore_best_weights: bool = False, start_from_epoch: int = 0) -> None:
        super().__init__(monitor, mode, min_delta)
        whole_number("patience", patience, least=0)
        whole_number("start_from_epoch", start_from_epoch, least=0)
        if baseline is not None:
            finite("baseline", baseline)
        self.patience, self.verbose, self.baseline = patience, verbose, baseline
        self.restore_best_weights, self.start_from_epoch = restore_best_weights, start_from_epoch
        self.on_train_begin()

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on with; weights as tensors."""
        kept = self.best_weights
        weights = None if kept is None else [torch.as_tensor(one) for one in kept]
        return super().state_dict() | {"best_weights": weights}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what a stopped run had."""
        super().load_state_dict(state)
        if self.best_weights is not None:
            self.best_weights = [torch.as_tensor(one).numpy() for one in self.best_weights]

    def on_train_begin(self, logs: Logs | None = None) -> None:
        """Forget an earlier run."""
        self.wait = self.stopped_epoch = self.best_epoch = 0
        self.best = None
        self.best_weights = None

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        """Judge the epoch; end the run when patience is over."""
        value = self.current(logs)
        if value is None or epoch < self.start_from_epoch:
            return
        if self.restore_best_weights and self.best_weights is None:
            self.keep(epoch)  # also where the first value is NaN
        self.wait += 1
        if self.improves(value, self.best):
            self.best = value
            self.keep(epoch)
            if self.baseline is None or self.improves(value, self.baseline):
                self.wait = 0
        elif self.wait >= self.patience and epoch > 0:
            self.stopped_epoch = epoch
            self.model.stop_training = True

    def keep(self, epoch: int) -> None:
        """Note the best epoch, and its weights if they will be put back."""
        self.best_epoch = epoch
        if self.restore_best_weights:
            self.best_weights = self.model.get_weights()

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Put the best weights back if that was asked."""
        screen = Plain()
        if self.stopped_epoch and self.verbose:
            screen.line(f"Epoch {self.stopped_epoch + 1}: early stopping")
        if self.restore_best_weights and self.best_weights is not None:
            if self.verbose:
                screen.line(f"The net has the weights of epoch {self.best_epoch + 1} again")
            self.model.set_weights(self.best_weights)


class TerminateOnNaN(Callback):
    """Ends a run at a loss that is not finite. ``fit`` does so by itself, with or without this.

    The run ends with the batch whose loss is NaN or infinite; its epoch is not recorded, the net
    gets the weights from the start of that epoch, and a RuntimeWarning names the origin.

    Args:
        raise_error: raise an error in place of the warning.

    Raises:
        RuntimeError: at the end of such a run, with ``raise_error=True``.
    """

    def __init__(self, raise_error: bool = False) -> None:
        self.raise_error = raise_error

    def on_train_end(self, logs: Logs | None = None) -> None:
        """Raise an error if that was asked."""
        run = self.model.engine.run
        if self.raise_error and run is not None and run.diverged:
            raise RuntimeError(f"fit: {run.stop_reason}")
