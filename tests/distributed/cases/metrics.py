"""Metrics of all kinds."""

import warnings

import torchmetrics
from tests.distributed.cases.registry import case
from tests.distributed.parts import (
    Callable,
    MeanOfPreds,
    Numbers,
    Unknown,
    agreement,
    classes,
    correlation,
    face,
    features,
    fitted,
    mlp,
    steepness,
    targets,
)
from torch import nn

from torchkeras import metrics as ours


def of_classes():
    return {"accuracy": "accuracy", "sklearn": agreement, "steepness": steepness, "unknown": Unknown(),
            "older": Callable(), "tm": torchmetrics.Accuracy("multiclass", num_classes=3),
            "tm_auroc": torchmetrics.AUROC("multiclass", num_classes=3),
            "tm_class": torchmetrics.ClasswiseWrapper(torchmetrics.Recall("multiclass", num_classes=3, average=None)),
            "tm_many": torchmetrics.MetricCollection([
                torchmetrics.Precision("multiclass", num_classes=3, average="macro"),
                torchmetrics.Recall("multiclass", num_classes=3, average="macro"),
                torchmetrics.CohenKappa("multiclass", num_classes=3)]),
            "tm_own": MeanOfPreds()}


def of_two_classes():
    return {"auc": "auc", "auc_pr": "auc_pr", "f1": "f1", "ks": "ks", "precision": "precision", "recall": "recall",
            "accuracy": "accuracy", "threshold": ours.Accuracy(threshold=0.3),
            "tm": torchmetrics.AUROC("binary"), "tm_f1": torchmetrics.F1Score("binary")}  # these want probabilities


def of_numbers():
    return {"r2": "r2", "mae": "mae", "mse": "mse", "rmse": "rmse", "mape": "mape",
            "tm": torchmetrics.MeanSquaredError(), "tm_r2": torchmetrics.R2Score(),
            "tm_pearson": torchmetrics.PearsonCorrCoef()}


TASKS = {"classes": (3, classes, of_classes, "cross_entropy"),
         "two classes": (1, lambda count, seed: classes(count, seed, 2)[:, None].double(), of_two_classes, "bce"),
         "numbers": (1, targets, of_numbers, "mse")}


@case(*[(task, count, size) for task in TASKS for count, size in ((40, 9), (17, 8))])
def metrics(task, count, size, seed):
    outputs, labels, made, loss = TASKS[task]
    x, y = features(count, seed), labels(count, seed)
    net = nn.Sequential(mlp(seed, outputs=outputs), nn.Sigmoid() if loss == "bce" else nn.Identity())
    model = face(net, loss, made())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics warns of a first batch without some class
        result = fitted(model, (x, y), (x, y), batch_size=size, epochs=2 if count == 40 else 1)
        return result | model.evaluate((x[:19], y[:19]), batch_size=7)


@case(*[(size, kind) for size in (1, 2, 5) for kind in ("function", "unknown", "torchmetrics")])
def metrics_that_depend_on_the_order(size, kind, seed):
    x, y = features(7, seed), classes(7, seed)
    made = {"function": steepness, "unknown": Numbers(), "torchmetrics": MeanOfPreds()}[kind]
    return fitted(face(mlp(seed), "cross_entropy", {"it": made}), (x, y), (x, y), batch_size=size, shuffle=False)


@case(2, 4)
def metric_that_one_sample_does_not_have(size, seed):
    x, y = features(7, seed), targets(7, seed)
    return fitted(face(mlp(seed, outputs=1), "mse", {"it": correlation}), (x, y), (x, y), batch_size=size)
