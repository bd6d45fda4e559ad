"""Try metrics on the first batch: one that is broken is refused before anything is updated."""

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
from torchkeras.weighting.averages import number

MANY = 64
"""How many samples are enough for any metric."""


def check_metrics(metrics: Mapping[str, Any], preds: Any, labels: Any) -> None:
    """Try every metric on the first batch, on a copy.

    A batch may lack what a metric needs of an epoch: many samples, or every class, and sorted data begins with one. A
    number that cannot be had of the batch itself is therefore asked for once more of the batch repeated, and of like
    labels in which every class occurs.

    Raises:
        ValueError: a metric gives no number.
        Exception: what a metric itself raises.
    """
    for name, metric in metrics.items():
        if (function := getattr(metric, "fn", None)) is not None:
            broadcast.check_broadcast(function, preds, labels, f"metrics_dict[{name!r}]")
        value = computed(metric, preds, labels)
        for key, one in value.items() if isinstance(value, Mapping) else [(name, value)]:
            number(key, one)


def computed(metric: Any, preds: Any, labels: Any) -> Any:
    """Return the value of a metric for a batch, or for one like it that has many samples and every class."""
    trial = updated(metric, preds, labels)
    try:
        return trial.compute()
    except Exception as error:
        for others in fuller(preds, labels):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # of labels that nobody gave
                    return updated(metric, *others).compute()
            except Exception:  # noqa: S112 (the first error says most)
                continue
        raise error


def updated(metric: Any, preds: Any, labels: Any) -> Any:
    """Return a copy of a metric that has counted one batch."""
    trial = copy.deepcopy(metric)
    if isinstance(preds, Tensor) and preds.is_cpu and isinstance(trial, nn.Module):
        trial.cpu()
    trial.reset()
    with torch.no_grad():
        trial.update(preds, labels)
    return trial


def fuller(preds: Any, labels: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the batch repeated until there are many samples, and, where it lacks classes, with labels that have all."""
    outputs, given = tensors(preds), tensors(labels)
    if not outputs or not given:
        return
    classes = max(map(classes_of, outputs))
    times = math.ceil(max(MANY, 2 * classes) / max(min(map(len, given)), 1))
    repeated = map_tree(lambda leaf: tiled(leaf, times), preds)
    makers: list[Callable[[Tensor, int], Tensor]] = [lambda leaf, _: leaf]
    if any(lacks_classes(one, classes) for one in given):
        makers += [numbered, one_hot, mixed, signs]
    for make in makers:
        count = iter([classes_of(one) for one in outputs] if len(outputs) == len(given) else [classes] * len(given))

        def changed(leaf: Any, make: Any = make, count: Any = count) -> Any:
            fits = isinstance(leaf, Tensor) and leaf.dim() > 0
            return make(tiled(leaf, times), next(count)) if fits else leaf

        yield repeated, map_tree(changed, labels)


def lacks_classes(labels: Tensor, classes: int) -> bool:
    """Return whether these are classes, of which not all occur."""
    found = labels.unique()
    whole = not labels.is_floating_point() or bool((found == found.round()).all())
    one_hot = labels.dim() > 1 and labels.shape[-1] == classes and len(found) <= 2
    occurring = int((labels.flatten(0, -2) > 0).any(0).sum()) if one_hot else len(found)
    return whole and occurring < classes


def tensors(tree: Any) -> list[Tensor]:
    """Return the tensors in a tree that have samples."""
    found: list[Tensor] = []

    def keep(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.dim() > 0:
            found.append(leaf)
        return leaf

    map_tree(keep, tree)
    return found


def classes_of(preds: Tensor) -> int:
    """Return how many classes predictions are for: a column each, or two."""
    return preds.shape[1] if preds.dim() > 1 and preds.shape[1] > 1 else 2


def tiled(leaf: Any, times: int) -> Any:
    """Return a tensor repeated along its first dimension."""
    return torch.cat([leaf] * times) if isinstance(leaf, Tensor) and leaf.dim() > 0 else leaf


def numbered(labels: Tensor, classes: int) -> Tensor:
    """Return class numbers in turn."""
    return (torch.arange(labels.numel(), device=labels.device) % classes).reshape(labels.shape).to(labels.dtype)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """Return one class a row, in turn."""
    columns = labels.shape[-1]
    rows = torch.arange(labels.numel() // columns, device=labels.device) % columns
    return torch.eye(columns, device=labels.device)[rows].reshape(labels.shape).to(labels.dtype)


def mixed(labels: Tensor, classes: int) -> Tensor:
    """Return zeros and ones in turn, in rows and columns."""
    place = torch.stack(torch.meshgrid(*[torch.arange(size, device=labels.device) for size in labels.shape],
                                       indexing="ij")).sum(0)
    return (place % 2).to(labels.dtype)


def signs(labels: Tensor, classes: int) -> Tensor:
    """Return -1 and 1 in turn."""
    return 2 * mixed(labels, classes) - 1
