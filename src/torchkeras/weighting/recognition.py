"""Find out, on a few samples, what a loss of unknown make is a mean over.

The loss of two parts together tells how the parts count: L(a + b) = (c(a) L(a) + c(b) L(b)) / (c(a) + c(b)) for the
right count c. Labels are marked as left out on purpose, so that counts which are equal by chance differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import torch
from torch import Tensor

from torchkeras.core.modes import SIGNS
from torchkeras.weighting.denominator import IGNORED, Denominator, used_of
from torchkeras.weighting.pieces import Indivisible

MOST = 8  # samples that are looked at
CLOSE = 2e-5  # relative difference of two sums of float32 that are the same number
KINDS = 16  # labels of so many kinds are each tried as a mark
MARKS = (IGNORED, -1, 255, *range(KINDS))  # labels that may stand for "left out"
FLOAT_MARKS = (math.nan, -1.0, 0.0, -100.0, -999.0, -9999.0, math.inf)

# the loss of the samples of a batch with these numbers, with these labels in place of their own
LossOf = Callable[[list[int], Tensor | None], float]


def recognise(loss_of: LossOf, labels: Tensor | None, samples: int, most: int = MOST) -> Denominator:
    """Return what a loss is a mean over; "unseen" where these samples cannot tell, since their loss is not finite.

    Args:
        loss_of: computes the loss of chosen samples; it raises what the loss raises.
        labels: the labels of the batch, where they are one tensor with a row for each sample.
        samples: how many samples there are, at least one.
        most: how many of them are looked at.
    """
    rows = chosen(labels, samples)[:most]
    given, labels = labels, with_labels_that_count(loss_of, labels, rows)
    early = at_first_sight(loss_of, labels, rows)
    if early is not None:
        return early
    ignored = marks_left_out(loss_of, labels, rows, marks_for(given))
    marked = picked(labels, rows)
    if ignored and marked is not None and marked.dim() > 1:
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
        with suppress(Exception):  # a label that is no class, or that the type has no room for
            trial = torch.full_like(labels, value)
            if math.isfinite(loss_of(rows, trial[rows])):
                return trial
    return labels


def mark_half(labels: Tensor, ignored: tuple[float, ...]) -> None:
    """Leave out the first half of the labels of a sample that count."""
    places = used_of(labels, ignored).flatten().nonzero()[:, 0]
    labels.view(-1)[places[: len(places) // 2]] = ignored[0]


def at_first_sight(loss_of: LossOf, labels: Tensor | None, rows: list[int]) -> Denominator | None:
    """Return what is known of a loss that cannot be compared with that of its parts; None where it can be."""
    try:
        first, again = (loss_of(rows, picked(labels, rows)) for _ in range(2))
    except Exception as error:  # a loss that some samples are too few for
        told = any(sign in str(error) for sign in SIGNS) or getattr(error, "user_mistake", False)
        if told or isinstance(error, Indivisible):
            raise
        return Denominator("other")
    if not math.isfinite(first) or first == again == 0:
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


def candidates(labels: Tensor | None, ignored: tuple[float, ...]) -> Iterator[Denominator]:
    """Yield what a loss may be a mean over, the most special first; language models count from the second label on."""
    if labels is not None and not ignored and not labels.is_floating_point() and labels.dtype != torch.bool:
        ignored = (IGNORED,)  # none is left out here; where one is, torch's own losses go by this mark
    if ignored and labels is not None:
        yield Denominator("valid", ignored=ignored)
        if labels.dim() == 2 and labels.shape[1] > 1:
            yield Denominator("shifted", ignored=ignored)
    yield Denominator("samples")


def marks_left_out(loss_of: LossOf, labels: Tensor | None, rows: list[int],
                   marks: Iterable[float]) -> tuple[float, ...]:
    """Return which labels the loss leaves out: with one in place of a sample's, the loss is that of the others."""
    if labels is None or labels.dim() == 0 or len(rows) < 2:
        return ()
    found, counting = [], labels_that_count(loss_of, labels, rows)
    for mark in marks:
        own = counting.clone()
        with suppress(Exception):  # a loss that takes no such label: torch's own raise IndexError
            own[0] = mark
            with_mark, without = loss_of(rows, own), loss_of(rows[1:], own[1:])
            if not close(with_mark, without):
                continue
            # where all samples have one loss, leaving out all of them tells
            alike = close(with_mark, loss_of(rows, counting))
            if not alike or not math.isfinite(loss_of(rows, torch.full_like(own, mark))):
                found.append(mark)
    return tuple(found)


def labels_that_count(loss_of: LossOf, labels: Tensor, rows: list[int]) -> Tensor:
    """Return labels for these samples none of which is left out: a batch may have hardly any; else their own."""
    own = labels[rows]
    for value in own.unique()[:KINDS].tolist():
        with suppress(Exception):
            trial = torch.full_like(own, value)
            if math.isfinite(loss := loss_of(rows, trial)) and loss:
                return trial
    return own.clone()


def marks_for(labels: Tensor | None) -> Iterator[float]:
    """Yield the labels that may be left out: some numbers, and where there are few kinds of labels each of them.

    On an accelerator only those that occur: a loss that takes no such label would end the program there.
    """
    if labels is None or labels.dtype == torch.bool:
        return
    if labels.is_floating_point():
        values, counts = labels[labels.isfinite()].unique(return_counts=True)
        often = values[counts > 1][counts[counts > 1].argsort(descending=True)]
        yield from dict.fromkeys([*FLOAT_MARKS, *often[:KINDS].tolist()])
        return
    present = set(labels.unique().tolist()) if labels.numel() else set()
    kinds = torch.iinfo(labels.dtype)
    tried = [mark for mark in MARKS if kinds.min <= mark <= kinds.max and (labels.is_cpu or mark in present)]
    yield from dict.fromkeys([*tried, *(sorted(present) if len(present) <= KINDS else ())])


def chosen(labels: Tensor | None, samples: int) -> list[int]:
    """Return the samples to look at: those with most labels that are not left out first; one comes twice."""
    rows = list(range(samples))
    if labels is not None and labels.dim() and len(labels) == samples:
        used = used_of(labels, (math.nan,) if labels.is_floating_point() else (IGNORED,))
        counted = used.reshape(samples, -1).sum(1).tolist()
        rows.sort(key=lambda row: -counted[row])
    return rows * 2 if samples == 1 else rows


def picked(labels: Tensor | None, rows: list[int]) -> Tensor | None:
    """Return a copy of the labels of some samples."""
    return None if labels is None else labels[rows].clone()


def close(one: float, other: float) -> bool:
    """Tell whether two losses are the same but for rounding."""
    return math.isfinite(one) and math.isfinite(other) and abs(one - other) <= CLOSE * max(abs(one), abs(other))


def axes(loss: Callable[[Tensor, Tensor], float], preds: Tensor, labels: Tensor) -> Denominator | None:
    """Return over which dimensions of labels a loss without a left-out label is a mean; None for no such mean.

    Batches that are padded differ in their second dimension, images in others, and those of a recurrent net have time
    first.
    """
    along = {dim: mean_along(loss, preds, labels, dim) for dim in range(labels.dim()) if labels.shape[dim] > 1}
    dims = tuple(dim for dim in range(labels.dim()) if along.get(dim, True))
    return Denominator("elements", dims=dims) if any(along.values()) else None


def mean_along(loss: Callable[[Tensor, Tensor], float], preds: Tensor, labels: Tensor, dim: int) -> bool:
    """Tell whether the loss of a batch is the mean of those of its parts along a dimension of the labels."""
    size = labels.shape[dim]
    cuts = {max(1, size // 3), size - max(1, size // 3)}  # at one alone the losses may agree by chance
    for own in dict.fromkeys((dim, dim + preds.dim() - labels.dim())):  # (N, T, C) or (N, C, T) for labels (N, T)
        if not 0 <= own < preds.dim() or preds.shape[own] != size:
            continue
        with suppress(Exception):  # shapes that do not go together in this reading
            whole = loss(preds, labels)
            if all(close(whole, sum(part * loss(preds.narrow(own, start, part), labels.narrow(dim, start, part))
                                    for start, part in ((0, cut), (cut, size - cut))) / size) for cut in cuts):
                return True
    return False


def still(found: Denominator, loss_of: LossOf, loss: Callable[[Tensor, Tensor], float], preds: Tensor,
          labels: Tensor) -> bool:
    """Tell whether a later batch agrees with what was found out by an earlier one."""
    if found.kind == "elements":
        dims = range(labels.dim()) if found.dims is None else found.dims
        return all(mean_along(loss, preds, labels, dim) for dim in dims if labels.shape[dim] > 1)
    sums = Parts.of(loss_of, labels, list(range(len(labels))))
    if sums is None or not math.isfinite(sums.losses[0]):
        return True  # nothing counts in it
    return sums.add_up() if found.kind == "sum" else sums.agree(found)
