"""Measure a classifier on data: its confusion matrix and its most wrong samples."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from torchkeras.core.tree import map_tree
from torchkeras.core.types import Batch, Data, Labels, Leaf, Preds
from torchkeras.data import Batches, batches, outputs
from torchkeras.data.arrays import wide_dtype
from torchkeras.data.batch import split
from torchkeras.engine.trainable import Trainable

if TYPE_CHECKING:
    from accelerate import Accelerator


class Predicted(Protocol):
    """The outputs of one batch and the labels that metrics compare them with."""

    @property
    def preds(self) -> Preds:
        """Return the outputs."""

    @property
    def judged_by(self) -> Labels:
        """Return the labels."""


class Predicting(Trainable, Protocol):
    """A model that can be run over data; ``KerasModel`` is one."""

    def measuring_with(self, mixed_precision: str | None, cpu: bool) -> Accelerator:
        """Return device and precision to measure with."""

    def predictions(self, data: Batches, output: str, accelerator: Accelerator, *, stream: bool,
                    with_labels: bool) -> Iterator[Predicted]:
        """Yield outputs and labels batch by batch."""


class Wrong(NamedTuple):
    """A misclassified sample."""

    sample: Leaf  # its features
    label: int
    guess: int
    confidence: float  # the probability of the guess
    truth: float  # the probability of the label


class Judged(NamedTuple):
    """The results of a classifier on data."""

    confusion: Tensor  # (classes, classes): row the label, column the guess; int64
    worst: list[Wrong]  # the least probable labels first


class FeatureRecorder:
    """Yields the batches of some data, and queues their features until the outputs are there."""

    def __init__(self, data: Iterable[Batch], net: nn.Module) -> None:
        self.data, self.net = data, net
        self.features: deque[Batch] = deque()

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.data:
            self.features.append(features_of(batch, self.net))
            yield batch


def features_of(batch: Batch, net: nn.Module) -> Batch:
    """Return the features of a batch, or all of it if only the user's step knows its layout."""
    try:
        return split(batch, net)[0]
    except ValueError:
        return batch


def classifies(model: Trainable) -> bool:
    """Return whether the loss is a classifier's, or the net's own (its outputs will show that)."""
    try:
        outputs.check_reading(model.loss_fn, "probabilities", model.net)
    except ValueError:
        return False
    return True


def probabilities_of(preds: Preds, model: Trainable) -> Preds:
    """Return outputs as probabilities; None if the loss defines none."""
    try:
        return outputs.interpret(preds, model.loss_fn, "probabilities", model.net)
    except ValueError:
        return None


def judge(model: Predicting, data: Data, most: int = 12) -> Judged | None:
    """Run a classifier over data; return None if it does not give one class for each sample.

    Args:
        model: a KerasModel.
        data: what ``evaluate`` takes.
        most: how many of the most wrong samples to keep.
    """
    if not classifies(model) or outputs.problem_type(model.net) == "multi_label_classification":
        return None
    recorder = FeatureRecorder(batches(data, name="val_data", dtype=wide_dtype(model.net),
                                       draws=False), model.net)
    counts, worst = torch.zeros(0, 0, dtype=torch.int64), list[Wrong]()
    run = model.run  # its precision and device, so that the same numbers come out
    accelerator = model.measuring_with(*((None, False) if run is None else (
        run.config.mixed_precision, run.config.cpu)))
    for found in model.predictions(batches(recorder, name="val_data"), "raw", accelerator,
                                   stream=True, with_labels=True):
        features = recorder.features.popleft()
        pair = one_class(probabilities_of(found.preds, model), found.judged_by)
        if pair is None:
            return None
        probabilities, truth = pair
        counts = added(counts, confusion(truth, probabilities.argmax(1), probabilities.shape[1]))
        worst = sorted([*worst, *wrong(features, probabilities, truth, most)],
                       key=lambda one: one.truth)[:most]
    return Judged(counts, worst)


def one_class(preds: Preds, labels: Labels) -> tuple[Tensor, Tensor] | None:
    """Return probabilities (N, classes) and labels (N,); None if they have no such form."""
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
    """Count guesses (columns) for each label (rows); labels such as -100 are skipped.

    Example:
        >>> confusion(torch.tensor([0, 1, 1, -100]), torch.tensor([0, 1, 0, 1]), 2).tolist()
        [[1, 0], [1, 1]]
    """
    known = (labels >= 0) & (labels < classes)
    return torch.bincount(labels[known] * classes + guesses[known],
                          minlength=classes**2).reshape(classes, classes)


def added(one: Tensor, two: Tensor) -> Tensor:
    """Return the sum of two count matrices; the first may be empty."""
    return one + two if one.numel() else two


def wrong(features: Batch, probabilities: Tensor, labels: Tensor, most: int) -> list[Wrong]:
    """Return the misclassified samples of a batch whose labels were least probable."""
    confidence, guesses = probabilities.max(1)
    known = (labels >= 0) & (labels < probabilities.shape[1])
    truth = probabilities.gather(1, labels.where(known, torch.zeros_like(labels))[:, None])[:, 0]
    places = torch.nonzero(known & (guesses != labels))[:, 0]
    places = places[truth[places].argsort(stable=True)][:most]
    return [Wrong(at(features, place, len(labels)), int(labels[place]), int(guesses[place]),
                  float(confidence[place]), float(truth[place])) for place in places.tolist()]


def at(features: Batch, place: int, count: int) -> Batch:
    """Return one sample of a batch, copied to the CPU."""
    if isinstance(features, (tuple, list)) and is_one_each(features, count):
        return map_tree(on_cpu, features[place])

    def one(leaf: Leaf) -> Leaf:
        return on_cpu(leaf[place]) if isinstance(leaf, Tensor) and leaf.dim() else leaf

    return map_tree(one, features)


def on_cpu(leaf: Leaf) -> Leaf:
    """Return a copy of a tensor on the CPU; other values unchanged."""
    return leaf.detach().cpu().clone() if isinstance(leaf, Tensor) else leaf


def is_one_each(features: Sequence[Leaf], count: int) -> bool:
    """Return whether a list holds one item a sample (such as images), not several inputs."""
    inputs = all(isinstance(one, Tensor) and one.shape[:1] == (count,) for one in features)
    return len(features) == count and not inputs
