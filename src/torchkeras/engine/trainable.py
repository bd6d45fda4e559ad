"""Declare what the loop needs of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from torch import nn

from torchkeras.core.types import HasParts

if TYPE_CHECKING:
    from torchkeras.engine.history import History
    from torchkeras.engine.run import Run


class Trainable(HasParts, Protocol):
    """A net with what trains it; ``KerasModel`` is the implementation for users."""

    StepRunner: type
    EpochRunner: type
    run: Run  # of the last call of fit; None before the first
    from_scratch: bool  # False: the next fit begins with an epoch 0 that only measures
    batch_items: int | None  # in each batch of the last pass; 0: not a tuple or list

    @property
    def history(self) -> History:
        """Return the history of the last run."""

    @property
    def active(self) -> bool:
        """Tell whether a run is in progress."""

    def learners(self) -> list[nn.Module]:
        """Return the modules whose weights and buffers belong to a run."""

    def save_ckpt(self, ckpt_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Save the weights."""

    def load_ckpt(self, ckpt_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load the weights."""
