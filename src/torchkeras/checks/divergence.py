"""Why a loss was not finite: looked into when the run is over, so that no step pays for it."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from torchkeras.checks.explain import described
from torchkeras.core.modes import evaluating
from torchkeras.data import batch as batches
from torchkeras.metrics.shapes import wide
from torchkeras.state.components import modules_of
from torchkeras.state.rng import put_random_states, random_states

GROWN = 10.0  # times the first loss of a pass: from there on the size of the gradients is looked at


def why(step: Any, batch: Any) -> str:
    """Return which part of a step was not finite, and how large gradients, weights and the rate were before it.

    Args:
        step: the StepRunner, whose net is as it was when the loss was computed.
        batch: the batch whose loss it was.
    """
    return "; ".join([cause(step, batch), *sizes(step.net, step.optimizer, getattr(step, "gradient_norm", None))])


def cause(step: Any, batch: Any) -> str:
    """Return the first that is not finite of: the batch, the weights, the net's output, the loss."""
    if found := in_batch(batch):
        return found
    if found := in_weights(step.net):
        return f"{found}: the update before made them so, its gradients were not finite or its rate was too large"
    if getattr(step, "together", None) is not None and step.together.world > 1:
        return "features, labels and weights are finite"  # the net cannot be called by one process alone
    return in_output(step, batch) or (
        "features, labels, weights and the net's output are finite, the loss of them is not")


def in_batch(batch: Any) -> str:
    """Return which leaf of a batch holds NaN or infinity, and in which samples; nothing where none does."""
    try:
        parts = zip(("features", "labels", "sample weights"), batches.split(batch), strict=True)
    except ValueError:  # a layout of the user's own
        parts = iter([("the batch", batch)])  # type: ignore[assignment]
    for part, value in parts:
        for path, leaf in named_leaves(part, value):
            if found := not_finite(leaf):
                verb = "hold" if path == part and part != "the batch" else "holds"
                return f"{path} {'of the batch ' if part != 'the batch' else ''}{verb} {found}"
    return ""


def named_leaves(path: str, node: Any) -> Iterator[tuple[str, Any]]:
    """Give the values of nested containers, each with the way to it."""
    if isinstance(node, Mapping) or (isinstance(node, (tuple, list)) and not isinstance(node, Tensor)):
        for key, one in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from named_leaves(f"{path}[{key!r}]", one)
    else:
        yield path, node


def not_finite(leaf: Any) -> str:
    """Return what of NaN and infinity a tensor or an array holds, and where; nothing where all is finite."""
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


def in_weights(net: nn.Module) -> str:
    """Return which weights or buffers of a net are not finite; nothing where all are."""
    named = [*net.named_parameters(), *net.named_buffers()]
    bad = [name for name, value in named if value.is_floating_point() and not bool(value.detach().isfinite().all())]
    if not bad:
        return ""
    return f"the net's weights hold NaN or infinity ({bad[0]!r}" + (f" and {len(bad) - 1} more)" if bad[1:] else ")")


def in_output(step: Any, batch: Any) -> str:
    """Return whether the net's output is not finite, and which layer was the first whose output was not.

    The net runs once more; random state and buffers are put back.
    """
    found: list[str] = []
    output: Any = None
    with undisturbed(step.net), first_bad_layer(step.net, found), step.autocast(), suppress(Exception):
        output = step.forward(batch)[0]
    leaves = [leaf for _, leaf in named_leaves("", output)] + [getattr(output, "logits", None)]
    if not any(not_finite(leaf) for leaf in leaves):
        return ""
    return "the net's output is not finite, features, labels and weights are" + (
        f"; the first such output is that of {found[0]}" if found else "")


@contextmanager
def first_bad_layer(net: nn.Module, found: list[str]) -> Iterator[None]:
    """Take down the first layer that turns finite inputs into an output that is not finite."""
    def look(name: str, module: nn.Module) -> Any:
        def hook(_: Any, inputs: Any, output: Any) -> None:
            if not found and any(not_finite(leaf) for _, leaf in named_leaves("", output)):
                found.append(described(name, module))
        return hook

    layers = [(name, one) for name, one in net.named_modules() if not any(True for _ in one.children())]
    handles = [one.register_forward_hook(look(name, one)) for name, one in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def undisturbed(*parts: Any) -> Iterator[None]:
    """Run modules without gradients and without compiling; random state and buffers are as before afterwards."""
    states = random_states()
    buffers = [(module, name, one, one.detach().clone()) for part in parts if isinstance(part, nn.Module)
               for module in part.modules() for name, one in module._buffers.items() if one is not None]
    # asking the compiler would load it, which takes a second
    stance = torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()
    try:
        with torch.no_grad(), stance:
            yield
    finally:
        put_random_states(states)
        with torch.no_grad():
            for module, name, buffer, value in buffers:
                module._buffers[name] = buffer
                buffer.copy_(value)


def sizes(net: nn.Module, optimizer: Any, gradient: float | None) -> list[str]:
    """Return how large the gradients of the last update, the weights and the rate were."""
    weights = norm(net.parameters())
    groups = getattr(optimizer, "param_groups", None)
    return [*([] if gradient is None else [f"gradients had norm {gradient:.3g} at the last update"]),
            *([f"weights have norm {weights:.3g}"] if math.isfinite(weights) else []),
            *([f"lr {float(groups[0]['lr']):.3g}"] if groups else [])]


def norm(tensors: Iterable[Tensor | None]) -> float:
    """Return the norm of all tensors together, in the most precise float of their device."""
    return math.sqrt(sum(float(wide(one.detach()).square().sum()) for one in tensors if one is not None))


def afterwards(model: Any, run: Any, data: Any, step: Any) -> str:
    """Return what can be known of a loss that was not finite once the batch is gone.

    Args:
        model: the KerasModel.
        run: its run.
        data: the batches among which it was.
        step: a step that measures, for a validation that can be read again; None otherwise.
    """
    found = in_memory(data) or in_weights(model.net)
    if not found and step is not None and again(data):
        found = in_second_pass(model, data, step)
    optimizer = model.optimizer if run.stage == "train" else None
    return "; ".join([*([found] if found else []), *sizes(model.net, optimizer, None)])


def in_memory(data: Any) -> str:
    """Return which array of data in memory holds NaN or infinity."""
    tree = getattr(data.memory, "tree", None)
    for path, leaf in named_leaves(data.name, tree):
        if found := not_finite(leaf):
            return f"{path} holds {found}"
    return ""


def again(data: Any) -> bool:
    """Return whether data can be read once more without leaving a trace: not a generator, no workers."""
    source = data.source
    return isinstance(source, list) or data.memory is not None or (
        getattr(source, "num_workers", None) == 0 and getattr(source, "generator", None) is None)


def in_second_pass(model: Any, data: Any, step: Any) -> str:
    """Return what of the first batch of a validation whose loss is not finite is not finite."""
    # what cannot be looked at again is left unsaid
    with undisturbed(model.net, model.loss_fn), evaluating(*modules_of(model)), suppress(Exception):
        for number, batch in enumerate(data, start=1):
            if not bool(step.try_out(batch)[2].isfinite()):
                return f"step {number}: {cause(step, batch)}"
    return ""
