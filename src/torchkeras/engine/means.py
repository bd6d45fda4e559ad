"""The loss of an epoch: a mean over samples, never a mean of batch means."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from torchkeras.engine.checks import bad_value
from torchkeras.engine.ending import NonFiniteLoss
from torchkeras.engine.words import Logs

FLUSH_EVERY = 128  # steps between two reads of the device


class Means:
    """Sums of loss x samples, and of samples, in float64.

    Step losses wait in a list and are added up a hundred at a time: a step costs one ``append``, the device is
    waited for once in many steps, and the first loss that is not finite is still found with its step number.
    """

    def __init__(self, summed: bool = False, alarm: Callable[[NonFiniteLoss], None] | None = None) -> None:
        self.summed = summed  # a loss with reduction="sum" adds up; it has no mean
        self.alarm = alarm  # is told of the first loss that is not finite
        self.clear()

    def clear(self) -> None:
        """Begin a new epoch."""
        self.totals: dict[str, float] = {}
        self.weight = 0.0
        self.done = 0
        self.waiting: list[tuple[Logs, Any]] = []

    def add(self, losses: Logs, count: float | Tensor) -> None:
        """Take in one step's losses, means over ``count`` samples."""
        self.waiting.append((losses, count))
        if len(self.waiting) >= FLUSH_EVERY:
            self.flush()

    def flush(self) -> None:
        """Add up what waits."""
        if not self.waiting:
            return
        counts = column([count for _, count in self.waiting])
        for name in self.waiting[0][0]:
            values = column([losses[name] for losses, _ in self.waiting])
            values = values.where(counts != 0, 0.0)  # measured over no label at all: 0/0, and weighs nothing
            self.check(name, values)
            self.totals[name] = added(self.totals.get(name, 0.0), values if self.summed else values * counts)
        self.weight = added(self.weight, counts)
        self.done += len(self.waiting)
        self.waiting.clear()

    def check(self, name: str, values: Tensor) -> None:
        """In a guarded pass, sound the alarm at the first loss that is NaN or infinite."""
        if self.alarm is not None and not (finite := values.isfinite()).all():
            first = int((~finite).nonzero()[0])
            self.alarm(NonFiniteLoss(f"{name} is {float(values[first])}", step=self.done + first + 1))

    def result(self) -> dict[str, float]:
        """The means so far."""
        return self.of([self.sums()])

    def sums(self) -> tuple[dict[str, float], float]:
        """The sums so far, and the weight that they are to be divided by."""
        self.flush()
        return self.totals, self.weight

    def of(self, parts: list[tuple[dict[str, float], float]]) -> dict[str, float]:
        """The means over the sums of several processes."""
        share = 1.0 if self.summed else sum(weight for _, weight in parts)
        names = dict.fromkeys(name for totals, _ in parts for name in totals)
        return {name: sum(totals.get(name, 0.0) for totals, _ in parts) / share if share else math.nan
                for name in names}


def added(total: float, values: Tensor) -> float:
    """A sum taken one after the other, so that it is the same however often it was asked for on the way."""
    for value in values.tolist():
        total += value
    return total


def column(values: list[Any]) -> Tensor:
    """Scalars as one float64 vector on the CPU; an accelerator is read once, not once a value."""
    away = next((value.device for value in values if isinstance(value, Tensor) and not value.is_cpu), None)
    if away is None:
        return torch.tensor([float(value) for value in values], dtype=torch.float64)
    return torch.stack([torch.as_tensor(value, device=away).detach().reshape(()) for value in values]).cpu().double()


def number(name: str, value: Any) -> float:
    """A scalar of any kind (float, numpy, 0-d tensor) as a float; anything else is refused by name."""
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) != 1 or isinstance(value, (str, dict, list, tuple)) or value is None:
        came = f"shape {shape}" if shape else f"{type(value).__name__}"
        raise bad_value(f"metrics_dict[{name!r}]", received=f"a result of {came}", expected="one number",
                        fix="Reduce it, for example with .mean().")
    return float(value.detach().double().item() if isinstance(value, Tensor) else value)
