"""Print a run as Keras does, or as this library's first versions did."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from torchkeras.core import text
from torchkeras.core.screen import Plain
from torchkeras.display.boxed import boxed, dated_rule, rounded


class EpochLines:
    """Prints one line an epoch, as Keras does with ``verbose=2``.

    Args:
        write: takes each line in place of standard output.
        clock: gives seconds; for tests.
    """

    def __init__(self, write: Callable[[str], object] | None = None,
                 clock: Callable[[], float] = time.perf_counter) -> None:
        self.screen, self.clock = Plain(write), clock
        self.model: Any = None
        self.params: Mapping[str, Any] = {}

    def set_params(self, params: Mapping[str, Any]) -> None:
        """Store what was asked of the run."""
        self.params = params

    def on_epoch_begin(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Start the epoch's clock."""
        self.began = self.clock()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Print the epoch's line."""
        self.screen.line(f"Epoch {epoch + 1}/{self.params['epochs']} - "
                         f"{self.clock() - self.began:.1f}s - "
                         + numbers(logs))

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Print why the run ended early, if it did."""
        if self.model.history.stop_reason is not None:
            self.screen.line(text.stop_line(self.model.history.stop_reason))


class StepLines:
    """Prints a line every ``log_step_freq`` steps, and each epoch's numbers in a box.

    Args:
        log_step_freq: steps from one line to the next.
        write: takes each line in place of standard output.
    """

    def __init__(self, log_step_freq: int = 1,
                 write: Callable[[str], object] | None = None) -> None:
        self.screen, self.log_step_freq = Plain(write), log_step_freq
        self.model: Any = None

    def on_train_begin(self, logs: Mapping[str, float] | None = None) -> None:
        """Print that the run begins."""
        self.screen.line("Start Training ...\n\n" + dated_rule())

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float]) -> None:
        """Print the numbers of the epoch so far, when due."""
        if (batch + 1) % self.log_step_freq == 0:
            recent: Any = getattr(logs, "recent", None)  # at a cost that does not grow
            values = logs if recent is None else recent()
            shown = {name: rounded(value) for name, value in values.items()}
            self.screen.line(str({"step": batch + 1, **shown}))

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Print the epoch's box and a rule below it."""
        self.screen.line("\n" + boxed({"epoch": epoch + 1, **logs}) + "\n\n" + dated_rule())

    def on_train_end(self, logs: Mapping[str, float] | None = None) -> None:
        """Print why and that the run is over."""
        if self.model.history.stop_reason is not None:
            self.screen.line(text.stop_line(self.model.history.stop_reason))
        self.screen.line("Finished Training...")


def numbers(logs: Mapping[str, float]) -> str:
    """Format numbers and their names on one line."""
    return " - ".join(f"{name}: {text.number(value)}" for name, value in logs.items())
