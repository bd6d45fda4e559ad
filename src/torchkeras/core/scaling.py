"""Several optimizers that share one gradient scaler, as fp16 needs it."""

from __future__ import annotations

from typing import Any

from torchkeras.core.optimizers import Optimizers


class ScaledOptimizers(Optimizers):
    """Optimizers in accelerate's wrappers, whose scale changes once all of them have stepped.

    Each wrapper would update the scale after its own step. The scaler then forgets that it has
    divided the gradients of the others already, and divides them again, or by another scale.
    """

    def step(self) -> None:
        """Update all parameters, then the scale."""
        every: list[Any] = list(self.each.values())
        scalers = [one.scaler for one in every]
        try:
            for one, scaler in zip(every, scalers, strict=True):
                one.scaler = None if scaler is None else StepsOnly(scaler)
                one.step()
        finally:
            for one, scaler in zip(every, scalers, strict=True):
                one.scaler = scaler
        if scalers and scalers[0] is not None and every[0].gradient_state.sync_gradients:
            scalers[0].update()


class StepsOnly:
    """A gradient scaler that does not update its scale."""

    def __init__(self, scaler: Any) -> None:
        self.scaler = scaler

    def step(self, *arguments: Any) -> Any:
        """Step an optimizer, unless a gradient is not finite."""
        return self.scaler.step(*arguments)

    def update(self) -> None:
        """Leave the scale as it is."""
