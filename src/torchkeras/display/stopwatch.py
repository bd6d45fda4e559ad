"""Measure the parts of a run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from torchkeras.engine.callback import Callback

if TYPE_CHECKING:
    from torchkeras.engine.trainable import Trainable

PARTS = ("start", "training", "validation and keeping the best", "between epochs")


class Stopwatch(Callback):
    """Measures the parts of a run in seconds, into ``model.run.timings``; it costs nothing a step.

    Args:
        clock: gives seconds; for tests.

    Example:
        >>> model.fit(train)  # doctest: +SKIP
        >>> model.run.timings["training"]  # doctest: +SKIP
        12.5
    """

    main_only = allows_multi_step = True

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock

    def on_fit_start(self, model: Trainable) -> None:
        """Record how long the start took."""
        self.seconds = model.run.timings
        self.seconds.update(dict.fromkeys(PARTS, 0.0))
        self.last = self.clock()
        self.seconds["start"] = max(self.last - model.run.started, 0.0)

    def lap(self, part: str) -> None:
        """Add the time since the last lap to a part."""
        now = self.clock()
        self.seconds[part] += now - self.last
        self.last = now

    def on_epoch_start(self, model: Trainable) -> None:
        """Add the time between two epochs."""
        self.lap("between epochs")

    def on_train_epoch_end(self, model: Trainable) -> None:
        """Add the time of the training pass."""
        self.lap("training")

    def on_validation_epoch_end(self, model: Trainable) -> None:
        """Add the time of validation and of keeping the best weights."""
        self.lap("validation and keeping the best")

    def on_fit_end(self, model: Trainable) -> None:
        """Add the rest: to training, if the run ended in the middle of a training pass."""
        run = model.run
        in_training = run.stage == "train" and run.step != run.steps
        self.lap("training" if in_training else "between epochs")
