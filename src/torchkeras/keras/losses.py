"""Losses and metrics as Keras lets them be given: by name, as functions in either order, as objects."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Mapping
from typing import Any

from torch import nn

from torchkeras.core.errors import bad_type, instance_not_class
from torchkeras.data import outputs
from torchkeras.losses import LayerPenalty
from torchkeras.metrics import Task
from torchkeras.metrics.function import in_our_order
from torchkeras.training import names


class NumpyToo:
    """A metric of tensors or, where these are not what it can take, of numpy arrays.

    Args:
        function: called with predictions and labels.
    """

    def __init__(self, function: Any) -> None:
        self.function, self.__name__ = function, function.__name__

    def __call__(self, preds: Any, labels: Any) -> Any:
        """What the function says."""
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "__array_wrap__", DeprecationWarning)  # numpy's, of torch's tensors
            try:
                return self.function(preds, labels)
            except (TypeError, DeprecationWarning) as error:
                try:
                    return self.function(*outputs.to_numpy((preds, labels)))
                except Exception:
                    raise error from None


def metric_function(function: Any) -> Any:
    """A function that measures, in whichever order and of whichever arrays; others as they are."""
    return NumpyToo(in_our_order(function)) if inspect.isroutine(function) else function


def loss_of(loss: Any, from_logits: bool = False) -> Any:
    """A loss from its name in Keras, a function or an object; None for a net that brings its own."""
    instance_not_class("loss", loss)
    if isinstance(loss, str):
        return names.keras_loss(loss, from_logits)
    if loss is not None and not callable(loss):
        raise bad_type("loss", received=f"a {type(loss).__name__}", expected="a name, a function (preds, labels) or a "
                       "loss object; for several outputs a list or dict of these")
    return in_our_order(loss)


def with_layer_penalties(loss: Any, net: nn.Module) -> Any:
    """The loss and what single layers ask for, see :func:`torchkeras.losses.regularized`."""
    asked = any(getattr(layer, "regularizers", None) for layer in net.modules())
    return loss + LayerPenalty(net) if asked and loss is not None else loss


def metrics_of(metrics: Any, task: Task) -> dict[str, Any]:
    """Metric objects by the name of their column: names as they were given, objects by their class."""
    if metrics is None:
        return {}
    if isinstance(metrics, Mapping):
        return {name: metric_of(one, task) for name, one in metrics.items()}
    if isinstance(metrics, str):
        metrics = [metrics]
    if not isinstance(metrics, (list, tuple)):
        raise bad_type("metrics", received=type(metrics).__name__, expected="a list of names and metrics",
                       fix='Such as ["accuracy", "AUC"].')
    found: dict[str, Any] = {}
    for one in metrics:
        name, count = column_of(one), 0
        while (column := f"{name}_{count}" if count else name) in found:
            count += 1
        found[column] = metric_of(one, task)
    return found


def metric_of(metric: Any, task: Task) -> Any:
    """A metric from its name in Keras; others as they are, for the engine to take."""
    instance_not_class("metrics", metric)
    if isinstance(metric, str):
        found = names.keras_metric(metric, task=task)
        found.follows_loss = True
        return found
    if not callable(metric) and not names.has(metric, "update", "compute", "reset"):
        raise bad_type("metrics", received=f"a {type(metric).__name__}", expected="a name, a function (preds, labels) "
                       "or a metric object")
    return metric_function(metric)


def column_of(metric: Any) -> str:
    """The name of a metric: as given, a function's own, or a class's in small letters: TopK is top_k."""
    if isinstance(metric, str):
        return metric
    given = getattr(metric, "name", None) or getattr(metric, "__name__", None)
    if isinstance(given, str):
        return given
    words = re.sub(r"(?<=[^_A-Z])(?=[A-Z][a-z]|[A-Z]$)|(?<=[a-z])(?=[A-Z])", "_", type(metric).__name__)
    return words.lower()
