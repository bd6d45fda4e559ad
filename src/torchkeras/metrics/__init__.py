"""Small metrics, exact at every batch size.

A metric has ``update(preds, labels)``, ``compute()`` and ``reset()``; calling it adds a batch and
returns the value of that batch. Before the first sample ``compute()`` is NaN. Absent classes never
make one.

base.py has ``Metric``: batches add to its state (``count``), and ``value`` turns a state into a
number; states of several ranks are reduced by addition and concatenation. task.py says how a loss
reads labels and predictions; with it reading.py and shapes.py turn a batch into classes or binary
pairs. yesno.py and answers.py count binary decisions, for classification.py (Accuracy, TopK),
categorical.py (Keras's names) and decisions.py (Precision, Recall, F1). ranking.py (AUC, AUCPR, KS)
and function.py (any function) keep all predictions; structure.py pairs nested ones. The others are
regression.py, regions.py (IOU), lossmetric.py, and further ones of Keras: counts.py,
constrained.py, correlation.py and overlap.py. buffered.py lets costly metrics take several
batches at a time.
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
from torchkeras.metrics.constrained import (
    PrecisionAtRecall,
    RecallAtPrecision,
    SensitivityAtSpecificity,
    SpecificityAtSensitivity,
)
from torchkeras.metrics.correlation import ConcordanceCorrelation, PearsonCorrelation
from torchkeras.metrics.counts import (
    FalseNegatives,
    FalsePositives,
    TrueNegatives,
    TruePositives,
)
from torchkeras.metrics.decisions import F1, FBetaScore, Precision, Recall
from torchkeras.metrics.function import FunctionMetric
from torchkeras.metrics.lossmetric import MeanLoss
from torchkeras.metrics.overlap import BinaryIoU, IoU, MeanIoU, OneHotIoU, OneHotMeanIoU
from torchkeras.metrics.ranking import AUC, AUCPR, AUCROC, KS
from torchkeras.metrics.regions import IOU
from torchkeras.metrics.regression import MAE, MAPE, MSE, R2, RMSE
from torchkeras.metrics.task import Task

__all__ = [
    "AUC", "AUCPR", "AUCROC", "F1", "IOU", "KS", "MAE", "MAPE", "MSE", "R2", "RMSE", "Accuracy",
    "AccuracyByShape", "BinaryAccuracy", "BinaryIoU", "CategoricalAccuracy",
    "ConcordanceCorrelation", "FBetaScore", "FalseNegatives", "FalsePositives", "FunctionMetric",
    "IoU", "MeanIoU", "MeanLoss", "Metric", "OneHotIoU", "OneHotMeanIoU", "PearsonCorrelation",
    "Precision", "PrecisionAtRecall", "Recall", "RecallAtPrecision", "SensitivityAtSpecificity",
    "SparseCategoricalAccuracy", "SparseTopKCategoricalAccuracy", "SpecificityAtSensitivity",
    "Task", "TopK", "TopKCategoricalAccuracy", "TrueNegatives", "TruePositives"]
