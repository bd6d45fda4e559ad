"""Average the losses of an epoch over samples, never over batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.core.stop import NonFiniteLoss
from torchkeras.core.types import Count, Logs
from torchkeras.weighting.weighing import Terms

Sums = tuple[dict[str, float], dict[str, float], dict[str, list[float]]]
FLUSH_EVERY = 128  # steps between two reads of the device
NUMBERS = frozenset({int, float})


class AverageMeter:
    """Sum loss x samples, and samples, in float64, for each name over the batches that have it.

    Losses of steps are collected in a list and added up a hundred at a time: a step costs one
    ``append``, the device is read once in many steps, and the first loss that is not finite is
    still found with its step number. Losses on the CPU are read at once: a hundred tensors that
    are kept would drive what the next step needs out of the processor's cache.
    """

    def __init__(self, summed: bool = False,
                 alarm: Callable[[NonFiniteLoss], None] | None = None) -> None:
        self.summed = summed  # a loss with reduction="sum" adds up; it has no mean
        self.alarm = alarm  # called with the first loss that is not finite
        self.clear()

    def clear(self) -> None:
        """Forget everything that was added."""
        self.totals: dict[str, float] = {}  # of value x weight
        self.sums_of: dict[str, float] = {}  # of the values themselves, for losses that add up
        self.weights: dict[str, float] = {}
        self.shares: dict[str, list[float]] = {}  # of the terms, for a name that is their sum
        self.done = 0
        self.waiting: list[tuple[Logs, Any]] = []

    def add(self, losses: Logs, count: Count) -> None:
        """Add the losses of one step, which are means over ``count`` samples."""
        read = {name: float(value) if type(value) is Tensor and value.is_cpu else value
                for name, value in losses.items()}
        self.waiting.append((read, count))
        if len(self.waiting) >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Add up the losses of the steps that are pending."""
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        for name in dict.fromkeys(name for losses, _ in waiting for name in losses):
            own = [(place, losses[name], count)
                   for place, (losses, count) in enumerate(waiting, self.done + 1)
                   if name in losses]
            places, values, counts = zip(*own, strict=True)
            self.add_column(name, values, [samples_of(count) for count in counts], places)
            # padding on one of several ranks counts 0 and has no terms
            terms = [(value, count) for value, count in zip(values, counts, strict=True)
                     if isinstance(count, Terms)]
            if terms and name == next(iter(waiting[0][0])):
                self.add_terms(name, *zip(*terms, strict=True))
        self.done += len(waiting)

    def add_column(self, name: str, values: Sequence[Any], counts: Sequence[Any],
                   places: Sequence[int] = ()) -> None:
        """Add up the values of one name; given ``places``, their step numbers, check for NaN."""
        weights = stack_on_cpu(list(counts))
        # a loss over no labels is 0/0 and has weight 0
        numbers = stack_on_cpu(list(values)).where(weights != 0, 0.0)
        if places:
            self.check(name, numbers, places)
        self.totals[name] = add_in_order(self.totals.get(name, 0.0), numbers * weights)
        self.sums_of[name] = add_in_order(self.sums_of.get(name, 0.0), numbers)
        self.weights[name] = add_in_order(self.weights.get(name, 0.0), weights)

    def add_terms(self, name: str, values: Sequence[Any], terms: Sequence[Terms]) -> None:
        """Add up the terms of a loss, each with its own weights, and the rest of the loss."""
        self.shares[name] = [*terms[0].shares, 1.0]
        rest, empty = stack_on_cpu(list(values)), torch.zeros(len(terms), dtype=torch.bool)
        for place, share in enumerate(terms[0].shares):
            losses = [one.losses[place] for one in terms]
            counts = [one.counts[place] for one in terms]
            self.add_column(f"{name}#{place}", losses, counts)
            scales = stack_on_cpu([1.0 if one.scales is None else one.scales[place]
                                   for one in terms])
            empty |= stack_on_cpu(counts) == 0
            used = stack_on_cpu(losses).where(stack_on_cpu(counts) != 0, 0.0)
            rest = rest - share * scales * used
        rest = rest.where(~(empty & rest.isnan()), 0.0)  # the 0/0 of a loss that counts nothing
        self.add_column(f"{name}#{len(terms[0].shares)}", rest.tolist(),
                        [one.samples for one in terms])

    def check(self, name: str, values: Tensor, places: Sequence[int]) -> None:
        """Call ``alarm`` at the first loss that is NaN or infinite, if there is an alarm."""
        if self.alarm is not None and not (finite := values.isfinite()).all():
            first = int((~finite).nonzero()[0])
            self.alarm(NonFiniteLoss(f"{name} is {float(values[first])}", step=places[first]))

    def result(self) -> dict[str, float]:
        """Return the means so far."""
        return self.combine([self.sums()])

    def sums(self) -> Sums:
        """Return the sums so far, the weights to divide them by, and the shares of terms."""
        self.flush()
        return self.sums_of if self.summed else self.totals, self.weights, self.shares

    def combine(self, parts: list[Sums]) -> dict[str, float]:
        """Return the means over the sums of several ranks."""
        names = dict.fromkeys(name for totals, _, _ in parts for name in totals)
        weights = {name: sum(weights.get(name, 0.0) for _, weights, _ in parts) for name in names}
        means = {name: mean_or_nan(sum(totals.get(name, 0.0) for totals, _, _ in parts),
                                   1.0 if self.summed else weights[name]) for name in names}
        several = {name: own for _, _, found in parts for name, own in found.items()}
        for name, shares in several.items():
            terms = [(f"{name}#{place}", share) for place, share in enumerate(shares)]
            means[name] = sum(share * means[term] for term, share in terms if weights[term])
        return {name: value for name, value in means.items() if "#" not in name}



def samples_of(count: Count) -> Count:
    """Return the samples of a count, which may have a count for each of several losses."""
    return count.samples if isinstance(count, Terms) else count


def mean_or_nan(total: float, weight: float) -> float:
    """Return a mean, NaN where nothing was counted."""
    return total / weight if weight else math.nan


def add_in_order(total: float, values: Tensor) -> float:
    """Add values one after the other, so that reading a sum on the way does not change it."""
    for value in values.tolist():
        total += value
    return total


def stack_on_cpu(values: list[Any]) -> Tensor:
    """Stack scalars as one float64 vector on the CPU; an accelerator is read once."""
    if NUMBERS.issuperset(map(type, values)):
        return torch.tensor(values, dtype=torch.float64)
    away = [place for place, value in enumerate(values)
            if isinstance(value, Tensor) and not value.is_cpu]
    numbers = [0.0 if place in away else float(value) for place, value in enumerate(values)]
    found = torch.tensor(numbers, dtype=torch.float64)
    if away:
        device = values[away[0]].device
        found[away] = torch.stack([values[place].detach().to(device).reshape(())
                                   for place in away]).cpu().double()
    return found


def number(name: str, value: Any) -> float:
    """Convert a scalar (float, numpy, 0-d tensor) to a float, or raise an error naming it."""
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) != 1 or isinstance(value, (str, dict, list, tuple)) or value is None:
        came = f"shape {shape}" if shape else f"{type(value).__name__}"
        raise bad_value(f"metrics_dict[{name!r}]", received=f"a result of {came}",
                        expected="one number", fix="Reduce it, for example with .mean().")
    return float(value.detach().cpu().double().item() if isinstance(value, Tensor) else value)
