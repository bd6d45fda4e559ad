"""The few words that everything else is written in."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

Stage = Literal["train", "val", "predict"]
Logs = dict[str, Any]  # a name and its number: a float, or a scalar tensor still on the device


class StepOutput(NamedTuple):
    """What a step gives back. It unpacks as the pair ``(step_losses, step_metrics)``."""

    losses: Logs  # averaged over the samples of the epoch
    metrics: Logs  # shown while running; the epoch's own values come from ``metric.compute()``


@runtime_checkable
class Metric(Protocol):
    """What counts as a metric object: ours, torchmetrics', or anything with these three."""

    def update(self, preds: Tensor, labels: Tensor) -> None:
        """Count one batch."""

    def compute(self) -> Any:
        """The number for all that was counted."""

    def reset(self) -> None:
        """Forget all that was counted."""
