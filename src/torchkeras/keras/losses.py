"""Build losses and metrics from what Keras takes: names, functions in either order, objects."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from torchkeras.core.errors import bad_type, instance_not_class
from torchkeras.core.types import Labels, Preds
from torchkeras.data import outputs
from torchkeras.losses import LayerPenalty
from torchkeras.metrics import MeanLoss, Task
from torchkeras.metrics.function import preds_first
from torchkeras.training import names

COLUMNS = {"FBetaScore": "fbeta_score", "LogCosh": "logcosh"}  # Keras's own exceptions


class NumpyFallback:
    """Calls a metric function with tensors, or with numpy arrays if it cannot take tensors.

    Args:
        function: called with predictions and labels.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.__name__ = function, function.__name__

    def __call__(self, preds: Preds, labels: Labels) -> Any:
        """Return the function's value."""
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "__array_wrap__",
                                    DeprecationWarning)  # numpy's, of torch's tensors
            try:
                return self.function(preds, labels)
            except (TypeError, DeprecationWarning) as error:
                try:
                    return self.function(*outputs.to_numpy((preds, labels)))
                except Exception:
                    raise error from None


def metric_function(function: object) -> Any:
    """Wrap a function of (preds, labels) or (y_true, y_pred); return other objects unchanged."""
    return NumpyFallback(preds_first(function)) if inspect.isroutine(function) else function


def loss_of(loss: object, from_logits: bool = False) -> Any:
    """Return a loss from a Keras name, a function or an object; None for a net with its own."""
    instance_not_class("loss", loss)
    if isinstance(loss, str):
        return names.keras_loss(loss, from_logits)
    if loss is not None and not callable(loss):
        raise bad_type("loss", received=f"a {type(loss).__name__}",
                       expected="a name, a function (preds, labels) or a "
                       "loss object; for several outputs a list or dict of these")
    return None if loss is None else preds_first(loss)


def with_layer_penalties(loss: Any, net: nn.Module) -> Any:
    """Return the loss plus the layers' penalties, see :func:`torchkeras.losses.regularized`."""
    asked = any(getattr(layer, "regularizers", None) for layer in net.modules())
    return loss + LayerPenalty(net) if asked and loss is not None else loss


def metrics_of(metrics: object, task: Task) -> dict[str, Any]:
    """Return metrics by column name: given names stay, objects are named after their class."""
    if metrics is None:
        return {}
    if isinstance(metrics, Mapping):
        return {name: metric_of(one, task) for name, one in metrics.items()}
    if isinstance(metrics, str):
        metrics = [metrics]
    if not isinstance(metrics, (list, tuple)):
        raise bad_type("metrics", received=type(metrics).__name__,
                       expected="a list of names and metrics", fix='Such as ["accuracy", "AUC"].')
    found: dict[str, Any] = {}
    for one in metrics:
        name, count = column_of(one), 0
        while (column := f"{name}_{count}" if count else name) in found:
            count += 1
        found[column] = metric_of(one, task)
    return found


def metric_of(metric: object, task: Task) -> Any:
    """Return a metric from a Keras name; functions are wrapped, objects unchanged."""
    instance_not_class("metrics", metric)
    if isinstance(metric, str):
        found = names.keras_metric(metric, task=task)
        found.follows_loss = True
        return found
    if not callable(metric) and not names.has_methods(metric, "update", "compute", "reset"):
        raise bad_type("metrics", received=f"a {type(metric).__name__}",
                       expected="a name, a function (preds, labels) "
                       "or a metric object")
    return metric_function(metric)


def column_of(metric: object) -> str:
    """Return a metric's name: as given, the function's, or the class's as Keras writes it."""
    if isinstance(metric, str):
        return metric
    given = getattr(metric, "name", None) or getattr(metric, "__name__", None)
    if isinstance(given, str):
        return given
    kind: Any = metric.loss_fn if isinstance(metric, MeanLoss) else metric
    name = type(kind).__name__
    return COLUMNS.get(name) or snake_case(name)


def snake_case(name: str) -> str:
    """Return the name of a class in Keras's snake case: TopKAccuracy becomes top_k_accuracy."""
    words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
