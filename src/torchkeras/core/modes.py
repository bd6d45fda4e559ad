"""Switch training and evaluation mode module by module; measure nets that need gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch import Tensor, nn

from torchkeras.core import internals
from torchkeras.core.rng import put_random_states, random_states
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Batch, Leaf, State

# Nets that call torch.autograd.grad, or whose loss does; and nets known not to need gradients.
DIFFERENTIATED: WeakSet[nn.Module] = WeakSet()
PLAIN: WeakSet[nn.Module] = WeakSet()
SIGNS = ("does not require grad", "requires_grad=True on inference tensor",
         "Inference tensors cannot be saved")
NOTE = ("measured with gradients: the net or its loss differentiates, so validation, evaluate and "
        "predict cost more time and memory a batch")
# torch's batch norms, and the private base class that they share, which others derive from
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, *(
    one for one in nn.BatchNorm1d.__mro__
    if issubclass(nn.SyncBatchNorm, one) and not issubclass(nn.InstanceNorm1d, one)))


@contextmanager
def keep_modes(net: nn.Module) -> Iterator[None]:
    """Restore the mode of every module on leaving: modules frozen by ``.eval()`` stay frozen."""
    found = [(module, module.training) for module in net.modules()]
    try:
        yield
    finally:
        for module, training in found:
            module.training = training


@contextmanager
def train_mode(net: nn.Module) -> Iterator[None]:
    """Switch to training mode; a net found in training mode keeps its frozen modules frozen."""
    with keep_modes(net):
        if not net.training:
            net.train()
        yield




@contextmanager
def eval_mode(*modules: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode: the net, a loss that is a module, nets given as step objects."""
    with ExitStack() as kept:
        for module in modules:
            kept.enter_context(keep_modes(module))
            module.eval()
        yield




class UnchangedBuffers:
    """Keep the buffers of modules as they are, so that measuring does not change a loss.

    Some losses update an average in every forward, in evaluation mode too (the centre of DINO's).
    Without this, each batch would be measured by another loss than the one before.

    Args:
        *modules: whose buffers are kept.
    """

    def __init__(self, *modules: nn.Module) -> None:
        self.kept = [(part, name, buffer, buffer.detach().clone())
                     for module in modules for part in module.modules()
                     for name, buffer in internals.buffers(part).items() if buffer is not None]
        self.versions = [internals.version(buffer) for _, _, buffer, _ in self.kept]

    def restore(self) -> None:
        """Restore the buffers that were changed or replaced."""
        for number, (part, name, buffer, before) in enumerate(self.kept):
            if internals.version(buffer) != self.versions[number]:
                with torch.no_grad():
                    buffer.copy_(before)
                self.versions[number] = internals.version(buffer)
            internals.buffers(part)[name] = buffer


def with_gradients_if_needed(net: nn.Module, compute: Callable[[Batch], Any], batch: Batch) -> Any:
    """Return ``compute(batch)``, with gradients for a net that cannot be computed without them.

    Physics-informed nets, energies and gradient penalties differentiate in their forward or their
    loss. They are recognised by their first batch: torch raises because something does not require
    grad. That batch is computed once more with gradients, from the same random state, and so is
    every later one of this net. The result has no graph, so a pass keeps no more memory than one
    batch needs; parameters get no ``.grad``.

    Args:
        net: the net; whether it needs gradients is remembered for it.
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
        found = retry_with_gradients(compute, batch, error, states)
        DIFFERENTIATED.add(net)
        return found
    if states is not None:
        PLAIN.add(net)
    return found




def retry_with_gradients(compute: Callable[[Batch], Any], batch: Batch, error: RuntimeError,
               states: State | None) -> Any:
    """Return ``compute(batch)`` with gradients; raise the first error if they do not help.

    An error that this library explains is raised itself: the first error only hid it.
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


def with_gradients(compute: Callable[[Batch], Any], batch: Batch) -> Any:
    """Return ``compute(batch)`` without the graph that it needed."""
    with torch.inference_mode(False), torch.enable_grad():
        return map_tree(detached, compute(map_tree(usable_by_autograd, batch)))


def usable_by_autograd(leaf: Leaf) -> Leaf:
    """Return a tensor that autograd can use: a copy of one that was made in inference mode."""
    return leaf.clone() if isinstance(leaf, Tensor) and leaf.is_inference() else leaf


def detached(leaf: Leaf) -> Leaf:
    """Return a tensor without its graph, and any other value as it is."""
    return leaf.detach() if isinstance(leaf, Tensor) else leaf
