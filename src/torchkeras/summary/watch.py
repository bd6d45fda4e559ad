"""A forward pass without side effects, and the record of its module calls."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.nn.utils.parametrize import ParametrizationList

from torchkeras.core import internals
from torchkeras.core.errors import bad_type, instance_not_class
from torchkeras.core.restored import restored_state
from torchkeras.core.types import Tree
from torchkeras.summary.inputs import CALLS, Inputs, count_bytes, tensors


class Call(NamedTuple):
    """A finished call of a layer: the shapes of the tensors that came out, and their bytes."""

    module: nn.Module
    shapes: list[tuple[int, ...]]
    bytes: int


class CallRecorder:
    """Records innermost module calls, and calls of the types in ``whole``."""

    def __init__(self, whole: tuple[type, ...] = ()) -> None:
        self.whole = whole
        self.calls: list[Call] = []
        self.called: set[int] = set()
        self._open: list[tuple[nn.Module, int]] = []
        self._entered = 0

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Note that a forward begins."""
        self._entered += 1
        self.called.add(id(module))
        self._open.append((module, self._entered))

    def running(self) -> str:
        """Return a sentence on the innermost layer that has not finished; "" without one."""
        layer = repr(self._open[-1][0]) if self._open else ""
        return f"The layer that failed: {layer}. " if layer and "\n" not in layer else ""

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Tree) -> None:
        """Record a finished forward, unless it called others."""
        ticket = 0
        while self._open:  # a call that raised inside the net was never closed
            inner, ticket = self._open.pop()
            if inner is module:
                break
        innermost = ticket == self._entered or isinstance(module, self.whole)
        if innermost and not any(isinstance(outer, self.whole) for outer, _ in self._open):
            found = list(tensors(output))
            self.calls.append(
                Call(module, [tuple(tensor.shape) for tensor in found], count_bytes(found)))


def unwrapped(net: nn.Module) -> nn.Module:
    """Return the net inside its wrapper; a copy of it when it has lazy parameters."""
    instance_not_class("net", net)
    if not isinstance(net, nn.Module):
        raise bad_type("net", received=f"{str(net)[:80]} ({type(net).__name__})",
                       expected="an nn.Module", fix=CALLS)
    if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        net = net.module
    net = getattr(net, internals.COMPILED_NET, net)  # inside a compiled net no hooks are called
    faces = sys.modules.get("torchkeras.keras.base")
    if faces is not None and isinstance(net, faces.BaseModel):
        net = faces.net_of(net)
    if not any(is_lazy(tensor) for tensor in (*net.parameters(), *net.buffers())):
        return net
    # deepcopy supports uninitialized parameters, but not uninitialized buffers
    known = {
        id(one): UninitializedBuffer(device=one.device, dtype=one.dtype)  # type: ignore[call-arg]
        for one in net.buffers() if is_lazy(one)}
    return copy.deepcopy(net, dict(known))


def run_forward(net: nn.Module, inputs: Inputs, watch: CallRecorder | None = None) -> None:
    """Run a forward pass in eval mode, recorded by ``watch``."""
    if watch and any(isinstance(module, torch.jit.ScriptModule) for module in net.modules()):
        raise bad_type("net", received="a scripted net, which does not show its layers",
                       expected="an nn.Module", fix="Summarise it before torch.jit.script.")
    hidden = {id(inner) for module in net.modules() if isinstance(module, ParametrizationList)
              for inner in module.modules()}  # they compute a weight; they are no layers
    handles = []
    with without_side_effects(net):
        try:
            for module in net.modules() if watch else ():
                if watch and id(module) not in hidden:
                    handles.append(module.register_forward_pre_hook(watch.enter))
                    handles.append(module.register_forward_hook(watch.leave))
            net(*inputs.args, **inputs.kwargs)
        except Exception as error:
            shapes = ", ".join(
                str(list(tensor.shape)) for tensor in tensors((inputs.args, inputs.kwargs)))
            layer = watch.running() if watch else ""
            error.add_note(f"The net was called with {shapes} to summarise it. {layer}{CALLS}")
            raise
        finally:
            for handle in handles:
                handle.remove()


@contextmanager
def without_side_effects(net: nn.Module) -> Iterator[None]:
    """Run in eval mode without gradients; restore the net and all random states at exit."""
    python, numpy_state = random.getstate(), np.random.get_state()
    initialized: Callable[[], bool] = torch.cuda.is_initialized
    cuda = list(range(torch.cuda.device_count() if initialized() else 0))
    fast = torch.backends.mha.get_fastpath_enabled()
    with torch.random.fork_rng(devices=cuda), torch.no_grad(), restored_state(net):
        try:
            # the fused kernels call no layer and count no operation
            torch.backends.mha.set_fastpath_enabled(False)
            net.eval()
            for module in net.modules():
                if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                    module.max_norm = None  # a look-up would rescale the weight
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            random.setstate(python)
            np.random.set_state(numpy_state)
