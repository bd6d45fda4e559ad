"""Put back what a forward on trial changes in a net."""

from __future__ import annotations

import copy
import operator
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from torchkeras.core import internals

CONTAINERS = (list, dict, set, deque)


@contextmanager
def restored_state(net: nn.Module) -> Iterator[None]:
    """Put back every attribute of every module (modes too), and the values of the buffers.

    Lists, dicts, sets and deques that are attributes get back what they held.
    """
    kept = [(module, dict(vars(module)), [(held, dict(held)) for held in _members(module)])
            for module in net.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers()
               if not (is_lazy(buffer) or buffer.is_meta)]
    held_in = [(value, copy.copy(value)) for _, attributes, _ in kept
               for value in attributes.values() if type(value) in CONTAINERS]
    try:
        yield
    finally:
        for container, before in held_in:
            refill(container, before)
        for module, attributes, members in kept:
            for held, before in members:
                held.clear()
                held.update(before)
            vars(module).clear()
            vars(module).update(attributes)
        for buffer, values in buffers:
            # any write, even of equal values, would break a pending backward
            if not torch.equal(buffer, values):
                buffer.copy_(values)


def refill(container: Any, before: Any) -> None:
    """Give a container its earlier content, if that has changed."""
    if len(container) == len(before) and all(map(operator.is_, container, before)) and (
            type(container) is not dict
            or all(map(operator.is_, container.values(), before.values()))):
        return
    container.clear()
    add = container.extend if type(container) in (list, deque) else container.update
    add(before)


def _members(module: nn.Module) -> list[dict[str, Any]]:
    """Return the dicts of a module's parameters, buffers and children."""
    held = (internals.parameters(module), internals.buffers(module), internals.children(module))
    return [one for one in held if isinstance(one, dict)]
