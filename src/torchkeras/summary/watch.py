"""One forward pass that leaves no trace, and the calls it made."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from torchkeras.core.errors import bad_type, instance_not_class
from torchkeras.summary.inputs import CALLS, Inputs, count_bytes, tensors


class Call(NamedTuple):
    """A finished call of a layer: the shapes of the tensors that came out, and their bytes."""

    module: nn.Module
    shapes: list[tuple[int, ...]]
    bytes: int


class Watch:
    """Keeps the calls inside which no other module was called, and those of the types to show whole."""

    def __init__(self, whole: tuple[type, ...] = ()) -> None:
        self.whole = whole
        self.calls: list[Call] = []
        self.called: set[int] = set()
        self._open: list[tuple[nn.Module, int]] = []
        self._entered = 0

    def enter(self, module: nn.Module, args: Any) -> None:
        """Before a forward."""
        self._entered += 1
        self.called.add(id(module))
        self._open.append((module, self._entered))

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """After a forward."""
        ticket = 0
        while self._open:  # a call that raised inside the net, and was caught there, was never closed
            inner, ticket = self._open.pop()
            if inner is module:
                break
        innermost = ticket == self._entered or isinstance(module, self.whole)
        if innermost and not any(isinstance(outer, self.whole) for outer, _ in self._open):
            found = list(tensors(output))
            self.calls.append(Call(module, [tuple(tensor.shape) for tensor in found], count_bytes(found)))


def runnable(net: nn.Module) -> nn.Module:
    """The net inside its wrapper; a copy of it when the first forward pass would create parameters."""
    instance_not_class("net", net)
    if not isinstance(net, nn.Module):
        raise bad_type("net", received=f"{str(net)[:80]} ({type(net).__name__})", expected="an nn.Module", fix=CALLS)
    if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        net = net.module
    net = getattr(net, "_orig_mod", net)  # a compiled net calls no hooks inside
    faces = sys.modules.get("torchkeras.keras.base")
    if faces is not None and isinstance(net, faces.Held):
        net = faces.net_of(net)
    if not any(is_lazy(tensor) for tensor in (*net.parameters(), *net.buffers())):
        return net
    # deepcopy knows uninitialised parameters, but not uninitialised buffers
    known = {id(one): UninitializedBuffer(device=one.device, dtype=one.dtype)  # type: ignore[call-arg]
             for one in net.buffers() if is_lazy(one)}
    return copy.deepcopy(net, dict(known))


def run(net: nn.Module, inputs: Inputs, watch: Watch | None = None) -> None:
    """A forward pass in eval mode, seen by the watch."""
    hidden = {id(inner) for module in net.modules() if isinstance(module, ParametrizationList)
              for inner in module.modules()}  # called to compute a weight, not as layers
    handles = []
    with undisturbed(net):
        try:
            for module in net.modules() if watch else ():
                if watch and id(module) not in hidden:
                    handles.append(module.register_forward_pre_hook(watch.enter))
                    handles.append(module.register_forward_hook(watch.leave))
            net(*inputs.args, **inputs.kwargs)
        except Exception as error:
            shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors((inputs.args, inputs.kwargs)))
            error.add_note(f"The net was called with {shapes} to summarise it. {CALLS}")
            raise
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def undisturbed(net: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; then the net and all random states are put back as they were."""
    python, numpy_state = random.getstate(), np.random.get_state()
    cuda = list(range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0))
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.random.fork_rng(devices=cuda), torch.no_grad(), restored(net):
        try:
            torch.backends.mha.set_fastpath_enabled(False)  # the fused kernels call no layer and count no operation
            net.eval()
            for module in net.modules():
                if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                    module.max_norm = None  # a look-up would rescale the weight
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            random.setstate(python)
            np.random.set_state(numpy_state)


@contextmanager
def restored(net: nn.Module) -> Iterator[None]:
    """Put back every attribute of every module (modes too), and the values of the buffers."""
    kept = [(module, dict(vars(module)), [(held, dict(held)) for held in _members(module)]) for module in net.modules()]
    buffers = [(buffer, buffer.clone()) for buffer in net.buffers() if not (is_lazy(buffer) or buffer.is_meta)]
    try:
        yield
    finally:
        for module, attributes, members in kept:
            for held, before in members:
                held.clear()
                held.update(before)
            vars(module).clear()
            vars(module).update(attributes)
        for buffer, values in buffers:
            if not torch.equal(buffer, values):  # any write, even of equal values, would break a pending backward
                buffer.copy_(values)


def _members(module: nn.Module) -> list[dict[str, Any]]:
    held = (vars(module).get(name) for name in ("_parameters", "_buffers", "_modules"))
    return [one for one in held if isinstance(one, dict)]
