"""Shapes without numbers: functions and modules on fake tensors, which leave weights, buffers and attributes alone."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.functional.symbol import BATCH, BatchSize, Symbol, map_values

plain_call = nn.Module.__call__


@functools.cache
def fake_mode() -> Any:
    """Where tensors have shapes and no values; made once, as torch needs a second for it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode(allow_non_fake_inputs=True)


def compute(func: Any, args: Any, kwargs: Any) -> Any:
    """Shapes and dtypes of a function's result."""
    with quiet(), fake_mode(), torch.no_grad():
        return func(*values(args), **values(kwargs))


def run_module(module: nn.Module, args: Any, kwargs: Any) -> Any:
    """A module's result on fake tensors; the module is left as it was."""
    home = next((one.device for one in (*module.parameters(), *module.buffers())), None)
    with quiet(), fake_mode() as mode, torch.no_grad(), untouched(module):
        for one in module.modules():
            for held in (one._parameters, one._buffers):
                held.update({name: mode.from_tensor(tensor) for name, tensor in held.items() if tensor is not None})
        args, kwargs = (map_values(lambda one: one.to(home) if home and isinstance(one, Tensor) else one, tree)
                        for tree in (args, kwargs))
        return plain_call(module, *args, **kwargs)


@contextmanager
def quiet() -> Iterator[None]:
    """Fake tensors log an error beside the one that they raise."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Put back what a module keeps in its attributes, which would be a fake tensor."""
    kept = [(held, dict(held)) for one in module.modules()
            for held in (vars(one), one._parameters, one._buffers, one._modules)]
    try:
        yield
    finally:
        for held, before in kept:
            held.clear()
            held.update(before)


def settle(module: nn.Module, args: Any, kwargs: Any) -> None:
    """Let lazy layers take their sizes from zeros; two samples, so that sizes from the batch show themselves later."""
    home = next((one.device for one in (*module.parameters(), *module.buffers())), torch.device("cpu"))

    def zeros(value: Any) -> Any:
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
            plain_call(module, *map_values(zeros, args), **map_values(zeros, kwargs))
    finally:
        for one, training in modes:
            one.training = training


def values(tree: Any) -> Any:
    """The fake tensors and plain ints that stand for symbolic values."""
    return map_values(lambda one: one.value if isinstance(one, Symbol) else int(one) if isinstance(one, BatchSize)
                      else one, tree)
