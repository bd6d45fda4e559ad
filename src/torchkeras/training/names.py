"""Look up metrics, losses and optimizers by name."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, TypeGuard, TypeVar

import torch
from torch import nn

from torchkeras import losses, metrics
from torchkeras.core.errors import bad_type, bad_value, did_you_mean, instance_not_class
from torchkeras.core.optimizers import count_required
from torchkeras.core.types import Metric, Value
from torchkeras.metrics import Task
from torchkeras.metrics.function import Accumulating, FunctionMetric

T = TypeVar("T")

MetricTable: TypeAlias = dict[str, Callable[..., metrics.Metric]]
DECISIONS: MetricTable = {  # the loss tells from which score on a prediction is positive
    "accuracy": metrics.Accuracy, "acc": metrics.Accuracy, "precision": metrics.Precision,
    "recall": metrics.Recall, "f1": metrics.F1,
    "precision_macro": functools.partial(metrics.Precision, average="macro"),
    "precision_micro": functools.partial(metrics.Precision, average="micro"),
    "recall_macro": functools.partial(metrics.Recall, average="macro"),
    "recall_micro": functools.partial(metrics.Recall, average="micro"),
    "f1_macro": functools.partial(metrics.F1, average="macro"),
    "f1_micro": functools.partial(metrics.F1, average="micro"),
}
RANKINGS: MetricTable = {
    "auc": metrics.AUC, "auc_roc": metrics.AUC, "auc_pr": metrics.AUCPR, "ks": metrics.KS,
    "top_k": metrics.TopK, "top_5": metrics.TopK,
}
ERRORS: MetricTable = {
    "mae": metrics.MAE, "mse": metrics.MSE, "rmse": metrics.RMSE, "mape": metrics.MAPE,
    "r2": metrics.R2,
}
METRICS = DECISIONS | RANKINGS | ERRORS
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "cross_entropy": nn.CrossEntropyLoss, "nll": nn.NLLLoss,
    "bce": nn.BCELoss, "binary_cross_entropy": nn.BCELoss,
    "bce_with_logits": nn.BCEWithLogitsLoss,
    "binary_cross_entropy_with_logits": nn.BCEWithLogitsLoss,
    "mse": nn.MSELoss, "mae": nn.L1Loss, "l1": nn.L1Loss, "smooth_l1": nn.SmoothL1Loss,
    "huber": nn.HuberLoss,
    # torch's default reduction "mean" does not give the divergence
    "kl_div": functools.partial(nn.KLDivLoss, reduction="batchmean"),
    "poisson_nll": nn.PoissonNLLLoss, "soft_margin": nn.SoftMarginLoss,
    "hinge_embedding": nn.HingeEmbeddingLoss,
    "multi_margin": nn.MultiMarginLoss, "multilabel_margin": nn.MultiLabelMarginLoss,
    "multilabel_soft_margin": nn.MultiLabelSoftMarginLoss, "focal": losses.FocalLoss,
    "focal_with_logits": functools.partial(losses.FocalLoss, from_logits=True),
}
LossTable: TypeAlias = dict[str, Callable[..., losses.Loss]]
KERAS_ENTROPIES: LossTable = {  # these must know whether predictions are logits
    "binary_crossentropy": losses.BinaryCrossentropy,
    "categorical_crossentropy": losses.CategoricalCrossentropy,
    "sparse_categorical_crossentropy": losses.SparseCategoricalCrossentropy,
    "binary_focal_crossentropy": losses.BinaryFocalCrossentropy,
    "categorical_focal_crossentropy": losses.CategoricalFocalCrossentropy,
    "bce": losses.BinaryCrossentropy,
}
KERAS_LOSSES: LossTable = {
    "mse": losses.MeanSquaredError, "mean_squared_error": losses.MeanSquaredError,
    "mae": losses.MeanAbsoluteError, "mean_absolute_error": losses.MeanAbsoluteError,
    "mape": losses.MeanAbsolutePercentageError,
    "mean_absolute_percentage_error": losses.MeanAbsolutePercentageError,
    "huber": losses.Huber, "kl_divergence": losses.KLDivergence, "kld": losses.KLDivergence,
    "cosine_similarity": losses.CosineSimilarity,
    "msle": losses.MeanSquaredLogarithmicError,
    "mean_squared_logarithmic_error": losses.MeanSquaredLogarithmicError,
    "log_cosh": losses.LogCosh, "logcosh": losses.LogCosh, "log_cosh_error": losses.LogCosh,
    "poisson": losses.Poisson, "hinge": losses.Hinge,
    "squared_hinge": losses.SquaredHinge, "categorical_hinge": losses.CategoricalHinge,
    "categorical_generalized_cross_entropy": losses.CategoricalGeneralizedCrossEntropy,
    "ctc": losses.CTC,
}
KERAS_WHOLE: dict[str, Callable[[], nn.Module]] = {  # no mean over samples, and so no metric
    "dice": losses.Dice, "tversky": losses.Tversky, "circle": losses.Circle,
}
KERAS_METRICS: MetricTable = {
    "accuracy": metrics.AccuracyByShape, "acc": metrics.AccuracyByShape,
    "binary_accuracy": metrics.BinaryAccuracy, "precision": metrics.Precision,
    "recall": metrics.Recall, "f1": metrics.F1, "f1_score": metrics.F1,
    "categorical_accuracy": metrics.CategoricalAccuracy,
    "sparse_categorical_accuracy": metrics.SparseCategoricalAccuracy,
    "top_k_categorical_accuracy": metrics.TopKCategoricalAccuracy,
    "sparse_top_k_categorical_accuracy": metrics.SparseTopKCategoricalAccuracy, "auc": metrics.AUC,
    "mse": metrics.MSE, "mean_squared_error": metrics.MSE,
    "mae": metrics.MAE, "mean_absolute_error": metrics.MAE,
    "rmse": metrics.RMSE, "root_mean_squared_error": metrics.RMSE, "r2_score": metrics.R2,
    "true_positives": metrics.TruePositives, "true_negatives": metrics.TrueNegatives,
    "false_positives": metrics.FalsePositives, "false_negatives": metrics.FalseNegatives,
    "fbeta_score": metrics.FBetaScore, "f_beta_score": metrics.FBetaScore,
    "binary_io_u": metrics.BinaryIoU, "pearson_correlation": metrics.PearsonCorrelation,
    "concordance_correlation": metrics.ConcordanceCorrelation,
}

WITH_ARGUMENTS = {  # metrics of Keras that cannot be had by name, in Keras neither
    "iou": "IoU(num_classes=3, target_class_ids=[0])", "meaniou": "MeanIoU(num_classes=3)",
    "onehotiou": "OneHotIoU(num_classes=3, target_class_ids=[0])",
    "onehotmeaniou": "OneHotMeanIoU(num_classes=3)",
    "precisionatrecall": "PrecisionAtRecall(0.8)", "recallatprecision": "RecallAtPrecision(0.8)",
    "sensitivityatspecificity": "SensitivityAtSpecificity(0.8)",
    "specificityatsensitivity": "SpecificityAtSensitivity(0.8)",
}


def metric(name: str, from_logits: bool = True, task: Task | None = None) -> metrics.Metric:
    """Get a fresh metric by its name, such as "accuracy" or "auc".

    Args:
        name: in any case, with or without ``-`` and ``_``.
        from_logits: True when the net's outputs are logits, False when they are probabilities.
        task: how the loss reads labels and predictions, ``from_logits`` included; see
            :func:`torchkeras.training.task.task_of`. Default: shapes tell, as for a metric object.

    Raises:
        ValueError: there is no such metric (the message lists all), or it does not suit the loss.

    Example:
        >>> metric("Accuracy")
        Accuracy()
    """
    found = look_up("metric", name, METRICS)
    if task is not None and task.kind == "numbers" and found in DECISIONS.values():
        raise bad_value(
            "metrics_dict", received=f"{name!r} with a loss of numbers",
            expected="a metric object that says from which score on a prediction is positive",
            fix="Such as Accuracy(from_logits=False) for labels 0 and 1, Accuracy() for -1 and 1, "
            "Accuracy(one_hot=True) for one-hot labels.")
    task = Task(from_logits=from_logits, one_hot=False) if task is None else task
    return build_metric(name, found, task)


def build_metric(name: str, kind: Callable[..., metrics.Metric], task: Task) -> metrics.Metric:
    """Build a metric with those of the task's facts that it takes."""
    if kind in ERRORS.values() and task.kind in ("classes", "binary") and task.from_logits:
        raise bad_value(
            "metrics_dict",
            received=f"{name!r} with a loss of {task.kind} whose predictions are logits",
            expected="predictions that are numbers of the kind of the labels",
            fix="Measure with accuracy, auc or f1, or with a function (preds, labels) that makes "
            "probabilities first.")
    known = inspect.signature(kind).parameters
    facts: dict[str, Value] = {
        "task": task, "from_logits": task.from_logits, "ignore_index": task.ignore_index}
    chosen = ["task"] if "task" in known else [one for one in facts if one in known]
    return kind(**{one: facts[one] for one in chosen})


def loss(name: str) -> nn.Module:
    """Get a loss by its name, such as "cross_entropy" or "mse", with torch's own defaults.

    Names of Keras that torch does not have, such as "sparse_categorical_crossentropy", are looked
    up as in :func:`keras_loss`.

    Args:
        name: in any case, with or without ``-`` and ``_``. "bce" takes probabilities,
            "bce_with_logits" logits.

    Raises:
        ValueError: there is no such loss; the message lists all.

    Example:
        >>> loss("cross-entropy")
        CrossEntropyLoss()
    """
    every = merge_tables(LOSSES, KERAS_ENTROPIES | KERAS_LOSSES, KERAS_WHOLE)
    build: Callable[[], nn.Module] = look_up("loss_fn", name, every)
    return build()


def keras_loss(name: str, from_logits: bool = False) -> nn.Module:
    """Get a loss by its name in Keras, which computes what Keras computes, such as "mape".

    Names that Keras does not have are looked up as in :func:`loss`.

    Args:
        name: in any case, with or without ``-`` and ``_``.
        from_logits: for the cross entropies: True when the net outputs logits, False when it
            outputs probabilities.

    Raises:
        ValueError: there is no such loss (the message lists all), or it takes no logits.

    Example:
        >>> keras_loss("binary_crossentropy", from_logits=True).from_logits
        True
    """
    every = merge_tables(KERAS_ENTROPIES | KERAS_LOSSES, KERAS_WHOLE, LOSSES)
    found: Callable[..., nn.Module] = look_up("loss", name, every)
    if found in KERAS_ENTROPIES.values():
        return found(from_logits=from_logits)
    if from_logits:
        raise bad_value("from_logits", received=f"True for {name}",
                        expected="one of " + ", ".join(KERAS_ENTROPIES))
    return found()


def keras_metric(name: str, from_logits: bool = False,
                 task: Task | None = None) -> metrics.Metric:
    """Get a fresh metric by its name in Keras, such as "AUC" or "sparse_categorical_accuracy".

    "accuracy" is binary or of classes as the loss tells, else as the shapes of predictions and
    labels tell. The name of a loss gives its mean; "cosine_similarity" is higher for vectors that
    are more alike, as Keras has it for metrics. Names that Keras does not have are looked up as in
    :func:`metric`.

    Args:
        name: in any case, with or without ``-`` and ``_``.
        from_logits: True when the net's outputs are logits, False when they are probabilities.
        task: how the loss reads labels and predictions, ``from_logits`` included; see
            :func:`torchkeras.training.task.task_for`.

    Raises:
        ValueError: there is no such metric (the message lists all), or it does not suit the loss.

    Example:
        >>> keras_metric("sparse_categorical_accuracy")
        SparseCategoricalAccuracy()
    """
    if (example := WITH_ARGUMENTS.get(normalize(name))) is not None:
        raise bad_value("metrics", received=f"{name!r}, which needs an argument",
                        expected="the metric object", fix=f"Such as metrics.{example}.")
    task = Task(from_logits=from_logits, one_hot=False) if task is None else task
    known = merge_tables(KERAS_METRICS, KERAS_ENTROPIES | KERAS_LOSSES, METRICS)
    found = look_up("metrics", name, known)
    if found in KERAS_ENTROPIES.values() or found in KERAS_LOSSES.values():
        logits = bool(task.from_logits) and found in KERAS_ENTROPIES.values()
        return metrics.MeanLoss(
            keras_loss(name, logits), negate=found is losses.CosineSimilarity)
    return build_metric(name, found, task)


def merge_tables(*tables: Mapping[str, Callable[..., Any]]) -> dict[str, Callable[..., Any]]:
    """Merge tables into one; a name that several have is that of the first table."""
    joined: dict[str, Callable[..., Any]] = {}
    for table in tables:
        taken = {normalize(name) for name in joined}
        joined |= {name: value for name, value in table.items() if normalize(name) not in taken}
    return joined


def optimizer(name: str, params: Iterable[Any]) -> torch.optim.Optimizer:
    """Get an optimizer by its name, such as "adam" or "sgd", with torch's own defaults.

    Args:
        name: an optimizer of ``torch.optim``, in any case. Muon and SparseAdam are refused: they
            take only some of a net's parameters, so they are combined with another optimizer, as
            objects: ``optimizer=[Muon(...), AdamW(...)]``.
        params: parameters, or groups of them.

    Raises:
        ValueError: there is no such optimizer; the message lists all.

    Example:
        >>> type(optimizer("adam", nn.Linear(2, 1).parameters())).__name__
        'Adam'
    """
    if (kind := PARTIAL.get(normalize(name))) is not None:
        raise bad_value("optimizer", received=repr(name),
                        expected="an optimizer that takes every parameter of a net", fix=kind)
    return look_up("optimizer", name, torch_optimizers())(params)


PARTIAL = {  # optimizers that cannot take every parameter of a net
    "muon": "Muon takes matrices only, and no embedding or head by its authors' advice. Say which: "
            "optimizer=[torch.optim.Muon(matrices), torch.optim.AdamW(all_others)].",
    "sparseadam": "SparseAdam takes sparse gradients only, those of nn.Embedding(sparse=True). "
                  "Say which: optimizer=[torch.optim.SparseAdam(embeddings), "
                  "torch.optim.Adam(all_others)].",
}


def torch_optimizers() -> dict[str, Callable[..., torch.optim.Optimizer]]:
    """Return torch's optimizers that need parameters and nothing else, by name."""
    kinds = {name.lower(): kind for name, kind in vars(torch.optim).items()
             if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer)}
    return {name: kind for name, kind in sorted(kinds.items())
            if name not in PARTIAL and count_required(kind.__init__) == 2}


def look_up(argument: str, name: str, known: Mapping[str, T]) -> T:
    """Return the object of a name, in any case; raise with suggestions if it is unknown."""
    by_key = {normalize(one): one for one in known}
    if normalize(name) in by_key:
        return known[by_key[normalize(name)]]
    raise bad_value(argument, received=repr(name), expected="one of " + ", ".join(known),
                    fix=did_you_mean(name.lower(), known))


def normalize(name: str) -> str:
    """Return a name in lower case, without ``-``, ``_`` and spaces."""
    return re.sub(r"[-_ ]", "", name.lower())


def as_metric(name: str, value: object, from_logits: bool = True,
              task: Task | None = None) -> Metric:
    """Return an object with ``update``, ``compute`` and ``reset`` for anything that can measure.

    Args:
        name: the name of the metric, for messages.
        value: a name; a metric object, ours, torchmetrics' or any with the three methods; an object
            that accumulates when called and has ``compute`` and ``reset``; or a function
            ``(preds, labels) -> number``.
        from_logits: for a name: True when the net's outputs are logits, False when they are
            probabilities.
        task: for a name: how the loss reads labels and predictions, ``from_logits`` included.

    Raises:
        TypeError: ``value`` is a class, or cannot measure.
        ValueError: it is an unknown name.

    Example:
        >>> as_metric("worst", lambda preds, labels: (preds - labels).abs().max())
        FunctionMetric()
    """
    if isinstance(value, str):
        found = metric(value, from_logits, task)
        found.follows_loss = task is not None
        return found
    argument = f"metrics_dict[{name!r}]"
    instance_not_class(argument, value)
    if is_metric(value):
        return value
    if has_methods(value, "compute", "reset") and callable(value):
        return Accumulating(value)
    if callable(value):
        return FunctionMetric(value, name=name)
    raise bad_type(argument, received=type(value).__name__,
                   expected="a name, a function (preds, labels) -> number, "
                   "or an object with update, compute and reset")


def is_metric(value: object) -> TypeGuard[Metric]:
    """Return whether an object has the three methods of a metric."""
    return has_methods(value, "update", "compute", "reset")


def has_methods(value: object, *methods: str) -> bool:
    """Return whether an object has all these methods."""
    return all(callable(getattr(value, method, None)) for method in methods)
