"""Where the time of a run goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torchkeras.engine.callback import Callback

PARTS = ("start", "training", "validation and keeping the best", "between epochs")


class Stopwatch(Callback):
    """Measures the parts of a run in seconds and leaves them in ``model.run.seconds``; steps cost nothing.

    Args:
        clock: gives seconds; for tests.

    Example:
        >>> model.fit(train)  # doctest: +SKIP
        >>> model.run.seconds["training"]  # doctest: +SKIP
        12.5
    """

    main_only = looks_only = True

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock

    def on_fit_start(self, model: Any) -> None:
        """The time before is what the start took."""
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.last = self.clock()
        model.run.seconds = self.seconds
        self.seconds["start"] = max(self.last - model.run.started, 0.0)

    def lap(self, part: str) -> None:
        """The time since the last lap went to this part."""
        now = self.clock()
        self.seconds[part] += now - self.last
        self.last = now

    def on_epoch_start(self, model: Any) -> None:
        """What came before lies between two epochs."""
        self.lap("between epochs")

    def on_train_epoch_end(self, model: Any) -> None:
        """A training pass ends."""
        self.lap("training")

    def on_validation_epoch_end(self, model: Any) -> None:
        """A validation ends, or would have."""
        self.lap("validation and keeping the best")

    def on_fit_end(self, model: Any) -> None:
        """An epoch that was broken off was in training, or in the validation that follows it."""
        self.lap("training" if model.run.stage == "train" and model.run.step != model.run.steps else "between epochs")
