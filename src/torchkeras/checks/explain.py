"""Add notes to errors in a forward, a loss or a metric: the layer, its inputs, a likely fix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
from torch import Tensor, nn

from torchkeras.checks.families import likely_fix
from torchkeras.core import internals
from torchkeras.core.errors import mistake
from torchkeras.core.stop import PassEnded, ProcessFailed
from torchkeras.core.tracebacks import chain, of_library
from torchkeras.core.types import Batch, Labels, Preds
from torchkeras.weighting.denominator import LossStep

LONG = 120  # characters of a layer's repr that fit into a line
MANY = 8  # items of a container that are listed


def add_note(error: BaseException, net: object, *, batch: Batch = None, preds: Preds = None,
             labels: Labels = None, part: str = "") -> None:
    """Add a note, once, to an error of a forward, a loss or a metric.

    Args:
        error: what was raised, with its traceback.
        net: the module whose layers are named.
        batch: the batch.
        preds: the net's output, if it was computed.
        labels: the labels that it is compared with.
        part: what was computed, such as "the loss CrossEntropyLoss", if not the net.
    """
    known = isinstance(error, (PassEnded, ProcessFailed, StopIteration))
    if known or getattr(error, "user_mistake", False) or getattr(error, "explained", False):
        return
    vars(error)["explained"] = True
    name, layer, given = locate(error, net)
    inputs = f", which was given {shapes(given)}." if given else "."
    lines = [line for line in (
        f"Raised in {part or described(name, layer)}" + inputs,
        "" if preds is None else f"The net's output: {shapes(preds)}; labels: {shapes(labels)}.",
        "" if batch is None else f"The batch: {shapes(batch)}.",
        prefixed("Likely fix: ", likely_fix(error, layer, given, preds, labels))) if line]
    error.add_note("\n".join(lines))
    if not of_library(error.__traceback__):
        mistake(error)  # not where it begins in this library: the cause may be here


def in_step(error: Exception, step: LossStep, batch: Batch, preds: Preds, labels: Labels) -> None:
    """Add the note to an error of a step's forward or loss."""
    loss_fn = step.loss_fn
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    add_note(error, step.net, batch=batch, preds=preds, labels=labels,
             part="" if preds is None or loss_fn is None else f"the loss {name}")


def in_metric(error: Exception, net: object, preds: Preds, labels: Labels, name: str = "") -> None:
    """Add the note to an error of a metric, by its name or as the one on trial."""
    tried = [frame.f_locals.get("name", "") for frame in frames(error)
             if frame.f_code.co_name == "check_metrics"]
    add_note(error, net, preds=preds, labels=labels,
             part=f"the metric {name or (tried or [''])[0]!r}")


@contextmanager
def in_metrics(net: object, preds: Preds, labels: Labels) -> Iterator[None]:
    """Add the note to errors that metrics raise on trial."""
    try:
        yield
    except Exception as error:
        in_metric(error, net, preds, labels)
        raise


@contextmanager
def in_forward(net: object, batch: Batch) -> Iterator[None]:
    """Add the note to errors of a net that no step calls."""
    try:
        yield
    except Exception as error:
        add_note(error, net, batch=batch)
        raise


def prefixed(prefix: str, text: str) -> str:
    """Return a text behind a prefix; "" for an empty text."""
    return prefix + text if text else ""


def locate(error: BaseException, net: object) -> tuple[str | None, nn.Module | None, Any]:
    """Return the name of the layer in which an error arose, the layer, and its inputs.

    The layer is the ``self`` of the innermost frame that is a module of the net; without one, all
    three are None.
    """
    modules = net.named_modules() if isinstance(net, nn.Module) else ()
    names = {id(module): name for name, module in modules}
    name, layer, given = None, None, None
    for frame in frames(error):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names:
            if owner is not layer:
                name, layer, given = names[id(owner)], owner, None
            if frame.f_code.co_name in internals.MODULE_FRAMES:
                args, kwargs = frame.f_locals.get("args", ()), frame.f_locals.get("kwargs", {})
                given = {**dict(enumerate(args)), **kwargs} if kwargs else args
    return name, layer, given


def frames(error: BaseException) -> Iterator[FrameType]:
    """Return the frames of an error's traceback, outermost first, without the catching one.

    The catching frame holds the error: reading its variables would make a reference cycle, and keep
    alive what the error holds, such as device memory, until the next garbage collection.
    """
    return (link.tb_frame for link in chain(error.__traceback__)[1:])


def described(name: str | None, layer: object) -> str:
    """Describe a layer by its name in the net and its repr."""
    if layer is None:
        return "a step of the model"
    kind = repr(layer)
    kind = kind if len(kind) <= LONG and "\n" not in kind else type(layer).__name__
    return f"layer {name!r} of the net, {kind}" if name else f"the net, {kind}"


def shapes(value: object) -> str:
    """Describe the dtypes and shapes of tensors in their containers."""
    if isinstance(value, (Tensor, np.ndarray)):
        kind = str(value.dtype).removeprefix("torch.")
        elsewhere = isinstance(value, Tensor) and value.device.type != "cpu"
        where = f" on {value.device}" if elsewhere else ""
        return f"{kind} {tuple(value.shape)}{where}"
    if isinstance(value, Mapping):
        return "{" + listed(f"{key!r}: {shapes(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        inner = listed(shapes(one) for one in value)
        if isinstance(value, list):
            return f"[{inner}]"
        return inner if len(value) == 1 else f"({inner})"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"


def listed(items: Iterator[str]) -> str:
    """Join items with commas; of many, the first."""
    found = list(items)
    return ", ".join(found[:MANY]) + (f", ... ({len(found)} in all)" if len(found) > MANY else "")
