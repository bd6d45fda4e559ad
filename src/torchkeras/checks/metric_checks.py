"""Try metrics on the first batch, to refuse a broken one before the first update."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.checks import broadcast
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Labels, Leaf, Metric, Preds
from torchkeras.weighting.averages import number

ENOUGH_SAMPLES = 64  # for any metric


def check_metrics(metrics: Mapping[str, Metric], preds: Preds, labels: Labels) -> None:
    """Try every metric on the first batch, on a copy.

    One batch may lack what a metric needs: many samples, or every class (sorted data begins with
    one class). A metric that cannot compute the batch is therefore tried on the batch repeated, and
    with like labels in which every class occurs.

    Raises:
        ValueError: a metric gives no number.
        Exception: what a metric itself raises.
    """
    for name, metric in metrics.items():
        if (function := getattr(metric, "fn", None)) is not None:
            broadcast.check_broadcast(function, preds, labels, f"metrics_dict[{name!r}]")
        value = compute_on_trial(metric, preds, labels)
        for key, one in value.items() if isinstance(value, Mapping) else [(name, value)]:
            number(key, one)


def compute_on_trial(metric: Metric, preds: Preds, labels: Labels) -> Any:
    """Return a metric's value for a batch, or for a like one with many samples and all classes."""
    trial = updated_copy(metric, preds, labels)
    try:
        return trial.compute()
    except Exception as error:
        for others in enlarged_batches(preds, labels):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # about labels that are not the user's
                    return updated_copy(metric, *others).compute()
            except Exception:  # noqa: S112 (the first error says more)
                continue
        raise error


def updated_copy(metric: Metric, preds: Preds, labels: Labels) -> Metric:
    """Return a copy of a metric that was updated with one batch only."""
    trial = copy.deepcopy(metric)
    parts: list[Any] = [trial, getattr(trial, "metric", None)]  # what updates are held for
    for part in parts:
        if hasattr(part, "if_print"):
            part.if_print = False
    if isinstance(preds, Tensor) and preds.is_cpu and isinstance(trial, nn.Module):
        trial.cpu()
    trial.reset()
    with torch.no_grad():
        trial.update(preds, labels)
    return trial


def enlarged_batches(preds: Preds, labels: Labels) -> Iterator[tuple[Preds, Labels]]:
    """Yield the batch repeated, and with labels of all classes where some are missing."""
    outputs, given = tensors(preds), tensors(labels)
    if not outputs or not given:
        return
    classes = max(map(classes_of, outputs))
    times = math.ceil(max(ENOUGH_SAMPLES, 2 * classes) / max(min(map(len, given)), 1))
    repeated = map_tree(lambda leaf: repeated_rows(leaf, times), preds)
    makers: list[Callable[[Tensor, int], Tensor]] = [lambda leaf, _: leaf]
    if any(lacks_classes(one, classes) for one in given):
        makers += [cycled_classes, cycled_one_hot, checkerboard, cycled_signs]
    for make in makers:
        each = [classes_of(one) for one in outputs]
        count = iter(each if len(outputs) == len(given) else [classes] * len(given))

        def changed(leaf: Leaf, make: Callable[[Tensor, int], Tensor] = make,
                    count: Iterator[int] = count) -> Leaf:
            fits = isinstance(leaf, Tensor) and leaf.dim() > 0
            return make(repeated_rows(leaf, times), next(count)) if fits else leaf

        yield repeated, map_tree(changed, labels)


def lacks_classes(labels: Tensor, classes: int) -> bool:
    """Tell whether labels are classes of which not all occur."""
    found = torch.unique(labels)
    whole = not labels.is_floating_point() or bool((found == found.round()).all())
    one_hot = labels.dim() > 1 and labels.shape[-1] == classes and len(found) <= 2
    occurring = int((labels.flatten(0, -2) > 0).any(0).sum()) if one_hot else len(found)
    return whole and occurring < classes


def tensors(tree: Preds) -> list[Tensor]:
    """Return the tensors in a tree that have at least one dimension."""
    found: list[Tensor] = []

    def keep(leaf: Leaf) -> Leaf:
        if isinstance(leaf, Tensor) and leaf.dim() > 0:
            found.append(leaf)
        return leaf

    map_tree(keep, tree)
    return found


def classes_of(preds: Tensor) -> int:
    """Return the number of classes of predictions: their columns, or two."""
    return preds.shape[1] if preds.dim() > 1 and preds.shape[1] > 1 else 2


def repeated_rows(leaf: Leaf, times: int) -> Leaf:
    """Return a tensor repeated along its first dimension."""
    return torch.cat([leaf] * times) if isinstance(leaf, Tensor) and leaf.dim() > 0 else leaf


def cycled_classes(labels: Tensor, classes: int) -> Tensor:
    """Return labels that cycle through the class numbers."""
    numbers = torch.arange(labels.numel(), device=labels.device) % classes
    return numbers.reshape(labels.shape).to(labels.dtype)


def cycled_one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return one-hot labels that cycle through the classes."""
    columns = labels.shape[-1]
    rows = torch.arange(labels.numel() // columns, device=labels.device) % columns
    return torch.eye(columns, device=labels.device)[rows].reshape(labels.shape).to(labels.dtype)


def checkerboard(labels: Tensor, classes: int) -> Tensor:
    """Return labels that alternate between 0 and 1 along rows and columns."""
    axes = [torch.arange(size, device=labels.device) for size in labels.shape]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij")).sum(0)
    return (place % 2).to(labels.dtype)


def cycled_signs(labels: Tensor, classes: int) -> Tensor:
    """Return labels that alternate between -1 and 1."""
    return 2 * checkerboard(labels, classes) - 1
