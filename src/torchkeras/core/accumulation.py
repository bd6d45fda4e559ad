"""The place of a batch in its optimizer update, as accelerate keeps it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torchkeras.core.device import force_sync

if TYPE_CHECKING:
    from accelerate import Accelerator


class AccumulateCalls:
    """A :class:`torchkeras.core.types.Microbatch` for users' loops that call ``accumulate``."""

    count, padding = None, False

    def __init__(self, accelerator: Accelerator) -> None:
        self.accelerator = accelerator

    @property
    def divisor(self) -> Any:
        """Return the divisor of a loss before backward."""
        steps = self.accelerator.gradient_accumulation_steps
        return None if isinstance(steps, int) and steps == 1 else steps

    @property
    def has_labels(self) -> bool:
        """Tell whether any label of the batch counts in this process."""
        steps: Any = self.accelerator.gradient_accumulation_steps
        return not (isinstance(steps, float) and math.isinf(steps))

    @property
    def last(self) -> bool:
        """Tell whether the optimizer moves after this batch."""
        return bool(self.accelerator.sync_gradients)

    def begin_step(self, run: Any) -> None:
        """Let the last step of a pass update, however short its window is."""
        if run.stage == "train" and run.step + 1 == run.steps:
            force_sync(self.accelerator)

    def end_step(self, run: Any) -> None:
        """Set the count by which ``accumulate`` finds its windows."""
        self.accelerator.step = run.step
