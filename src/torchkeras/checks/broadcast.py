"""Find losses that broadcast every prediction against every label by mistake.

``(N, 1)`` minus ``(N,)`` is ``(N, N)`` in torch. A loss that does so does not learn which label
belongs to which prediction, and its value looks like any other. As a loss does not tell whether it
does so, it is called on the first batch with the shapes as they are, and with equal shapes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.core.rng import put_random_states, random_states
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Labels, Leaf, Preds
from torchkeras.state.memento import memento_of
from torchkeras.weighting.recognition import precise, recognise

Loss = Callable[[Any, Any], Any]
broadcast_shapes: Callable[..., torch.Size] = torch.broadcast_shapes  # torch has no types for it
TOLERANCE = 1e-4  # relative: sums of float32 in another order differ by less
PAIRS = 8  # pairs of an output and a label that are tried, if there are several


class Case(NamedTuple):
    """Flat predictions and labels, and which of them are compared."""

    preds: list[Any]
    labels: list[Any]
    pred: int
    label: int

    @property
    def samples(self) -> int:
        """Return the number of samples."""
        return int(max(self.preds[self.pred].shape[0], self.labels[self.label].shape[0]))

    def put(self, pred: Tensor | None = None, label: Tensor | None = None) -> Case:
        """Return the case with another prediction or label in place of the compared one."""
        preds, labels = list(self.preds), list(self.labels)
        preds[self.pred] = preds[self.pred] if pred is None else pred
        labels[self.label] = labels[self.label] if label is None else label
        return self._replace(preds=preds, labels=labels)

    def take(self, index: Tensor, labels_only: bool = False) -> Case:
        """Return the case with some samples only, or with its labels reordered."""
        count = self.samples

        def some(leaf: Leaf) -> Leaf:
            fits = isinstance(leaf, Tensor) and leaf.dim() > 0 and len(leaf) == count
            return leaf[index.to(leaf.device)] if fits else leaf

        return self._replace(preds=self.preds if labels_only else list(map(some, self.preds)),
                             labels=list(map(some, self.labels)))


def check_broadcast(loss: Loss, preds: Preds, labels: Labels, argument: str) -> None:
    """Raise if a loss compares every prediction of the first batch with every label.

    A loss that pairs all samples on purpose passes (ranking, contrastive, Cox), and so does one
    that makes the shapes equal itself. The random state and the state of the loss are restored; a
    loss that holds something that can be read only once passes.

    Args:
        loss: called with predictions and labels, without gradients.
        preds: a tensor, or tensors in tuples and dicts.
        labels: the same.
        argument: the name of the data in the message.

    Raises:
        ValueError: the loss broadcasts, so that it does not depend on which label belongs to which
            prediction.
    """
    found = [Case(float_leaves(preds), float_leaves(labels), *which)
             for which in mismatches(float_leaves(preds), float_leaves(labels))]
    if not found:
        return
    states, memento = random_states(), memento_of(loss)
    if memento.one_shot:
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
    """Build the error for labels whose shape is not that of the predictions."""
    return bad_value(argument,
                     received=f"labels of shape {tuple(labels.shape)} for net output "
                     f"{tuple(preds.shape)}",
                     expected=f"equal shapes for {name}: these would be broadcast against each "
                     "other, every prediction with every label",
                     fix="Use .squeeze(-1) on the output or labels[:, None]; a loss that means to "
                     "pair all with all does so itself, from equal shapes.")


def float_leaves(tree: Preds) -> list[Leaf]:
    """Return the leaves of nested tuples, lists and dicts, detached; halves as float32."""
    found: list[Any] = []

    def keep(leaf: Leaf) -> Leaf:
        found.append(leaf)
        return leaf

    map_tree(keep, tree)
    return [precise(one.detach()) if isinstance(one, Tensor) else one for one in found]


def filled(tree: Preds, values: list[Leaf]) -> Preds:
    """Return a tree with its leaves replaced by other values."""
    rest = iter(values)
    return map_tree(lambda _: next(rest), tree)


def mismatches(preds: list[Leaf], labels: list[Leaf]) -> Iterator[tuple[int, int]]:
    """Yield the places of predictions and labels whose broadcast is larger than both."""
    for label, other in enumerate(labels):
        for pred, one in enumerate(preds):
            if is_plain(one) and is_plain(other) and broadcasts_larger(one.shape, other.shape):
                yield pred, label


def is_plain(value: object) -> bool:
    """Tell whether a value is a tensor that is not nested."""
    return isinstance(value, Tensor) and not value.is_nested


def broadcasts_larger(one: torch.Size, other: torch.Size) -> bool:
    """Tell whether two shapes with equally many elements broadcast to more elements."""
    if not one or not other or one.numel() != other.numel() or one == other:
        return False
    try:
        return broadcast_shapes(one, other).numel() > one.numel()
    except RuntimeError:
        return False


def value_of(loss: Loss, preds: Preds, labels: Labels) -> float | None:
    """Return the loss as a float; None if it does not take these shapes."""
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value: Any = loss(preds, labels)
            value = value[0] if isinstance(value, tuple) and value else value  # (loss, parts)
            one = isinstance(value, (int, float)) or getattr(value, "size", None) == 1 or (
                isinstance(value, Tensor) and value.numel() == 1)
            found = float(value) if one else math.nan
    except Exception:  # users' losses raise anything for shapes that they do not expect
        return None
    return found if math.isfinite(found) else None


def broadcasts(number: Callable[[Case], float | None], case: Case) -> bool:
    """Tell whether a loss differs from its value for equal shapes, where it pairs one to one."""
    cases = [one for one in (case, spread(case)) if one is not None and number(one) is not None]
    wide, narrow = ([one for one in map(change, cases) if one is not None]
                    for change in (as_preds, as_labels))
    found = [one for one in (wide, narrow)
             if cases and len(one) == len(cases) and differ(number, cases, one)
             and depends_on_order(number, one)]
    if any(all(is_mean_or_sum(number, one) or is_mean_over_valid(number, one) for one in variant)
           for variant in found):
        return True
    return len(found) == 2 and ignores_pairing(number, cases, wide, narrow)


def as_preds(case: Case) -> Case | None:
    """Return the case with labels reshaped to the predictions."""
    shape = case.preds[case.pred].shape
    if shape[0] != case.samples:
        return None
    return case.put(label=case.labels[case.label].reshape(shape))


def as_labels(case: Case) -> Case | None:
    """Return the case with predictions reshaped to the labels."""
    shape = case.labels[case.label].shape
    if shape[0] != case.samples:
        return None
    return case.put(pred=case.preds[case.pred].reshape(shape))


def differ(number: Callable[[Case], float | None], cases: list[Case], others: list[Case]) -> bool:
    """Tell whether the loss of any case changes with equal shapes."""
    pairs = [(number(one), number(other)) for one, other in zip(cases, others, strict=True)]
    if any(other is None for _, other in pairs):
        return False
    return not all(is_close(*pair) for pair in pairs)


def is_mean_or_sum(number: Callable[[Case], float | None], case: Case) -> bool:
    """Tell whether the loss of a whole is the mean, or the sum, over its parts."""
    whole = number(case)
    parts = [[(number(case.take(index)), len(index)) for index in split]
             for split in splits(case.samples)]
    if whole is None or any(value is None for split in parts for value, _ in split):
        return False
    sums = [[(value or 0.0, count) for value, count in split] for split in parts]
    means = all(is_close(sum(value * count for value, count in split) / case.samples, whole)
                for split in sums)
    return means or all(is_close(sum(value for value, _ in split), whole) for split in sums)


def is_mean_over_valid(number: Callable[[Case], float | None], case: Case) -> bool:
    """Tell whether the loss is a mean over the samples whose labels it does not ignore."""
    labels = case.labels[case.label]

    def loss_of(rows: list[int], own: Tensor | None) -> float:
        found = number(case.take(torch.tensor(rows)).put(label=own))
        if found is None:
            raise ValueError
        return found

    return len(labels) == case.samples and recognise(loss_of, labels, case.samples).kind == "valid"


def ignores_pairing(number: Callable[[Case], float | None], cases: list[Case], wide: list[Case],
                    narrow: list[Case]) -> bool:
    """Tell whether a loss of whole batches (Dice, correlation) ignores which label is whose.

    With equal shapes it must depend on it, and both ways to make the shapes equal must agree, also
    in parts of the batch.
    """
    for one, other in zip(wide, narrow, strict=True):
        parts = [index for split in splits(one.samples) for index in split]
        numbers = [(number(one), number(other)),
                   *((number(one.take(part)), number(other.take(part))) for part in parts)]
        if not all(is_close(*pair) for pair in numbers):
            return False
    others = [number(one) for one in wide]
    return all(is_close(number(one), number(rolled(one)), other)
               for one, other in zip(cases, others, strict=True))


def depends_on_order(number: Callable[[Case], float | None], cases: list[Case]) -> bool:
    """Tell whether a loss depends on which label belongs to which prediction."""
    return not all(is_close(number(one), number(rolled(one))) for one in cases)


def rolled(case: Case) -> Case:
    """Return the case with each label moved to the next sample."""
    return case.take(torch.arange(case.samples).roll(1), labels_only=True)


def splits(samples: int) -> list[list[Tensor]]:
    """Return two ways to split samples into unequal parts."""
    index = torch.arange(samples)
    cut, third = max(samples // 3, 1), index % 3 == 0
    return [[index[:cut], index[cut:]], [index[third], index[~third]]]


def is_close(one: float | None, other: float | None, scale: float | None = 0.0) -> bool:
    """Tell whether two numbers are equal up to rounding."""
    if one is None or other is None:
        return False
    return abs(one - other) <= TOLERANCE * max(abs(one), abs(other), abs(scale or 0.0))


def spread(case: Case) -> Case | None:
    """Return a like case whose predictions follow its labels, and whose labels differ.

    An untrained net may return the same number for every sample, and sorted data begins with one
    class: then the mean over all pairs equals the mean over samples by chance.
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
        return case.put(0.8 * preds + 0.1 * (1 + aim), labels)  # probabilities stay within 0..1
    if least > 0:
        return case.put(preds * (1 + 0.2 * aim), labels)
    return case.put(preds + 0.2 * max(abs(least), abs(most), 0.5) * aim, labels)


def varied(labels: Tensor) -> Tensor:
    """Return labels that are not all the same."""
    first = labels.flatten()[0]
    if bool((labels != first).any()):
        return labels
    other = torch.ones_like(first) if bool(first == 0) else (
        first / 2 if labels.is_floating_point() else torch.zeros_like(first))
    flat = labels.flatten().clone()
    flat[::2] = other
    return flat.reshape(labels.shape)
