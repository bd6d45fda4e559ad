"""The loss of an epoch: a mean over samples, never a mean of batch means."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.core.stop import NonFiniteLoss
from torchkeras.core.types import Logs
from torchkeras.weighting.weighing import Terms

Sums = tuple[dict[str, float], dict[str, float], dict[str, list[float]]]
FLUSH_EVERY = 128  # steps between two reads of the device


class Means:
    """Sums of loss x samples, and of samples, in float64; each name with the samples of the batches that have it.

    Step losses wait in a list and are added up a hundred at a time: a step costs one ``append``, the device is
    waited for once in many steps, and the first loss that is not finite is still found with its step number.
    """

    def __init__(self, summed: bool = False, alarm: Callable[[NonFiniteLoss], None] | None = None) -> None:
        self.summed = summed  # a loss with reduction="sum" adds up; it has no mean
        self.alarm = alarm  # is told of the first loss that is not finite
        self.clear()

    def clear(self) -> None:
        """Begin a new epoch."""
        self.totals: dict[str, float] = {}  # of value x weight
        self.sums_of: dict[str, float] = {}  # of the values themselves, for losses that add up
        self.weights: dict[str, float] = {}
        self.shares: dict[str, list[float]] = {}  # of the terms that a name is the sum of, where it has several
        self.done = 0
        self.waiting: list[tuple[Logs, Any]] = []

    def add(self, losses: Logs, count: Any) -> None:
        """Take in one step's losses, means over ``count`` samples; with :class:`Terms`, the first is a sum of means."""
        self.waiting.append((losses, count))
        if len(self.waiting) >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Add up what waits."""
        if not self.waiting:
            return
        waiting, self.waiting = self.waiting, []
        for name in dict.fromkeys(name for losses, _ in waiting for name in losses):
            own = [(place, losses[name], count) for place, (losses, count) in enumerate(waiting, self.done + 1)
                   if name in losses]
            places, values, counts = zip(*own, strict=True)
            self.add_column(name, values, [samples_of(count) for count in counts], places)
            # a stand-in of one of several processes counts 0 and has no terms
            terms = [(value, count) for value, count in zip(values, counts, strict=True) if isinstance(count, Terms)]
            if terms and name == next(iter(waiting[0][0])):
                self.add_terms(name, *zip(*terms, strict=True))
        self.done += len(waiting)

    def add_column(self, name: str, values: Sequence[Any], counts: Sequence[Any], places: Sequence[int] = ()) -> None:
        """Add up the values of one name; with ``places``, the numbers of their steps, look whether they are finite."""
        weights = column(list(counts))
        # measured over no label at all: 0/0, and weighs nothing
        numbers = column(list(values)).where(weights != 0, 0.0)
        if places:
            self.check(name, numbers, places)
        self.totals[name] = added(self.totals.get(name, 0.0), numbers * weights)
        self.sums_of[name] = added(self.sums_of.get(name, 0.0), numbers)
        self.weights[name] = added(self.weights.get(name, 0.0), weights)

    def add_terms(self, name: str, values: Sequence[Any], terms: Sequence[Terms]) -> None:
        """Add up the terms that a loss is the sum of, each over what it is a mean over, and what is in none of them."""
        self.shares[name] = [*terms[0].shares, 1.0]
        rest, empty = column(list(values)), torch.zeros(len(terms), dtype=torch.bool)
        for place, share in enumerate(terms[0].shares):
            losses, counts = [one.losses[place] for one in terms], [one.counts[place] for one in terms]
            self.add_column(f"{name}#{place}", losses, counts)
            scales = column([1.0 if one.scales is None else one.scales[place] for one in terms])
            empty |= column(counts) == 0
            rest = rest - share * scales * column(losses).where(column(counts) != 0, 0.0)
        rest = rest.where(~(empty & rest.isnan()), 0.0)  # the 0/0 of a loss of which nothing counts
        self.add_column(f"{name}#{len(terms[0].shares)}", rest.tolist(), [one.samples for one in terms])

    def check(self, name: str, values: Tensor, places: Sequence[int]) -> None:
        """In a guarded pass, sound the alarm at the first loss that is NaN or infinite."""
        if self.alarm is not None and not (finite := values.isfinite()).all():
            first = int((~finite).nonzero()[0])
            self.alarm(NonFiniteLoss(f"{name} is {float(values[first])}", step=places[first]))

    def result(self) -> dict[str, float]:
        """The means so far."""
        return self.of([self.sums()])

    def sums(self) -> Sums:
        """The sums so far, the weights that they are to be divided by, and the shares of terms."""
        self.flush()
        return self.sums_of if self.summed else self.totals, self.weights, self.shares

    def of(self, parts: list[Sums]) -> dict[str, float]:
        """The means over the sums of several processes."""
        names = dict.fromkeys(name for totals, _, _ in parts for name in totals)
        weights = {name: sum(weights.get(name, 0.0) for _, weights, _ in parts) for name in names}
        means = {name: divided(sum(totals.get(name, 0.0) for totals, _, _ in parts),
                               1.0 if self.summed else weights[name]) for name in names}
        for name, shares in {name: own for _, _, found in parts for name, own in found.items()}.items():
            terms = [(f"{name}#{place}", share) for place, share in enumerate(shares)]
            means[name] = sum(share * means[term] for term, share in terms if weights[term])
        return {name: value for name, value in means.items() if "#" not in name}


def samples_of(count: Any) -> Any:
    """Return how much a batch counts, where several losses count each for itself: its samples."""
    return count.samples if isinstance(count, Terms) else count


def divided(total: float, weight: float) -> float:
    """Return a mean, NaN where nothing was counted."""
    return total / weight if weight else math.nan


def added(total: float, values: Tensor) -> float:
    """A sum taken one after the other, so that it is the same however often it was asked for on the way."""
    for value in values.tolist():
        total += value
    return total


def column(values: list[Any]) -> Tensor:
    """Scalars as one float64 vector on the CPU; an accelerator is read once, not once a value."""
    away = [place for place, value in enumerate(values) if isinstance(value, Tensor) and not value.is_cpu]
    found = torch.tensor([0.0 if place in away else float(value) for place, value in enumerate(values)],
                         dtype=torch.float64)
    if away:
        device = values[away[0]].device
        found[away] = torch.stack([values[place].detach().to(device).reshape(()) for place in away]).cpu().double()
    return found


def number(name: str, value: Any) -> float:
    """A scalar of any kind (float, numpy, 0-d tensor) as a float; anything else is refused by name."""
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) != 1 or isinstance(value, (str, dict, list, tuple)) or value is None:
        came = f"shape {shape}" if shape else f"{type(value).__name__}"
        raise bad_value(f"metrics_dict[{name!r}]", received=f"a result of {came}", expected="one number",
                        fix="Reduce it, for example with .mean().")
    return float(value.detach().cpu().double().item() if isinstance(value, Tensor) else value)
