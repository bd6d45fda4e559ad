"""All callbacks in one place, under the names that notebooks import."""

from torchkeras.callbacks.checkpoints import EpochCheckpoint
from torchkeras.callbacks.mlflow import MLflowCallback
from torchkeras.callbacks.rows import CSVLogger, JSONLLogger
from torchkeras.callbacks.tensorboard import TensorBoardCallback
from torchkeras.callbacks.vis import VisDisplay, VisMetric, VisProgress
from torchkeras.callbacks.wandb import WandbCallback
from torchkeras.display.progress import Progress
from torchkeras.display.report import ReportWriter

__all__ = [
    "CSVLogger",
    "EpochCheckpoint",
    "JSONLLogger",
    "MLflowCallback",
    "Progress",
    "ReportWriter",
    "TensorBoardCallback",
    "VisDisplay",
    "VisMetric",
    "VisProgress",
    "WandbCallback",
]
