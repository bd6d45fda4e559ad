"""Training and evaluation mode, module by module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def modes_kept(net: nn.Module) -> Iterator[None]:
    """Give every module the mode back in which it was found: what the user froze with ``.eval()`` stays frozen."""
    found = [(module, module.training) for module in net.modules()]
    try:
        yield
    finally:
        for module, training in found:
            module.training = training


@contextmanager
def training(net: nn.Module) -> Iterator[None]:
    """Training mode; a net found in training mode keeps its frozen modules frozen."""
    with modes_kept(net):
        if not net.training:
            net.train()
        yield


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode everywhere."""
    with modes_kept(net):
        net.eval()
        yield
