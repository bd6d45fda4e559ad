"""Read calls of this library's first versions: loaders by position, and ``compile(device=...)``."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.types import Data


class OlderFit(NamedTuple):
    """The arguments of ``fit(epochs, dl_train, dl_val, log_step_freq)``, where ``fit`` got them."""

    x: Any
    y: Data
    batch_size: Any
    epochs: Any
    dl_train: Data
    dl_val: Data
    log_step_freq: int | None

    def by_name(self) -> OlderFit:
        """Return the same with loaders that were given by position under their names.

        ``fit(100, train, val, 10)`` puts them where Keras's ``y``, ``batch_size`` and ``epochs``
        are. Whole numbers of numpy become ints.
        """
        if isinstance(self.x, np.integer):
            return self._replace(x=int(self.x)).by_name()
        if not isinstance(self.x, int) or isinstance(self.x, bool) or self.y is None:
            return self
        found = self.moved("y", "dl_train")
        if not isinstance(self.batch_size, int | None):
            found = found.moved("batch_size", "dl_val")
        return found if self.epochs is None else found.moved("epochs", "log_step_freq")

    def moved(self, place: str, name: str) -> OlderFit:
        """Return the same with a value under another name."""
        if getattr(self, name) is not None:
            raise bad_type("fit", received=f"{name} twice, by position and by name",
                           expected="fit(epochs, dl_train, dl_val, log_step_freq)")
        return self._replace(**{name: getattr(self, place), place: None})


def placed(net: nn.Module, device: object) -> bool:
    """Move a net to a device, as ``compile(device=...)`` asks; tell whether it is the CPU.

    Raises:
        TypeError: it is no device.
        ValueError: this machine has no such device, or ``fit`` would take another.
    """
    if device is None:
        return False
    expected = 'a torch.device or its name, such as "cpu" or "cuda"'
    if not isinstance(device, (str, torch.device)):
        raise bad_type("device", received=f"{device!r} ({type(device).__name__})",
                       expected=expected)
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise bad_value("device", received=repr(device), expected=expected) from error
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if found.type != "cpu" and (best is None or found.type != best.type or found.index):
        raise bad_value(
            "device", received=repr(str(found)),
            expected='"cpu"' if best is None else f'"cpu" or {best.type!r}, which fit takes by '
            "itself", fix="The environment variable CUDA_VISIBLE_DEVICES chooses among several."
            if found.type == "cuda" and best is not None else "")
    net.to(found)
    return found.type == "cpu"
