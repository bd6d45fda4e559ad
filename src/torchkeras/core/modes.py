"""Training and evaluation mode, module by module; and nets that are measured with gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from torchkeras.core.tree import map_tree
from torchkeras.state.rng import put_random_states, random_states

# Nets that call torch.autograd.grad, or whose loss does; and nets that are known to get along without gradients.
DIFFERENTIATED: WeakSet[nn.Module] = WeakSet()
PLAIN: WeakSet[nn.Module] = WeakSet()
SIGNS = ("does not require grad", "requires_grad=True on inference tensor", "Inference tensors cannot be saved")
NOTE = ("measured with gradients: the net or its loss differentiates, so validation, evaluate and predict cost more "
        "time and memory a batch")
# torch's batch norms, and those that others build on what torch's have in common, for which torch promises no name
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, *(
    one for one in nn.BatchNorm1d.__mro__
    if issubclass(nn.SyncBatchNorm, one) and not issubclass(nn.InstanceNorm1d, one)))


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
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """Evaluation mode everywhere: in the net, in a loss that is a module, in nets given as step objects."""
    with ExitStack() as kept:
        for module in modules:
            kept.enter_context(modes_kept(module))
            module.eval()
        yield


class UnchangedBuffers:
    """Keep the buffers of modules as they are, whatever is done to them: measuring changes nothing of a loss.

    Some losses move an average in every forward, in evaluation mode too (the centre of DINO's). Measured with it, each
    batch would count by another loss than the one before.

    Args:
        *modules: whose buffers.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self.kept = [(part, name, buffer, buffer.detach().clone()) for module in modules for part in module.modules()
                     for name, buffer in part._buffers.items() if buffer is not None]
        self.versions = [buffer._version for _, _, buffer, _ in self.kept]

    def restore(self) -> None:
        """Put back those that were changed or replaced."""
        for number, (part, name, buffer, before) in enumerate(self.kept):
            if buffer._version != self.versions[number]:
                with torch.no_grad():
                    buffer.copy_(before)
                self.versions[number] = buffer._version
            part._buffers[name] = buffer


def measured(net: nn.Module, compute: Callable[[Any], Any], batch: Any) -> Any:
    """Return ``compute(batch)``, where gradients are off: with gradients for what needs them to be computed at all.

    Physics-informed nets, energies and gradient penalties differentiate in their forward or their loss. They show on
    their first batch: torch says that something does not require a gradient. That batch is computed once more with
    gradients, from the same random state, and so is every later one of this net. What comes back has no graph, so a
    pass keeps no more memory than one batch needs; parameters get no ``.grad``.

    Args:
        net: the net, by which this is remembered.
        compute: what to do with a batch.
        batch: the batch.

    Returns:
        What ``compute`` returns.

    Raises:
        RuntimeError: torch's own, where gradients do not help.
    """
    if torch.is_grad_enabled() and not torch.is_inference_mode_enabled():
        return compute(batch)
    if net in DIFFERENTIATED:
        return with_gradients(compute, batch)
    states = None if net in PLAIN else random_states()
    try:
        found = compute(batch)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in SIGNS):
            raise
        found = second_try(compute, batch, error, states)
        DIFFERENTIATED.add(net)
        return found
    if states is not None:
        PLAIN.add(net)
    return found


def second_try(compute: Callable[[Any], Any], batch: Any, error: RuntimeError, states: Any) -> Any:
    """Return what comes of a batch with gradients; raise the first error where they do not help.

    A mistake that this library explains is raised itself: the first error only hid it.
    """
    if states is not None:
        put_random_states(states)
    try:
        return with_gradients(compute, batch)
    except Exception as second:
        if getattr(second, "user_mistake", False):
            raise
        error.add_note(f"With gradients: {type(second).__name__}: {second}")
    raise error


def with_gradients(compute: Callable[[Any], Any], batch: Any) -> Any:
    """Return ``compute(batch)`` without the graph that it needed."""
    with torch.inference_mode(False), torch.enable_grad():
        return map_tree(detached, compute(map_tree(usable, batch)))


def usable(leaf: Any) -> Any:
    """Return a tensor that can be differentiated by: one made in inference mode cannot."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


def detached(leaf: Any) -> Any:
    """Return a tensor without its graph."""
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
