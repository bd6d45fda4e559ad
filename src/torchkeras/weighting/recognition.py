"""Find out, on a few samples, what a loss of unknown kind is a mean over.

The losses of two parts and of both together tell how the parts count: for the right count c,
L(a + b) = (c(a) L(a) + c(b) L(b)) / (c(a) + c(b)). Some labels are replaced by ignored ones, so
that counts which are equal by chance differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import torch
from torch import Tensor

from torchkeras.core.modes import SIGNS
from torchkeras.weighting.denominator import IGNORED, Denominator, valid_mask
from torchkeras.weighting.pieces import Indivisible

MAX_SAMPLES = 8  # samples that are examined
TOLERANCE = 2e-5  # relative difference of two float32 sums of the same numbers
MAX_KINDS = 16  # distinct labels, up to which each is tried as an ignored label
MARKS = (IGNORED, -1, 255, *range(MAX_KINDS))  # labels that may be ignored ones
FLOAT_MARKS = (math.nan, -1.0, 0.0, -100.0, -999.0, -9999.0, math.inf)

# computes the loss of the samples with these indices, with these labels in place of their own
LossOf = Callable[[list[int], Tensor | None], float]


def recognise(loss_of: LossOf, labels: Tensor | None, samples: int,
              most: int = MAX_SAMPLES) -> Denominator:
    """Return what a loss is a mean over; "unseen" if these samples cannot tell.

    Args:
        loss_of: computes the loss of chosen samples; it raises what the loss raises.
        labels: the labels of the batch, where they are one tensor with a row for each sample.
        samples: the number of samples, at least one.
        most: the maximum number of samples that are examined.
    """
    rows = choose_rows(labels, samples)[:most]
    given, labels = labels, with_labels_that_count(loss_of, labels, rows)
    early = quick_verdict(loss_of, labels, rows)
    if early is not None:
        return early
    ignored = find_ignored_labels(loss_of, labels, rows, possible_ignored_labels(given))
    marked = labels_of(labels, rows)
    if ignored and marked is not None and marked.dim() > 1:
        mark_half(marked[0], ignored)
    sums = PartLosses.of(loss_of, marked, rows)
    if sums is None:
        return Denominator("other")
    found = [candidate for candidate in candidates(marked, ignored) if sums.agree(candidate)]
    if found:  # several candidates agree where both parts have the same loss
        return found[0] if len({sums.ratio(one) for one in found}) == 1 else Denominator("unseen")
    return Denominator("sum") if sums.add_up() else Denominator("other")


def with_labels_that_count(loss_of: LossOf, labels: Tensor | None,
                           rows: list[int]) -> Tensor | None:
    """Return labels with a finite loss: others, if all are the same and left out.

    On an accelerator they stay: a loss that takes no such label would end the process there.
    """
    if labels is None or not labels.is_cpu or labels.is_floating_point():
        return labels
    if labels.dtype == torch.bool or not labels.numel() or (
            bool((labels != labels.flatten()[0]).any())):
        return labels
    only = int(labels.flatten()[0])
    for value in (only, only + 1, only - 1, 0, 1):
        with suppress(Exception):  # not a class, or out of the dtype's range
            trial = torch.full_like(labels, value)
            if math.isfinite(loss_of(rows, trial[rows])):
                return trial
    return labels


def mark_half(labels: Tensor, ignored: tuple[float, ...]) -> None:
    """Mark the first half of the labels of a sample as left out."""
    places = valid_mask(labels, ignored).flatten().nonzero()[:, 0]
    labels.view(-1)[places[: len(places) // 2]] = ignored[0]


def quick_verdict(loss_of: LossOf, labels: Tensor | None, rows: list[int]) -> Denominator | None:
    """Return what is clear without comparing parts; None if they must be compared."""
    try:
        first, again = (loss_of(rows, labels_of(labels, rows)) for _ in range(2))
    except Exception as error:  # some losses need more samples
        explained = getattr(error, "user_mistake", False) or isinstance(error, Indivisible)
        if explained or any(sign in str(error) for sign in SIGNS):
            raise
        return Denominator("other")
    if not math.isfinite(first) or first == again == 0:
        return Denominator("unseen")
    return None if is_close(first, again) else Denominator("random")


class PartLosses:
    """The losses of two unequal parts of a batch, and of the whole."""

    def __init__(self, losses: tuple[float, float, float],
                 labels: tuple[Tensor | None, Tensor | None], samples: tuple[int, int]) -> None:
        self.losses, self.labels, self.samples = losses, labels, samples

    @classmethod
    def of(cls, loss_of: LossOf, labels: Tensor | None, rows: list[int]) -> PartLosses | None:
        """Compute the losses; None where one cannot be computed."""
        cut = max(1, len(rows) // 3)
        own = None if labels is None else labels[:cut], None if labels is None else labels[cut:]
        try:
            losses = loss_of(rows, labels), loss_of(rows[:cut], own[0]), loss_of(rows[cut:], own[1])
        except Exception:  # some losses need more samples
            return None
        return cls(losses, own, (cut, len(rows) - cut))

    def agree(self, candidate: Denominator) -> bool:
        """Tell whether the loss of the whole is the mean of the parts' losses by this count."""
        whole, *parts = self.losses
        used = [(loss, count) for loss, count in zip(parts, self.counts(candidate), strict=True)
                if count]
        total = sum(count for _, count in used)
        return bool(total) and is_close(whole, sum(loss * count for loss, count in used) / total)

    def ratio(self, candidate: Denominator) -> float:
        """Return the count of the first part divided by that of the second."""
        first, second = self.counts(candidate)
        return round(first / second, 9) if second else math.inf

    def counts(self, candidate: Denominator) -> list[float]:
        """Return the count of each part."""
        return [float(candidate.count(labels, samples))
                for labels, samples in zip(self.labels, self.samples, strict=True)]

    def add_up(self) -> bool:
        """Tell whether the loss of the whole is the sum of the parts' losses."""
        return is_close(self.losses[0], self.losses[1] + self.losses[2])


def candidates(labels: Tensor | None, ignored: tuple[float, ...]) -> Iterator[Denominator]:
    """Yield what a loss may be a mean over, the most special first."""
    if labels is not None and not ignored and (
            not labels.is_floating_point() and labels.dtype != torch.bool):
        ignored = (IGNORED,)  # none is ignored here; in later batches, torch's losses use this
    if ignored and labels is not None:
        yield Denominator("valid", ignored=ignored)
        if labels.dim() == 2 and labels.shape[1] > 1:
            yield Denominator("shifted", ignored=ignored)
    yield Denominator("samples")


def find_ignored_labels(loss_of: LossOf, labels: Tensor | None, rows: list[int],
                        marks: Iterable[float]) -> tuple[float, ...]:
    """Return the labels that the loss ignores: replacing one by it equals removing the sample."""
    if labels is None or labels.dim() == 0 or len(rows) < 2:
        return ()
    found, counting = [], labels_that_count(loss_of, labels, rows)
    for mark in marks:
        own = counting.clone()
        with suppress(Exception):  # a loss that takes no such label; torch's raise IndexError
            own[0] = mark
            with_mark, without = loss_of(rows, own), loss_of(rows[1:], own[1:])
            if not is_close(with_mark, without):
                continue
            # where all samples have the same loss, ignoring all of them gives 0/0
            alike = is_close(with_mark, loss_of(rows, counting))
            if not alike or not math.isfinite(loss_of(rows, torch.full_like(own, mark))):
                found.append(mark)
    return tuple(found)


def labels_that_count(loss_of: LossOf, labels: Tensor, rows: list[int]) -> Tensor:
    """Return labels of these samples none of which is ignored, if such can be found."""
    own = labels[rows]
    for value in torch.unique(own)[:MAX_KINDS].tolist():
        with suppress(Exception):
            trial = torch.full_like(own, value)
            if math.isfinite(loss := loss_of(rows, trial)) and loss:
                return trial
    return own.clone()


def possible_ignored_labels(labels: Tensor | None) -> Iterator[float]:
    """Yield the labels that a loss may ignore.

    On an accelerator, only those that occur: a loss that takes no such label would end the process.
    """
    if labels is None or labels.dtype == torch.bool:
        return
    if labels.is_floating_point():
        values, counts = torch.unique(labels[labels.isfinite()], return_counts=True)
        often = values[counts > 1][counts[counts > 1].argsort(descending=True)]
        yield from dict.fromkeys([*FLOAT_MARKS, *often[:MAX_KINDS].tolist()])
        return
    present = set(torch.unique(labels).tolist()) if labels.numel() else set()
    kinds = torch.iinfo(labels.dtype)
    tried = [mark for mark in MARKS
             if kinds.min <= mark <= kinds.max and (labels.is_cpu or mark in present)]
    yield from dict.fromkeys([*tried, *(sorted(present) if len(present) <= MAX_KINDS else ())])


def choose_rows(labels: Tensor | None, samples: int) -> list[int]:
    """Return the order in which to examine samples: those with most valid labels first."""
    rows = list(range(samples))
    if labels is not None and labels.dim() and len(labels) == samples:
        used = valid_mask(labels, (math.nan,) if labels.is_floating_point() else (IGNORED,))
        counted = used.reshape(samples, -1).sum(1).tolist()
        rows.sort(key=lambda row: -counted[row])
    return rows * 2 if samples == 1 else rows


def labels_of(labels: Tensor | None, rows: list[int]) -> Tensor | None:
    """Return a copy of the labels of some samples."""
    return None if labels is None else labels[rows].clone()


def is_close(one: float, other: float) -> bool:
    """Tell whether two losses are equal up to rounding."""
    near = abs(one - other) <= TOLERANCE * max(abs(one), abs(other))
    return math.isfinite(one) and math.isfinite(other) and near


def precise(tensor: Tensor) -> Tensor:
    """Return a tensor with at least 32 bits, so that rounding hides no difference."""
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor


def find_axes(loss: Callable[[Tensor, Tensor], float], preds: Tensor,
              labels: Tensor) -> Denominator | None:
    """Return the dimensions of the labels over which a loss is a mean; None for none.

    Padded batches differ in their second dimension, images in others, and recurrent nets have time
    first.
    """
    along = {dim: mean_along(loss, preds, labels, dim)
             for dim in range(labels.dim()) if labels.shape[dim] > 1}
    dims = tuple(dim for dim in range(labels.dim()) if along.get(dim, True))
    return Denominator("elements", dims=dims) if any(along.values()) else None


def mean_along(loss: Callable[[Tensor, Tensor], float], preds: Tensor, labels: Tensor,
               dim: int) -> bool:
    """Tell whether a loss is the mean of those of parts along a dimension of the labels."""
    size = labels.shape[dim]
    cuts = {max(1, size // 3), size - max(1, size // 3)}  # at one alone, losses may agree by chance
    # the same dimension in preds (N, T, C), or the one in (N, C, T), for labels (N, T)
    for own in dict.fromkeys((dim, dim + preds.dim() - labels.dim())):
        if not 0 <= own < preds.dim() or preds.shape[own] != size:
            continue
        with suppress(Exception):  # shapes that do not match in this reading
            whole = loss(preds, labels)
            if all(is_close(whole, sum(part * loss(preds.narrow(own, start, part),
                                                   labels.narrow(dim, start, part))
                                       for start, part in ((0, cut), (cut, size - cut))) / size)
                   for cut in cuts):
                return True
    return False


def still_agrees(found: Denominator, loss_of: LossOf, loss: Callable[[Tensor, Tensor], float],
                 preds: Tensor, labels: Tensor) -> bool:
    """Tell whether a later batch agrees with what was found."""
    if found.kind == "elements":
        dims = range(labels.dim()) if found.dims is None else found.dims
        return all(mean_along(loss, preds, labels, dim) for dim in dims if labels.shape[dim] > 1)
    sums = PartLosses.of(loss_of, labels, list(range(len(labels))))
    if sums is None or not math.isfinite(sums.losses[0]):
        return True  # nothing counts in this batch
    return sums.add_up() if found.kind == "sum" else sums.agree(found)
