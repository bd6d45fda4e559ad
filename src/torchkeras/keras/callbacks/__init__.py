"""Callbacks in Keras's words, for :meth:`torchkeras.Model.fit`: the same arguments and decisions.

Subclass :class:`Callback`, or write any object with some of its methods. They find the model at
``self.model`` and what was asked of the run at ``self.params``. Objects of the package ``keras``
itself work as well, where they need a model's weights, learning rate and numbers only.

base.py has what they share, stopping.py what ends a run, rates.py what moves the learning rate,
files.py what writes files.
"""

from __future__ import annotations

from torchkeras.keras.callbacks.base import Callback, History, LambdaCallback, MonitorCallback
from torchkeras.keras.callbacks.files import (
    BackupAndRestore,
    CSVLogger,
    ModelCheckpoint,
    ProgbarLogger,
)
from torchkeras.keras.callbacks.rates import LearningRateScheduler, ReduceLROnPlateau
from torchkeras.keras.callbacks.stopping import EarlyStopping, TerminateOnNaN
from torchkeras.keras.moments import KERAS_MOMENTS

__all__ = ["KERAS_MOMENTS", "BackupAndRestore", "CSVLogger", "Callback", "EarlyStopping", "History",
           "LambdaCallback", "LearningRateScheduler", "ModelCheckpoint", "MonitorCallback",
           "ProgbarLogger", "ReduceLROnPlateau", "TerminateOnNaN"]
ELSEWHERE = {
    "TensorBoard": "torchkeras.kerascallbacks.TensorBoardCallback writes for TensorBoard",
    "RemoteMonitor": "keras.callbacks.RemoteMonitor itself can be passed to fit",
    "SwapEMAWeights": "torch.optim.swa_utils.AveragedModel averages weights",
    "OrbaxCheckpoint": "ModelCheckpoint writes weights",
}


def __getattr__(name: str) -> object:
    if name in ELSEWHERE:
        raise ImportError(f"torchkeras.keras.callbacks has no {name}: {ELSEWHERE[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
