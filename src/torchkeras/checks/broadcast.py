"""Find losses that compare every prediction with every label, because the two differ by a dimension of size 1.

``(N, 1)`` minus ``(N,)`` is ``(N, N)`` in torch. A loss that does so learns nothing of which label belongs to which
prediction, and its number looks like any other. Whether a loss does so is not written on it, so it is tried on the
first batch: as the shapes are, and with equal shapes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.core.tree import map_tree
from torchkeras.state.memento import memento_of
from torchkeras.state.rng import put_random_states, random_states
from torchkeras.weighting.recognition import recognise

Loss = Callable[[Any, Any], Any]
TOLERANCE = 1e-4  # of the larger number: sums of float32 in another order differ by less
PAIRS = 8  # pairs of an output and a label that are tried, where there are several of each


class Case(NamedTuple):
    """Predictions and labels as flat lists, and which of each are compared."""

    preds: list[Any]
    labels: list[Any]
    pred: int
    label: int

    @property
    def samples(self) -> int:
        """Return the number of samples."""
        return int(max(self.preds[self.pred].shape[0], self.labels[self.label].shape[0]))

    def put(self, pred: Tensor | None = None, label: Tensor | None = None) -> Case:
        """Return the case with another prediction or label in the place of the compared ones."""
        preds, labels = list(self.preds), list(self.labels)
        preds[self.pred] = preds[self.pred] if pred is None else pred
        labels[self.label] = labels[self.label] if label is None else label
        return self._replace(preds=preds, labels=labels)

    def take(self, index: Tensor, labels_only: bool = False) -> Case:
        """Return the case with some samples, or with the labels in another order."""
        count = self.samples

        def some(leaf: Any) -> Any:
            fits = isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == count
            return leaf[index.to(leaf.device)] if fits else leaf

        return self._replace(preds=self.preds if labels_only else list(map(some, self.preds)),
                             labels=list(map(some, self.labels)))


def check_broadcast(loss: Loss, preds: Any, labels: Any, argument: str) -> None:
    """Refuse a loss that compares every prediction of the first batch with every label.

    A loss that pairs samples by nature passes (ranking, contrast, Cox), and so does one that makes the shapes equal by
    itself. The random state and what the loss keeps stay as they are; one that holds what can be read only once passes.

    Args:
        loss: called with predictions and labels, without gradients.
        preds: a tensor, or tuples and dicts of such.
        labels: the same.
        argument: what the message calls the data.

    Raises:
        ValueError: the loss broadcasts, so that it does not depend on which label belongs to which prediction.
    """
    found = [Case(leaves(preds), leaves(labels), *which) for which in mismatches(leaves(preds), leaves(labels))]
    if not found:
        return
    states, memento = random_states(), memento_of(loss)
    if memento.once:
        return

    def number(case: Case) -> float | None:
        put_random_states(states)
        return value_of(loss, filled(preds, case.preds), filled(labels, case.labels))

    try:
        with memento:
            for case in found[:PAIRS]:
                if broadcasts(number, case):
                    raise bad_shapes(argument, case.preds[case.pred], case.labels[case.label])
    finally:
        put_random_states(states)


def bad_shapes(argument: str, preds: Tensor, labels: Tensor, name: str = "this loss") -> ValueError:
    """Return the error for labels whose shape is not that of the predictions."""
    return bad_value(argument, received=f"labels of shape {tuple(labels.shape)} for net output {tuple(preds.shape)}",
                     expected=f"equal shapes for {name}: these would be broadcast against each other, every prediction "
                     "with every label", fix="Use .squeeze(-1) on the output or labels[:, None]; a loss that means to "
                     "pair all with all does so itself, from equal shapes.")


def leaves(tree: Any) -> list[Any]:
    """Return the values in nested tuples, lists and dicts, in order, detached; halves as float32."""
    found: list[Any] = []

    def keep(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    map_tree(keep, tree)
    return [precise(one.detach()) if isinstance(one, Tensor) else one for one in found]


def precise(tensor: Tensor) -> Tensor:
    """Return a tensor whose rounding does not hide a difference."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor


def filled(tree: Any, values: list[Any]) -> Any:
    """Return the tree with other values in the places of its own."""
    waiting = iter(values)
    return map_tree(lambda _: next(waiting), tree)


def mismatches(preds: list[Any], labels: list[Any]) -> Iterator[tuple[int, int]]:
    """Yield the places of predictions and labels whose broadcast is larger than both."""
    for label, other in enumerate(labels):
        for pred, one in enumerate(preds):
            if is_plain(one) and is_plain(other) and grows(one.shape, other.shape):
                yield pred, label


def is_plain(value: Any) -> bool:
    """Return whether this is a tensor with one shape: the rows of a nested one have each its own."""
    return isinstance(value, Tensor) and not value.is_nested


def grows(one: torch.Size, other: torch.Size) -> bool:
    """Return whether two shapes of equally many numbers broadcast to more numbers."""
    if not one or not other or one.numel() != other.numel() or one == other:
        return False
    try:
        return torch.broadcast_shapes(one, other).numel() > one.numel()
    except RuntimeError:
        return False


def value_of(loss: Loss, preds: Any, labels: Any) -> float | None:
    """Return the loss as a number; None where it takes no such shapes."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value: Any = loss(preds, labels)
            value = value[0] if isinstance(value, tuple) and value else value  # a loss with parts
            one = isinstance(value, (int, float)) or getattr(value, "size", None) == 1 or (
                isinstance(value, Tensor) and value.numel() == 1)
            found = float(value) if one else math.nan
    except Exception:  # losses of users raise anything when shapes are not what they expect
        return None
    return found if math.isfinite(found) else None


def broadcasts(number: Callable[[Case], float | None], case: Case) -> bool:
    """Return whether a loss gives another number for equal shapes, and compares one to one there."""
    cases = [one for one in (case, spread(case)) if one is not None and number(one) is not None]
    wide, narrow = ([one for one in map(change, cases) if one is not None] for change in (as_preds, as_labels))
    found = [one for one in (wide, narrow) if cases and len(one) == len(cases) and differ(number, cases, one)
             and heeds_order(number, one)]
    if any(all(adds_up(number, one) or leaves_out(number, one) for one in variant) for variant in found):
        return True
    return len(found) == 2 and forgets_order(number, cases, wide, narrow)


def as_preds(case: Case) -> Case | None:
    """Return the case with labels in the shape of the predictions."""
    shape = case.preds[case.pred].shape
    return case.put(label=case.labels[case.label].reshape(shape)) if shape[0] == case.samples else None


def as_labels(case: Case) -> Case | None:
    """Return the case with predictions in the shape of the labels."""
    shape = case.labels[case.label].shape
    return case.put(pred=case.preds[case.pred].reshape(shape)) if shape[0] == case.samples else None


def differ(number: Callable[[Case], float | None], cases: list[Case], others: list[Case]) -> bool:
    """Return whether the loss of any case is another with equal shapes; no where it takes no equal shapes."""
    pairs = [(number(one), number(other)) for one, other in zip(cases, others, strict=True)]
    return all(other is not None for _, other in pairs) and not all(close(*pair) for pair in pairs)


def adds_up(number: Callable[[Case], float | None], case: Case) -> bool:
    """Return whether the loss is the mean over samples, or the sum: that of two parts gives that of the whole."""
    whole = number(case)
    parts = [[(number(case.take(index)), len(index)) for index in split] for split in splits(case.samples)]
    if whole is None or any(value is None for split in parts for value, _ in split):
        return False
    sums = [[(value or 0.0, count) for value, count in split] for split in parts]
    means = all(close(sum(value * count for value, count in split) / case.samples, whole) for split in sums)
    return means or all(close(sum(value for value, _ in split), whole) for split in sums)


def leaves_out(number: Callable[[Case], float | None], case: Case) -> bool:
    """Return whether the loss is the mean over the samples that it does not leave out by their labels."""
    labels = case.labels[case.label]

    def loss_of(rows: list[int], own: Tensor | None) -> float:
        found = number(case.take(torch.tensor(rows)).put(label=own))
        if found is None:
            raise ValueError
        return found

    return len(labels) == case.samples and recognise(loss_of, labels, case.samples).kind == "valid"


def forgets_order(number: Callable[[Case], float | None], cases: list[Case], wide: list[Case],
                  narrow: list[Case]) -> bool:
    """Return whether a loss of a whole batch (Dice, correlation) does not care which label belongs to which sample.

    With equal shapes it must care, and both ways to make them equal must agree, in parts of the batch too.
    """
    for one, other in zip(wide, narrow, strict=True):
        parts = [index for split in splits(one.samples) for index in split]
        numbers = [(number(one), number(other)), *((number(one.take(part)), number(other.take(part)))
                                                   for part in parts)]
        if not all(close(*pair) for pair in numbers):
            return False
    others = [number(one) for one in wide]
    return all(close(number(one), number(turned(one)), other) for one, other in zip(cases, others, strict=True))


def heeds_order(number: Callable[[Case], float | None], cases: list[Case]) -> bool:
    """Return whether it matters to a loss which label belongs to which sample."""
    return not all(close(number(one), number(turned(one))) for one in cases)


def turned(case: Case) -> Case:
    """Return the case with each label at the next sample."""
    return case.take(torch.arange(case.samples).roll(1), labels_only=True)


def splits(samples: int) -> list[list[Tensor]]:
    """Return two ways to split samples into unequal parts."""
    index = torch.arange(samples)
    cut, third = max(samples // 3, 1), index % 3 == 0
    return [[index[:cut], index[cut:]], [index[third], index[~third]]]


def close(one: float | None, other: float | None, scale: float | None = 0.0) -> bool:
    """Return whether two numbers are the same but for rounding."""
    if one is None or other is None:
        return False
    return abs(one - other) <= TOLERANCE * max(abs(one), abs(other), abs(scale or 0.0))


def spread(case: Case) -> Case | None:
    """Return a like case in which predictions go with the labels, and not all labels are the same.

    An untrained net may put out the same number for every sample, and sorted data begins with one class: then the mean
    over all pairs is the mean over samples by chance.
    """
    preds, labels = case.preds[case.pred], case.labels[case.label]
    if not preds.is_floating_point() or labels.is_complex():
        return None
    labels = varied(labels)
    aim = labels.to(preds.dtype).reshape(preds.shape)
    aim = aim - aim.mean()
    aim = aim / aim.abs().max().clamp(min=torch.finfo(aim.dtype).tiny)  # from -1 to 1
    least, most = float(preds.min()), float(preds.max())
    if least >= 0 and most <= 1:
        return case.put(0.8 * preds + 0.1 * (1 + aim), labels)  # probabilities stay such
    if least > 0:
        return case.put(preds * (1 + 0.2 * aim), labels)
    return case.put(preds + 0.2 * max(abs(least), abs(most), 0.5) * aim, labels)


def varied(labels: Tensor) -> Tensor:
    """Return labels of which not all are the same."""
    first = labels.flatten()[0]
    if bool((labels != first).any()):
        return labels
    other = torch.ones_like(first) if bool(first == 0) else (
        first / 2 if labels.is_floating_point() else torch.zeros_like(first))
    flat = labels.flatten().clone()
    flat[::2] = other
    return flat.reshape(labels.shape)
