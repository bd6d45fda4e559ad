"""Keras's comfort for PyTorch: wrap any net with a loss, metrics and an optimizer; fit, evaluate, predict.

This is an independent implementation, written from scratch, of the torchkeras interface.
"""

from typing import Any

from torchkeras import data, functional, losses, metrics
from torchkeras.display.figures import plot_confusion, plot_history, plot_metric
from torchkeras.engine.callback import Callback
from torchkeras.engine.ending import CheckpointCorruptError
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.hardware import devices
from torchkeras.engine.history import History
from torchkeras.engine.run import Run
from torchkeras.engine.step import StepRunner
from torchkeras.functional import Input
from torchkeras.kerasmodel import KerasModel
from torchkeras.saving import load_checkpoint, load_weights, save_checkpoint
from torchkeras.summary import flop_summary, summary
from torchkeras.utils import printlog, seed_everything
from torchkeras.vlog import VLog

__version__ = "5.0.0a1"

__all__ = [
    "Callback",
    "CheckpointCorruptError",
    "EpochRunner",
    "History",
    "Input",
    "KerasModel",
    "Run",
    "StepRunner",
    "VLog",
    "__version__",
    "data",
    "devices",
    "flop_summary",
    "functional",
    "load_checkpoint",
    "load_weights",
    "losses",
    "metrics",
    "plot_confusion",
    "plot_history",
    "plot_metric",
    "printlog",
    "save_checkpoint",
    "seed_everything",
    "summary",
]


def __getattr__(name: str) -> Any:
    # older notebooks import these from the top; they live in utils
    if name in ("colorful", "delete_object"):
        from torchkeras import utils

        return getattr(utils, name)
    raise AttributeError(f"module 'torchkeras' has no attribute {name!r}")
