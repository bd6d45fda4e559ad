"""Measure a model, and leave it as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from torchkeras.core.modes import DIFFERENTIATED, NOTE, UnchangedBuffers, eval_mode
from torchkeras.core.types import HasParts
from torchkeras.state.components import loss_modules, modules_of


@contextmanager
def measuring(model: HasParts, net: nn.Module, notes: list[str]) -> Iterator[None]:
    """Measure without gradients; restore modes and the buffers of the loss on exit.

    Args:
        model: what is measured.
        net: its net, or what several processes have in its place.
        notes: get a line once, if the net needs gradients to be measured at all.
    """
    buffers = UnchangedBuffers(*loss_modules(model.loss_fn))
    try:
        with eval_mode(net, *modules_of(model)), torch.no_grad():
            yield
    finally:
        buffers.restore()
    if model.net in DIFFERENTIATED and NOTE not in notes:
        notes.append(NOTE)
