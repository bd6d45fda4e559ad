"""Broadcast weights and buffers from process 0 to all processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from torchkeras.core.communicator import Communicator

DEVICES = {"nccl": "cuda", "xccl": "xpu"}  # where a backend reads, if it does not read everywhere


def same_weights(communicator: Communicator, *modules: object) -> None:
    """Broadcast the weights and buffers of process 0; arguments that are no modules are skipped."""
    for module in modules if communicator.world_size > 1 else ():
        for value in module.state_dict().values() if isinstance(module, nn.Module) else ():
            if isinstance(value, Tensor):
                broadcast_tensor(value.detach())


def same_buffers(communicator: Communicator, *modules: nn.Module) -> None:
    """Broadcast the buffers of process 0, such as BatchNorm's running means or a loss's centre."""
    for module in modules if communicator.world_size > 1 else ():
        for buffer in module.buffers():
            broadcast_tensor(buffer.detach())


def broadcast_tensor(value: Tensor) -> None:
    """Write the numbers of process 0 into a tensor, wherever it is.

    NCCL knows nothing of main memory, where a net is that FSDP divides: such a tensor goes by way
    of a copy on the device.
    """
    kind = DEVICES.get(torch.distributed.get_backend(), value.device.type)
    if value.device.type == kind:
        torch.distributed.broadcast(value, src=0)
        return
    there = copy_on_device(value, kind)
    torch.distributed.broadcast(there, src=0)
    value.copy_(there)


def copy_on_device(value: Tensor, kind: str) -> Tensor:
    """Return a copy on this process's device of a kind."""
    return value.to(torch.device(kind, torch.accelerator.current_device_index()))
