"""Broadcast weights and buffers from process 0 to all processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchkeras.core.communicator import Communicator


def same_weights(communicator: Communicator, *modules: object) -> None:
    """Broadcast the weights and buffers of process 0; arguments that are no modules are skipped."""
    for module in modules if communicator.world_size > 1 else ():
        for value in module.state_dict().values() if isinstance(module, nn.Module) else ():
            if isinstance(value, Tensor):
                torch.distributed.broadcast(value.detach(), src=0)


def same_buffers(communicator: Communicator, *modules: nn.Module) -> None:
    """Broadcast the buffers of process 0, such as BatchNorm's running means or a loss's centre."""
    for module in modules if communicator.world_size > 1 else ():
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer.detach(), src=0)
