"""Sample the losses of single batches, for a thin line under the curves."""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.core.types import Leaf
from torchkeras.display.protocols import RunView

EVERY = 0.01  # seconds between two samples at first
MOST = 400  # at twice as many, pairs are averaged


class Samples:
    """Collects losses of batches on their device, and reads them when they are drawn."""

    def __init__(self) -> None:
        self.every = EVERY
        self.points: list[tuple[float, float]] = []
        self.unread: list[tuple[float, Leaf]] = []
        self.steps: int | None = None  # of the last training pass, for data without a length

    def take(self, run: RunView) -> None:
        """Record the loss of the last batch and its place on the epoch axis; epoch 1 ends at 1."""
        loss = run.logs.get("train_loss")
        if run.stage != "train" or run.epoch == 0 or loss is None:
            return
        self.steps = run.steps or self.steps
        if self.steps:
            place = run.epoch - 1 + min(run.step / self.steps, 1.0)
            # a copy: CUDA graphs write the next batch's loss into the same memory
            self.unread.append((place, loss.detach().to(torch.float32, copy=True).reshape(())
                                if isinstance(loss, Tensor) else loss))

    def read(self) -> list[tuple[float, float]]:
        """Return all recorded losses; this waits for the device."""
        tensors = [loss for _, loss in self.unread if isinstance(loss, Tensor)]
        numbers = iter(torch.stack(tensors).tolist() if tensors else ())
        self.points += [(place, next(numbers) if isinstance(loss, Tensor) else float(loss))
                        for place, loss in self.unread]
        self.unread = []
        while len(self.points) > 2 * MOST:
            pairs = zip(self.points[::2], self.points[1::2], strict=False)
            self.points = [((one[0] + two[0]) / 2, (one[1] + two[1]) / 2) for one, two in pairs]
            self.every *= 2
        return list(self.points)
