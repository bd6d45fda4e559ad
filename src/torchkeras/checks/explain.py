"""Notes on errors that torch raises in a forward, a loss or a metric: where, on what, and the likely fix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import numpy as np
from torch import Tensor, nn

from torchkeras.checks.families import likely_fix
from torchkeras.core.errors import mistake
from torchkeras.core.stop import PassEnded, ProcessFailed
from torchkeras.core.tracebacks import chain, of_library

CALLS = ("_call_impl", "_wrapped_call_impl")  # torch's frames that hold what a module was called with
LONG = 120  # characters of a layer's repr that fit into a line
MANY = 8  # items of a batch that are listed


def add_note(error: BaseException, net: Any, *, batch: Any = None, preds: Any = None, labels: Any = None,
             part: str = "") -> None:
    """Add a note, once, to an error of a forward, a loss or a metric; its type and text stay.

    Args:
        error: what was raised, with its traceback.
        net: the module whose layers are named.
        batch: the batch in hand.
        preds: what the net put out, if it got so far.
        labels: what that was to be compared with.
        part: what was computed, such as "the loss CrossEntropyLoss", if not the net.
    """
    known = (PassEnded, ProcessFailed, StopIteration)
    if getattr(error, "user_mistake", False) or isinstance(error, known) or getattr(error, "explained", False):
        return
    vars(error)["explained"] = True
    name, layer, given = place(error, net)
    lines = [line for line in (
        f"Raised in {part or described(name, layer)}" + (f", which was given {shapes(given)}." if given else "."),
        f"The net's output: {shapes(preds)}; labels: {shapes(labels)}." if preds is not None else "",
        f"The batch: {shapes(batch)}." if batch is not None else "",
        prefixed("Likely fix: ", likely_fix(error, layer, given, preds, labels))) if line]
    error.add_note("\n".join(lines))
    if not of_library(error.__traceback__):
        mistake(error)  # an error that begins in this library may be this library's: it is shown whole


def in_step(error: Exception, step: Any, batch: Any, preds: Any, labels: Any) -> None:
    """Add the note to an error of a step's forward or loss; the loss begins where there are outputs."""
    loss_fn = step.loss_fn
    name = getattr(loss_fn, "__name__", type(loss_fn).__name__)
    add_note(error, step.net, batch=batch, preds=preds, labels=labels,
             part="" if preds is None or loss_fn is None else f"the loss {name}")


def in_metric(error: Exception, net: Any, preds: Any, labels: Any, name: str = "") -> None:
    """Add the note to an error of a metric; without a name, it is the one that was being tried out."""
    tried = [frame.f_locals.get("name", "") for frame in frames(error) if frame.f_code.co_name == "check_metrics"]
    add_note(error, net, preds=preds, labels=labels, part=f"the metric {name or (tried or [''])[0]!r}")


@contextmanager
def in_metrics(net: Any, preds: Any, labels: Any) -> Iterator[None]:
    """Add the note to what metrics raise when they are tried out."""
    try:
        yield
    except Exception as error:
        in_metric(error, net, preds, labels)
        raise


@contextmanager
def in_forward(net: Any, batch: Any) -> Iterator[None]:
    """Add the note to what a net raises where no step calls it."""
    try:
        yield
    except Exception as error:
        add_note(error, net, batch=batch)
        raise


def prefixed(prefix: str, text: str) -> str:
    """Return a text behind a prefix; nothing where there is none."""
    return prefix + text if text else ""


def place(error: BaseException, net: Any) -> tuple[str | None, Any, Any]:
    """Return the name of the layer in which an error arose, the layer, and what it was called with.

    The layer is the ``self`` of the innermost frame that is a module of the net; without one, all three are None.
    """
    names = {id(module): name for name, module in net.named_modules()} if isinstance(net, nn.Module) else {}
    name, layer, given = None, None, None
    for frame in frames(error):
        owner = frame.f_locals.get("self")
        if isinstance(owner, nn.Module) and id(owner) in names:
            if owner is not layer:
                name, layer, given = names[id(owner)], owner, None
            if frame.f_code.co_name in CALLS:
                args, kwargs = frame.f_locals.get("args", ()), frame.f_locals.get("kwargs", {})
                given = {**dict(enumerate(args)), **kwargs} if kwargs else args
    return name, layer, given


def frames(error: BaseException) -> Iterator[FrameType]:
    """Give the frames of an error's traceback, the outermost first, without that in which it was caught.

    That one holds the error itself: to look at its variables would tie the two together, and keep alive what the
    error holds, memory of a device included, until the garbage is collected.
    """
    return (link.tb_frame for link in chain(error.__traceback__)[1:])


def described(name: str | None, layer: Any) -> str:
    """Return how to call a layer: its name in the net and what it is."""
    if layer is None:
        return "a step of the model"
    kind = repr(layer)
    kind = kind if len(kind) <= LONG and "\n" not in kind else type(layer).__name__
    return f"layer {name!r} of the net, {kind}" if name else f"the net, {kind}"


def shapes(value: Any) -> str:
    """Return the types and shapes of tensors, in the containers that they are in."""
    if isinstance(value, (Tensor, np.ndarray)):
        kind = str(value.dtype).removeprefix("torch.")
        where = f" on {value.device}" if isinstance(value, Tensor) and value.device.type != "cpu" else ""
        return f"{kind} {tuple(value.shape)}{where}"
    if isinstance(value, Mapping):
        return "{" + listed(f"{key!r}: {shapes(one)}" for key, one in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        inner = listed(shapes(one) for one in value)
        return f"[{inner}]" if isinstance(value, list) else inner if len(value) == 1 else f"({inner})"
    return repr(value) if value is None or isinstance(value, (bool, int, float)) else f"a {type(value).__name__}"


def listed(items: Iterator[str]) -> str:
    """Return items behind one another, the first of many."""
    found = list(items)
    return ", ".join(found[:MANY]) + (f", ... ({len(found)} in all)" if len(found) > MANY else "")
