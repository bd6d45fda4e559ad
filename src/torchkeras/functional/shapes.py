"""Shapes without values: run functions and modules on fake tensors; weights stay unchanged."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.core import internals
from torchkeras.core.types import Leaf, Tree
from torchkeras.functional.symbol import BATCH, BatchSize, Symbol, map_values

original_call = nn.Module.__call__


@functools.cache
def fake_mode() -> Any:
    """Return the mode of fake tensors; made once, as torch needs a second for it."""
    return internals.fake_tensor_mode()


def fake_result(func: Callable[..., Any], args: Tree, kwargs: Tree) -> Tree:
    """Return a function's result as fake tensors."""
    with silenced_logger(), fake_mode(), torch.no_grad():
        return func(*fake_values(args), **fake_values(kwargs))


def run_module(module: nn.Module, args: Tree, kwargs: Tree) -> Tree:
    """Return a module's result on fake tensors; leave the module as it was."""
    home = next((one.device for one in (*module.parameters(), *module.buffers())), None)
    with silenced_logger(), fake_mode() as mode, torch.no_grad(), restored_attributes(module):
        for one in module.modules():
            for held in (internals.parameters(one), internals.buffers(one)):
                held.update({
                    name: mode.from_tensor(tensor) for name, tensor in held.items()
                    if tensor is not None})
        args, kwargs = (map_values(lambda one: on_device(one, home), tree)
                        for tree in (args, kwargs))
        return original_call(module, *args, **kwargs)


@contextmanager
def silenced_logger() -> Iterator[None]:
    """Silence the logger of fake tensors, which logs each error that it raises."""
    logger = logging.getLogger(internals.FAKE_TENSOR_LOGGER)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def restored_attributes(module: nn.Module) -> Iterator[None]:
    """Restore a module's attributes at exit, which could hold fake tensors."""
    kept = [(held, dict(held)) for one in module.modules()
            for held in (vars(one), internals.parameters(one), internals.buffers(one),
                         internals.children(one))]
    try:
        yield
    finally:
        for held, before in kept:
            held.clear()
            held.update(before)


def initialize_lazy(module: nn.Module, args: Tree, kwargs: Tree) -> None:
    """Initialize lazy layers with zeros: two samples, so that sizes from the batch show later."""
    home = next((one.device for one in (*module.parameters(), *module.buffers())),
                torch.device("cpu"))

    def zeros(value: Leaf) -> Leaf:
        if not isinstance(value, (Tensor, BatchSize)):
            return value
        if isinstance(value, BatchSize):
            return int(value) // BATCH * 2
        if not isinstance(value, Symbol):
            return value
        shape = [size if size % BATCH else size // BATCH * 2 for size in value.value.shape]
        return torch.zeros(shape, dtype=value.value.dtype, device=home)

    modes = [(one, one.training) for one in module.modules()]
    try:
        module.eval()
        with torch.no_grad():
            original_call(module, *map_values(zeros, args), **map_values(zeros, kwargs))
    finally:
        for one, training in modes:
            one.training = training


def fake_values(tree: Tree) -> Tree:
    """Return the fake tensors and ints that stand for symbolic values."""
    return map_values(fake_value, tree)


def fake_value(leaf: Leaf) -> Leaf:
    """Return the fake tensor or int that stands for a symbolic value; other values unchanged."""
    if isinstance(leaf, Symbol):
        return leaf.value
    return int(leaf) if isinstance(leaf, BatchSize) else leaf


def on_device(leaf: Leaf, device: torch.device | None) -> Leaf:
    """Return a tensor on a device, if one is given; other values unchanged."""
    return leaf.to(device) if device and isinstance(leaf, Tensor) else leaf
