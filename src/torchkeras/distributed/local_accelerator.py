"""The accelerator that a step gets in a job of several processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torchkeras.core.types import Value

if TYPE_CHECKING:
    from accelerate import Accelerator


class LocalAccelerator:
    """The accelerator that a user's own step gets: its ``gather`` returns the local value.

    Metrics are reduced over the processes when a pass is over. A step that gathers each batch would
    count everything once per process, and would wait for ever where the processes have different
    numbers of batches to measure.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self.__dict__["accelerator"] = accelerator

    def gather(self, value: Value) -> Value:
        """Return the value itself."""
        return value

    def gather_for_metrics(self, value: Value, *args: object, **kwargs: object) -> Value:
        """Return the value itself."""
        return value

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["accelerator"], name)

    def __setattr__(self, name: str, value: Value) -> None:
        setattr(self.__dict__["accelerator"], name, value)
