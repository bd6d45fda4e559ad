"""How a classifier does on data: which classes it takes for which, and where it is most wrong."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchkeras.core.tree import map_tree
from torchkeras.data import batches, outputs
from torchkeras.data.arrays import wide_dtype
from torchkeras.data.batch import split


class Wrong(NamedTuple):
    """A sample that was given another class than its own."""

    sample: Any
    label: int
    guess: int
    confidence: float  # the probability of the guess
    truth: float  # the probability of the label


class Judged(NamedTuple):
    """What a classifier did on data."""

    confusion: Tensor  # (classes, classes): row the label, column the guess; int64
    worst: list[Wrong]  # the least probable labels first


class Recorded:
    """Batches as they come, kept until their outputs have come too."""

    def __init__(self, data: Iterable[Any], net: Any) -> None:
        self.data, self.net = data, net
        self.features: deque[Any] = deque()

    def __iter__(self) -> Iterator[Any]:
        for batch in self.data:
            self.features.append(features_of(batch, self.net))
            yield batch


def features_of(batch: Any, net: Any) -> Any:
    """Return the features of a batch; all of it where its layout is a step's own."""
    try:
        return split(batch, net)[0]
    except ValueError:
        return batch


def classifies(model: Any) -> bool:
    """Return whether a loss is one of those that classifiers have, or the net's own, which its outputs will tell."""
    try:
        outputs.check_reading(model.loss_fn, "probabilities", model.net)
    except ValueError:
        return False
    return True


def probabilities_of(preds: Any, model: Any) -> Any:
    """Return a net's outputs as probabilities; None where they are none."""
    try:
        return outputs.read(preds, model.loss_fn, "probabilities", model.net)
    except ValueError:
        return None


def judge(model: Any, data: Any, most: int = 12) -> Judged | None:
    """One pass over data; None where the loss, the outputs or the labels are not those of one class a sample.

    Args:
        model: a KerasModel.
        data: what ``evaluate`` takes.
        most: how many of the most wrong samples to keep.
    """
    if not classifies(model) or outputs.problem_type(model.net) == "multi_label_classification":
        return None
    recorded = Recorded(batches(data, name="val_data", dtype=wide_dtype(model.net), draws=False), model.net)
    counts, worst = torch.zeros(0, 0, dtype=torch.int64), list[Wrong]()
    run = model.run  # what it measured is measured again as it was
    accelerator = model.measuring_with(*((None, False) if run is None else (
        run.config.mixed_precision, run.config.cpu)))
    for found in model.predictions(batches(recorded, name="val_data"), "raw", accelerator, stream=True,
                                   with_labels=True):
        features = recorded.features.popleft()
        pair = one_class(probabilities_of(found.preds, model), found.judged_by)
        if pair is None:
            return None
        probabilities, truth = pair
        counts = added(counts, confusion(truth, probabilities.argmax(1), probabilities.shape[1]))
        worst = sorted([*worst, *wrong(features, probabilities, truth, most)], key=lambda one: one.truth)[:most]
    return Judged(counts, worst)


def one_class(preds: Any, labels: Any) -> tuple[Tensor, Tensor] | None:
    """Probabilities (N, classes) and labels (N,); None where they are neither that nor binary."""
    if not isinstance(preds, Tensor) or not isinstance(labels, Tensor):
        return None
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dim() != 1 or preds.shape[0] != len(labels):
        return None
    preds = preds.double()
    if preds.dim() == 1 or preds.shape[1:] == (1,):
        preds = preds.reshape(-1, 1)
        preds = torch.cat([1 - preds, preds], dim=1)
    elif preds.dim() != 2 or labels.is_floating_point():
        return None
    return preds, labels.round().long()


def confusion(labels: Tensor, guesses: Tensor, classes: int) -> Tensor:
    """How often each class (row) was given each class (column); labels that are none, such as -100, do not count.

    Example:
        >>> confusion(torch.tensor([0, 1, 1, -100]), torch.tensor([0, 1, 0, 1]), 2).tolist()
        [[1, 0], [1, 1]]
    """
    known = (labels >= 0) & (labels < classes)
    return torch.bincount(labels[known] * classes + guesses[known], minlength=classes**2).reshape(classes, classes)


def added(one: Tensor, two: Tensor) -> Tensor:
    """The sum of two counts; an empty one counts nothing."""
    return one + two if one.numel() else two


def wrong(features: Any, probabilities: Tensor, labels: Tensor, most: int) -> list[Wrong]:
    """The samples of a batch whose label was least probable, among those with another guess."""
    confidence, guesses = probabilities.max(1)
    known = (labels >= 0) & (labels < probabilities.shape[1])
    truth = probabilities.gather(1, labels.where(known, torch.zeros_like(labels))[:, None])[:, 0]
    places = torch.nonzero(known & (guesses != labels))[:, 0]
    places = places[truth[places].argsort(stable=True)][:most]
    return [Wrong(at(features, place, len(labels)), int(labels[place]), int(guesses[place]), float(confidence[place]),
                  float(truth[place])) for place in places.tolist()]


def at(features: Any, place: int, count: int) -> Any:
    """Return one sample of a batch, in main memory."""
    if isinstance(features, (tuple, list)) and is_one_each(features, count):
        features = features[place]
        return map_tree(lambda leaf: leaf.detach().cpu().clone() if isinstance(leaf, Tensor) else leaf, features)

    def one(leaf: Any) -> Any:
        return leaf[place].detach().cpu().clone() if isinstance(leaf, Tensor) and leaf.dim() else leaf

    return map_tree(one, features)


def is_one_each(features: Any, count: int) -> bool:
    """Return whether a list holds an item for each sample, such as images of unlike sizes, and not several inputs."""
    return len(features) == count and not all(isinstance(one, Tensor) and one.shape[:1] == (count,) for one in features)
