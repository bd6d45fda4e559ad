"""Find out, on a few samples, what a loss of unknown make is a mean over.

The loss of two parts together tells how the parts count: L(a + b) = (c(a) L(a) + c(b) L(b)) / (c(a) + c(b)) for the
right count c. Labels are marked as left out on purpose, so that counts which are equal by chance differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress

import torch
from torch import Tensor

from torchkeras.engine.denominator import IGNORED, Denominator
from torchkeras.engine.modes import SIGNS

MOST = 8  # samples that are looked at
CLOSE = 2e-5  # relative difference of two sums of float32 that are the same number
MARKS = (IGNORED, -1, 0, 255)  # labels that may stand for "left out"


# the loss of the samples of a batch with these numbers, with these labels in place of their own
LossOf = Callable[[list[int], Tensor | None], float]


def recognise(loss_of: LossOf, labels: Tensor | None, samples: int) -> Denominator:
    """Return what a loss is a mean over; "unseen" where these samples cannot tell, since their loss is not finite.

    Args:
        loss_of: computes the loss of chosen samples; it raises what the loss raises.
        labels: the labels of the batch, where they are one tensor with a row for each sample.
        samples: how many samples there are, at least one.
    """
    rows = chosen(labels, samples)
    labels = with_labels_that_count(loss_of, labels, rows)
    early = at_first_sight(loss_of, labels, rows)
    if early is not None:
        return early
    ignored = mark_left_out(loss_of, labels, rows)
    marked = picked(labels, rows)
    if ignored is not None and marked is not None and marked.dim() > 1:
        mark_half(marked[0], ignored)
    sums = Parts.of(loss_of, marked, rows)
    if sums is None:
        return Denominator("other")
    found = [candidate for candidate in candidates(marked, ignored) if sums.agree(candidate)]
    if found:  # several that differ agree where both parts have the same loss
        return found[0] if len({sums.ratio(one) for one in found}) == 1 else Denominator("unseen")
    return Denominator("sum") if sums.add_up() else Denominator("other")


def with_labels_that_count(loss_of: LossOf, labels: Tensor | None, rows: list[int]) -> Tensor | None:
    """Return labels at which the loss is finite: others, where these are all the same and are left out.

    On an accelerator they stay: a loss that takes no such label would end the program there.
    """
    if labels is None or not labels.is_cpu or labels.is_floating_point() or labels.dtype == torch.bool or not (
            labels.numel()) or bool((labels != labels.flatten()[0]).any()):
        return labels
    only = int(labels.flatten()[0])
    for value in (only, only + 1, only - 1, 0, 1):
        trial = torch.full_like(labels, value)
        with suppress(Exception):  # a label that is no class
            if math.isfinite(loss_of(rows, trial[rows])):
                return trial
    return labels


def mark_half(labels: Tensor, ignored: float) -> None:
    """Leave out the first half of the labels of a sample that count."""
    used = ~labels.isnan() if ignored != ignored else labels != ignored
    places = used.flatten().nonzero()[:, 0]
    labels.view(-1)[places[: len(places) // 2]] = ignored


def at_first_sight(loss_of: LossOf, labels: Tensor | None, rows: list[int]) -> Denominator | None:
    """Return what is known of a loss that cannot be compared with that of its parts; None where it can be."""
    try:
        first, again = (loss_of(rows, picked(labels, rows)) for _ in range(2))
    except Exception as error:  # a loss that some samples are too few for
        if any(sign in str(error) for sign in SIGNS):
            raise
        return Denominator("other")
    if not math.isfinite(first):
        return Denominator("unseen")
    return None if close(first, again) else Denominator("random")


class Parts:
    """The losses of two unlike parts and of both together."""

    def __init__(self, losses: tuple[float, float, float], labels: tuple[Tensor | None, Tensor | None],
                 samples: tuple[int, int]) -> None:
        self.losses, self.labels, self.samples = losses, labels, samples

    @classmethod
    def of(cls, loss_of: LossOf, labels: Tensor | None, rows: list[int]) -> Parts | None:
        """Compute them; None where one of them cannot be."""
        cut = max(1, len(rows) // 3)
        own = None if labels is None else labels[:cut], None if labels is None else labels[cut:]
        try:
            losses = loss_of(rows, labels), loss_of(rows[:cut], own[0]), loss_of(rows[cut:], own[1])
        except Exception:  # see above
            return None
        return cls(losses, own, (cut, len(rows) - cut))

    def agree(self, candidate: Denominator) -> bool:
        """Tell whether the loss of both is the mean of the losses of the parts by this count."""
        whole, *parts = self.losses
        used = [(loss, count) for loss, count in zip(parts, self.counts(candidate), strict=True) if count]
        total = sum(count for _, count in used)
        return bool(total) and close(whole, sum(loss * count for loss, count in used) / total)

    def ratio(self, candidate: Denominator) -> float:
        """Return how the parts count against each other."""
        first, second = self.counts(candidate)
        return round(first / second, 9) if second else math.inf

    def counts(self, candidate: Denominator) -> list[float]:
        """Return how much each part counts."""
        return [float(candidate.count(labels, samples))
                for labels, samples in zip(self.labels, self.samples, strict=True)]

    def add_up(self) -> bool:
        """Tell whether the loss of both is the sum of the losses of the parts."""
        return close(self.losses[0], self.losses[1] + self.losses[2])


def candidates(labels: Tensor | None, ignored: float | None) -> Iterator[Denominator]:
    """Yield what a loss may be a mean over, the most special first; language models count from the second label on."""
    if labels is not None and ignored is None and not labels.is_floating_point() and labels.dtype != torch.bool:
        ignored = IGNORED  # none is left out here; where one is, torch's own losses go by this mark
    if ignored is not None and labels is not None:
        yield Denominator("valid", ignored)
        if labels.dim() == 2 and labels.shape[1] > 1:
            yield Denominator("shifted", ignored)
    yield Denominator("samples")


def mark_left_out(loss_of: LossOf, labels: Tensor | None, rows: list[int]) -> float | None:
    """Return the label that the loss leaves out: with it in place of a sample's, the loss is that of the others."""
    if labels is None or labels.dim() == 0 or len(rows) < 2:
        return None
    for mark in marks_for(labels):
        own = labels[rows].clone()
        own[0] = mark
        try:
            with_mark, without = loss_of(rows, own), loss_of(rows[1:], own[1:])
            alike = close(with_mark, without) and close(with_mark, loss_of(rows, labels[rows]))
            # where all samples have one loss, leaving out all of them tells
            left_out = not math.isfinite(loss_of(rows, torch.full_like(own, mark))) if alike else (
                close(with_mark, without))
        except Exception:  # a loss that takes no such label: torch's own raise IndexError
            continue
        if left_out:
            return mark
    return None


def marks_for(labels: Tensor) -> Iterator[float]:
    """Yield the labels that may be left out: NaN among floats, and some numbers.

    On an accelerator only those that occur: a loss that takes no such label would end the program there.
    """
    if labels.is_floating_point():
        yield math.nan
    for mark in MARKS if labels.dtype != torch.bool else ():
        fits = labels.dtype != torch.uint8 or mark >= 0
        if fits and ((labels.is_cpu and not labels.is_floating_point()) or bool((labels == mark).any())):
            yield mark


def chosen(labels: Tensor | None, samples: int) -> list[int]:
    """Return the samples to look at: at most eight, those with most labels that are not left out; one comes twice."""
    rows = list(range(samples))
    if labels is not None and labels.dim() and len(labels) == samples:
        used = ~labels.isnan() if labels.is_floating_point() else labels != IGNORED
        counted = used.reshape(samples, -1).sum(1).tolist()
        rows.sort(key=lambda row: -counted[row])
    return (rows * 2 if samples == 1 else rows)[:MOST]


def picked(labels: Tensor | None, rows: list[int]) -> Tensor | None:
    """Return a copy of the labels of some samples."""
    return None if labels is None else labels[rows].clone()


def close(one: float, other: float) -> bool:
    """Tell whether two losses are the same but for rounding."""
    return abs(one - other) <= CLOSE * max(abs(one), abs(other)) + 1e-7


def axes(loss: Callable[[Tensor, Tensor], Tensor], preds: Tensor, labels: Tensor) -> Denominator:
    """Return over which dimensions of labels a loss without a left-out label is a mean: the first, the second or both.

    Batches that are padded differ in their second dimension, and those of a recurrent net have time first.
    """
    along = [mean_along(loss, preds, labels, dim) for dim in range(min(labels.dim(), 2))]
    if len(along) < 2 or along == [True, False]:
        return Denominator("samples" if along[0] else "other")
    if along == [True, True]:
        return Denominator("elements")
    return Denominator("columns" if along[1] else "other")


def mean_along(loss: Callable[[Tensor, Tensor], Tensor], preds: Tensor, labels: Tensor, dim: int) -> bool:
    """Tell whether the loss of a batch is the mean of those of its parts along a dimension of the labels."""
    size = labels.shape[dim]
    if size < 2:
        return dim == 0
    cut = max(1, size // 3)
    for own in (dim, dim + preds.dim() - labels.dim()):  # (N, T, C) or (N, C, T) for labels (N, T)
        if not own < preds.dim() or preds.shape[own] != size:
            continue
        try:
            whole, first, second = (float(loss(*part)) for part in (
                (preds, labels), (preds.narrow(own, 0, cut), labels.narrow(dim, 0, cut)),
                (preds.narrow(own, cut, size - cut), labels.narrow(dim, cut, size - cut))))
        except Exception:  # shapes that do not go together in this reading
            continue
        if close(whole, (cut * first + (size - cut) * second) / size):
            return True
    return False
