"""FSDP: weights, gradients and optimizer state divided between the processes (torch.distributed.fsdp.fully_shard)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn


class Shards:
    """A divided copy of a net to train; the net itself stays whole, in main memory, and is brought up to date."""

    def __init__(self, net: nn.Module, optimizer: Any, device: torch.device) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        self.net, self.optimizer = net, optimizer
        self.mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        self.divided = divide(copy.deepcopy(net), self.mesh)
        for own, shard in zip(net.buffers(), self.divided.buffers(), strict=True):
            shard.data = own.detach().to(device, copy=True)

    def gather(self) -> None:
        """Bring the whole net up to date, in every process."""
        whole = dict(self.net.named_parameters()) | dict(self.net.named_buffers())
        shards = dict(self.divided.named_parameters()) | dict(self.divided.named_buffers())
        with torch.no_grad():
            for name, value in whole.items():
                value.copy_(full(shards[name]))

    @contextmanager
    def learning(self) -> Iterator[None]:
        """The optimizer works on the shards; afterwards on the net again, with all that it remembers."""
        shards = dict(self.divided.named_parameters())
        pairs = [(own, shards[name]) for name, own in self.net.named_parameters()]
        swap(self.optimizer, pairs, like)
        try:
            yield
        finally:
            swap(self.optimizer, [(shard, own) for own, shard in pairs], lambda value, own: full(value).to(own.device))


def divide(net: nn.Module, mesh: Any) -> nn.Module:
    """Divide every block of a net (what stands in a Sequential or a ModuleList) by itself, then the rest."""
    from torch.distributed.fsdp import fully_shard

    blocks = [child for one in net.modules() if isinstance(one, (nn.Sequential, nn.ModuleList))
              for child in one.children() if any(True for _ in child.parameters())]
    owners: dict[int, int] = {}
    for one in net.modules():
        for weight in one.parameters(recurse=False):
            owners[id(weight)] = owners.get(id(weight), 0) + 1
    untied = [block for block in blocks if all(owners[id(weight)] == 1 for weight in block.parameters())]
    for block in reversed(untied):  # what lies inside comes first; tied weights stay in one piece
        fully_shard(block, mesh=mesh)
    fully_shard(net, mesh=mesh)
    return net


def swap(optimizer: Any, pairs: list[tuple[Any, Any]], convert: Callable[[Tensor, Any], Tensor]) -> None:
    """Let an optimizer go on with other parameters in the place of its own, its memory of each converted."""
    other = {id(old): new for old, new in pairs}
    for group in optimizer.param_groups:
        group["params"] = [other.get(id(weight), weight) for weight in group["params"]]
    states = list(optimizer.state.items())
    optimizer.state.clear()
    for old, state in states:
        new = other.get(id(old), old)
        optimizer.state[new] = {name: convert(value, new) if name != "step" and isinstance(value, Tensor) else value
                                for name, value in state.items()}


def like(value: Tensor, shard: Any) -> Tensor:
    """A tensor divided as a shard is."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(shard.device), shard.device_mesh, shard.placements)


def full(value: Any) -> Tensor:
    """The whole tensor, of which each process holds a part."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value
