"""Ways in which a run ends before its last epoch."""

from __future__ import annotations

from typing import NamedTuple


class PassEnded(Exception):
    """A stop was requested during a pass; the loop catches this and ends the run in good order."""


class NonFiniteLoss(PassEnded):
    """A loss became NaN or infinite."""

    def __init__(self, text: str, step: int | None = None, why: str = "") -> None:
        super().__init__(text)
        self.step = step  # None: the step that was running
        self.why = why  # the tensor or parameter that is not finite, where that is known


class ProcessFailed(RuntimeError):
    """Another process of the job failed, so this one had to end too."""


class CheckpointCorruptError(ValueError):
    """A saved state is not what was written: damaged, cut short, or never one of ours."""

    user_mistake = True  # shown with a short traceback


class Request(NamedTuple):
    """A request to end the run, made by one process."""

    reason: str
    diverged: bool = False
    step: int | None = None  # where a loss was not finite
    exit_code: int = 0  # how the program ends after the run, on SIGTERM
    why: str = ""  # what made a loss not finite

    def as_error(self) -> PassEnded:
        """Return the exception that ends a pass because of this request."""
        if self.diverged:
            return NonFiniteLoss(self.reason, self.step, self.why)
        return PassEnded(self.reason)
