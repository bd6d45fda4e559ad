"""Train a net with one function: train_model."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from torch import nn

from torchkeras.core.tracebacks import short_traceback
from torchkeras.core.types import Data, LossLike, MetricsLike, OptimizerLike, SchedulerLike
from torchkeras.kerasmodel import KerasModel

if TYPE_CHECKING:
    import pandas as pd


@short_traceback
def train_model(net: nn.Module, optimizer: OptimizerLike, loss_fn: LossLike,
                metrics_dict: MetricsLike, train_data: Data, val_data: Data = None,
                epochs: int = 10, ckpt_path: str | os.PathLike[str] | None = "checkpoint.pt",
                patience: int | None = 5, monitor: str = "val_loss", mode: str = "auto", *,
                lr_scheduler: SchedulerLike = None, **options: Any) -> pd.DataFrame:
    """Train a net with one call: bit for bit the loop that you would write.

    Each epoch trains on ``train_data``, measures on ``val_data`` and compares the monitored number
    with the best so far. The best weights go to ``ckpt_path`` and are in the net at the end. It
    calls ``KerasModel.fit``.

    Args:
        net: the module to train; it learns in place.
        optimizer: a torch optimizer on its parameters, a name such as ``"adam"``, or None for Adam
            with lr 3e-4.
        loss_fn: ``(preds, labels) -> scalar``: a module, a function or a name such as
            ``"cross_entropy"``.
        metrics_dict: a dict of name to metric (ours, torchmetrics', a function ``(preds, labels)``,
            or a name), a list of names, or None.
        train_data: a DataLoader, a Dataset, ``(x, y)`` of arrays, tensors or frames, or any
            iterable of batches.
        val_data: the same kinds.
        epochs: the number of epochs.
        ckpt_path: the file for the best weights, which plain torch reads; None keeps them in memory
            only.
        patience: end after this many epochs without improvement; None never ends the run.
        monitor: the column that is compared; without ``val_data``, "val_loss" becomes "train_loss".
        mode: "min", "max", or "auto": as the metric says, else by its name; for a loss that is
            "min".
        lr_scheduler: a torch scheduler on the optimizer.
        **options: further arguments of :meth:`torchkeras.KerasModel.fit`, such as ``batch_size`` or
            ``seed``.

    Returns:
        A DataFrame, one row an epoch: ``epoch, train_loss, train_<metric>, lr, val_loss,
        val_<metric>``.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: an argument is invalid, or the first batch does not fit the net and the loss.

    Example:
        >>> import torch
        >>> x = torch.randn(100, 3)
        >>> net = torch.nn.Linear(3, 1)
        >>> y = x.sum(dim=1, keepdim=True)
        >>> history = train_model(net, "sgd", "mse", ["mae"], (x, y), epochs=2,
        ...                       ckpt_path=None, quiet=True)
        >>> list(history.columns)
        ['epoch', 'train_loss', 'train_mae', 'lr']
    """
    model = KerasModel(net, loss_fn, metrics_dict, optimizer, lr_scheduler)
    return model.fit(train_data, val_data, epochs, ckpt_path, patience, monitor, mode, **options)
