"""Explain a NaN or infinite loss, once it has ended the run, so that no step pays for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from torchkeras.checks.explain import described
from torchkeras.core import internals
from torchkeras.core.modes import eval_mode
from torchkeras.core.rng import put_random_states, random_states
from torchkeras.core.types import Batch, HasParts, Leaf
from torchkeras.data import Batches
from torchkeras.data import batch as batches
from torchkeras.metrics.shapes import wide
from torchkeras.state.components import modules_of
from torchkeras.weighting.denominator import LossStep

if TYPE_CHECKING:
    from torchkeras.engine.run import Run

GROWN = 10.0  # times the first loss of a pass, from where gradient norms are recorded


def why(step: LossStep, batch: Batch) -> str:
    """Describe which part was not finite, and the norms of gradients and weights before.

    Args:
        step: the StepRunner, with the net as it was when the loss was computed.
        batch: the batch with this loss.
    """
    gradient = getattr(step, "gradient_norm", None)
    return "; ".join([cause(step, batch), *describe_sizes(step.net, step.optimizer, gradient)])


def cause(step: LossStep, batch: Batch) -> str:
    """Name the first that is not finite of batch, weights, output and loss."""
    if found := non_finite_in_batch(batch):
        return found
    if found := non_finite_in_weights(step.net):
        return (f"{found}: the update before made them so, its gradients were not finite or its "
                "rate was too large")
    if getattr(getattr(step, "process_strategy", None), "splits_batches", False):
        return "features, labels and weights are finite"  # one rank alone cannot call the net
    return non_finite_in_output(step, batch) or (
        "features, labels, weights and the net's output are finite, the loss of them is not")


def non_finite_in_batch(batch: Batch) -> str:
    """Name the leaf of a batch that holds NaN or infinity, and the samples; "" without any."""
    try:
        parts = zip(("features", "labels", "sample weights"), batches.split(batch), strict=True)
    except ValueError:  # a layout of a user's own
        parts = iter([("the batch", batch)])  # type: ignore[assignment]
    for part, value in parts:
        for path, leaf in named_leaves(part, value):
            if found := describe_non_finite(leaf):
                verb = "hold" if path == part and part != "the batch" else "holds"
                return f"{path} {'of the batch ' if part != 'the batch' else ''}{verb} {found}"
    return ""


def named_leaves(path: str, node: Leaf) -> Iterator[tuple[str, Leaf]]:
    """Yield the leaves of nested containers, each with its path."""
    if isinstance(node, Mapping) or (
            isinstance(node, (tuple, list)) and not isinstance(node, Tensor)):
        for key, one in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from named_leaves(f"{path}[{key!r}]", one)
    else:
        yield path, node


def describe_non_finite(leaf: Leaf) -> str:
    """Describe where a leaf holds NaN or infinity; "" if it is finite."""
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "fc":
        leaf = torch.from_numpy(np.ascontiguousarray(leaf))
    if not isinstance(leaf, Tensor) or leaf.layout != torch.strided or not (
            leaf.is_floating_point() or leaf.is_complex()):
        return ""
    bad = ~leaf.detach().isfinite()
    if not bool(bad.any()):
        return ""
    kind = "NaN" if bool(leaf.detach().isnan().any()) else "infinity"
    if not bad.dim():
        return kind
    rows = bad.reshape(len(bad), -1).any(dim=1).nonzero().flatten().tolist()
    return f"{kind} in {len(rows)} of {len(bad)} samples, the first at position {rows[0]}"


def non_finite_in_weights(net: nn.Module) -> str:
    """Name the weights or buffers of a net that are not finite; "" if all are finite."""
    named = [*net.named_parameters(), *net.named_buffers()]
    bad = [name for name, value in named
           if value.is_floating_point() and not bool(value.detach().isfinite().all())]
    if not bad:
        return ""
    more = f" and {len(bad) - 1} more" if bad[1:] else ""
    return f"the net's weights hold NaN or infinity ({bad[0]!r}{more})"


def non_finite_in_output(step: LossStep, batch: Batch) -> str:
    """Name the first layer whose output is not finite, if the net's output is not.

    The net runs once more; random state and buffers are restored.
    """
    found: list[str] = []
    output: Any = None
    with (undisturbed(step.net), first_bad_layer(step.net, found), step.autocast(),
          suppress(Exception)):
        output = step.forward(batch)[0]
    leaves = [leaf for _, leaf in named_leaves("", output)] + [getattr(output, "logits", None)]
    if not any(describe_non_finite(leaf) for leaf in leaves):
        return ""
    return "the net's output is not finite, features, labels and weights are" + (
        f"; the first such output is that of {found[0]}" if found else "")


@contextmanager
def first_bad_layer(net: nn.Module, found: list[str]) -> Iterator[None]:
    """Find the first layer that turns finite inputs into an output that is not finite."""
    def look(name: str, module: nn.Module) -> Callable[[nn.Module, object, Leaf], None]:
        def hook(_: nn.Module, inputs: object, output: Leaf) -> None:
            if not found and any(describe_non_finite(leaf) for _, leaf in named_leaves("", output)):
                found.append(described(name, module))
        return hook

    layers = [(name, one) for name, one in net.named_modules()
              if not any(True for _ in one.children())]
    handles = [one.register_forward_hook(look(name, one)) for name, one in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def undisturbed(*parts: object) -> Iterator[None]:
    """Run modules without gradients and compiling; random state and buffers are restored."""
    states = random_states()
    modules = [module for part in parts if isinstance(part, nn.Module) for module in part.modules()]
    buffers = [(module, name, one, one.detach().clone()) for module in modules
               for name, one in internals.buffers(module).items() if one is not None]
    # set_stance would import the compiler, which takes a second
    compiler = internals.compiler_is_loaded()
    stance = torch.compiler.set_stance("force_eager") if compiler else nullcontext()
    try:
        with torch.no_grad(), stance:
            yield
    finally:
        put_random_states(states)
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                internals.buffers(module)[name] = buffer
                buffer.copy_(value)


def describe_sizes(net: nn.Module, optimizer: object, gradient: float | None) -> list[str]:
    """Return the norms of the last gradients and of the weights, and the learning rate."""
    weights, found = norm(net.parameters()), list[str]()
    groups = getattr(optimizer, "param_groups", None)
    if gradient is not None:
        found.append(f"gradients had norm {gradient:.3g} at the last update")
    if math.isfinite(weights):
        found.append(f"weights have norm {weights:.3g}")
    if groups:
        found.append(f"lr {float(groups[0]['lr']):.3g}")
    return found


def norm(tensors: Iterable[Tensor | None]) -> float:
    """Return the norm of all tensors together, in the widest float dtype of their device."""
    return math.sqrt(sum(float(wide(one.detach()).square().sum())
                         for one in tensors if one is not None))


def afterwards(model: HasParts, run: Run, data: Batches, step: LossStep | None) -> str:
    """Explain a loss that was not finite when the batch is no longer at hand.

    Args:
        model: the KerasModel.
        run: its run.
        data: the batches of the pass.
        step: a step that measures, for a validation pass that can be repeated; else None.
    """
    found = non_finite_in_memory(data) or non_finite_in_weights(model.net)
    if not found and step is not None and can_be_reread(data):
        found = non_finite_in_second_pass(model, data, step)
    optimizer = model.optimizer if run.stage == "train" else None
    return "; ".join([*([found] if found else []), *describe_sizes(model.net, optimizer, None)])


def non_finite_in_memory(data: Batches) -> str:
    """Name the array of data in memory that holds NaN or infinity; "" without any."""
    tree = getattr(data.memory, "tree", None)
    for path, leaf in named_leaves(data.name, tree):
        if found := describe_non_finite(leaf):
            return f"{path} holds {found}"
    return ""


def can_be_reread(data: Batches) -> bool:
    """Tell whether data can be read once more: neither a generator nor by workers."""
    source = data.source
    return isinstance(source, list) or data.memory is not None or (
        getattr(source, "num_workers", None) == 0 and getattr(source, "generator", None) is None)


def non_finite_in_second_pass(model: HasParts, data: Batches, step: LossStep) -> str:
    """Explain the first loss of a validation pass that is not finite, in another pass."""
    # an error here leaves the loss unexplained
    with undisturbed(model.net, model.loss_fn), eval_mode(*modules_of(model)), suppress(Exception):
        for number, batch in enumerate(data, start=1):
            if not bool(step.forward_and_loss(batch)[2].isfinite()):
                return f"step {number}: {cause(step, batch)}"
    return ""
