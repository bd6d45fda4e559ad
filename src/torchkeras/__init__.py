"""Keras's comfort for PyTorch: wrap a net with loss, metrics and optimizer; fit, evaluate, predict.

This is an independent implementation, written from scratch, of the torchkeras interface.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from torchkeras import data, losses, metrics
from torchkeras.core.device_list import devices
from torchkeras.core.stop import CheckpointCorruptError
from torchkeras.engine.callback import Callback
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.history import History
from torchkeras.engine.run import Run
from torchkeras.engine.step import StepRunner
from torchkeras.gone import GONE, gone, watch_imports
from torchkeras.kerasmodel import KerasModel
from torchkeras.summary import flop_summary, summary
from torchkeras.train import train_model
from torchkeras.training.loading import load_weights
from torchkeras.training.saving import load_checkpoint, save_checkpoint
from torchkeras.utils import printlog, seed_everything

if TYPE_CHECKING:
    from torchkeras import functional
    from torchkeras.display.figures import plot_confusion, plot_history, plot_metric
    from torchkeras.functional import Input
    from torchkeras.keras.model import Model
    from torchkeras.lightning.model import LightModel as LightModel
    from torchkeras.vlog import VLog

__version__ = "5.0.0a1"

__all__ = [
    "Callback",
    "CheckpointCorruptError",
    "EpochRunner",
    "History",
    "Input",
    "KerasModel",
    "Model",
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
    "train_model",
]  # LightModel is left out: an import of * must not need pytorch-lightning


LATER = {  # imported on first use: importing this package takes little longer than torch
    "Input": "torchkeras.functional", "LightModel": "torchkeras.lightning.model",
    "Model": "torchkeras.keras.model",
    "VLog": "torchkeras.vlog", "plot_confusion": "torchkeras.display.figures",
    "plot_history": "torchkeras.display.figures", "plot_metric": "torchkeras.display.figures",
    # older notebooks import these from here
    "colorful": "torchkeras.utils", "delete_object": "torchkeras.utils",
}

watch_imports()


def __getattr__(name: str) -> Any:
    if name in ("functional", "plots", "tools"):
        return import_module(f"torchkeras.{name}")
    if name in LATER:
        return getattr(import_module(LATER[name]), name)
    if name in GONE:
        raise gone(name)
    raise AttributeError(f"module 'torchkeras' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "LightModel"})
