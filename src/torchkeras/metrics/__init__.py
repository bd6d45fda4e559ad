"""Small exact metrics, the same at every batch size.

Each has ``update(preds, labels)``, ``compute()`` and ``reset()``; calling it counts a batch and gives the number of
that batch. Before the first sample ``compute()`` is NaN. Absent classes never make one.
"""

from torchkeras.metrics.base import Metric
from torchkeras.metrics.categorical import (
    AccuracyByShape,
    BinaryAccuracy,
    CategoricalAccuracy,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopKCategoricalAccuracy,
)
from torchkeras.metrics.classification import Accuracy, TopK
from torchkeras.metrics.decisions import F1, Precision, Recall
from torchkeras.metrics.function import FunctionMetric
from torchkeras.metrics.lossmetric import MeanLoss
from torchkeras.metrics.ranking import AUC, AUCPR, AUCROC, KS
from torchkeras.metrics.regions import IOU
from torchkeras.metrics.regression import MAE, MAPE, MSE, R2, RMSE
from torchkeras.metrics.task import Task

__all__ = ["AUC", "AUCPR", "AUCROC", "F1", "IOU", "KS", "MAE", "MAPE", "MSE", "R2", "RMSE", "Accuracy",
           "AccuracyByShape", "BinaryAccuracy", "CategoricalAccuracy", "FunctionMetric", "MeanLoss", "Metric",
           "Precision", "Recall", "SparseCategoricalAccuracy", "SparseTopKCategoricalAccuracy", "Task",
           "TopK", "TopKCategoricalAccuracy"]
