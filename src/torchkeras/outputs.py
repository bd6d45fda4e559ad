"""What a net puts out: joined over batches, and read as probabilities or classes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchkeras.data.tree import map_tree, rebuild
from torchkeras.engine.checks import bad_value, one_of
from torchkeras.losses import Loss, PenalizedLoss

READINGS = ("raw", "probabilities", "classes")


def read(preds: Any, loss_fn: Any, output: str) -> Any:
    """Raw outputs as they are; probabilities or classes as the loss understands them."""
    if output == "raw":
        return preds
    preds = logits_of(preds)
    kind = family(loss_fn)
    dim = getattr(inner(loss_fn), "axis", 1)
    if output == "classes" and kind in ("softmax", "log", "shares"):
        return preds.argmax(dim=dim)
    known: dict[str, Any] = {"softmax": functools.partial(torch.softmax, dim=dim), "sigmoid": torch.sigmoid,
                             "log": torch.exp, "given": torch.as_tensor, "shares": torch.as_tensor}
    probabilities = known[kind](preds)
    return (probabilities > 0.5).long() if output == "classes" else probabilities


def logits_of(output: Any) -> Any:
    """The ``logits`` of an output that has such; else the output itself."""
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return output if logits is None else logits


def family(loss_fn: Any) -> str:
    """Which function makes probabilities of a net's outputs, by the loss it was trained with."""
    loss_fn = inner(loss_fn)
    if isinstance(loss_fn, Loss) and loss_fn.family is not None:
        return loss_fn.family
    name = type(loss_fn).__name__ if isinstance(loss_fn, torch.nn.Module) else getattr(loss_fn, "__name__", "")
    families = {"CrossEntropyLoss": "softmax", "cross_entropy": "softmax", "NLLLoss": "log", "nll_loss": "log",
                "BCEWithLogitsLoss": "sigmoid", "binary_cross_entropy_with_logits": "sigmoid",
                "BCELoss": "given", "binary_cross_entropy": "given"}
    if name not in families:
        raise bad_value("output", received=f"a wish for probabilities or classes with the loss {name or loss_fn!r}",
                        expected="one of the losses " + ", ".join(families),
                        fix="Use output='raw' and read the outputs yourself.")
    return families[name]


def inner(loss_fn: Any) -> Any:
    """The loss that a penalty was added to; another loss as it is."""
    return loss_fn.module if isinstance(loss_fn, PenalizedLoss) else loss_fn


def takes_logits(loss_fn: Any) -> bool:
    """Whether a loss is one of logits, as most are, or of probabilities."""
    loss_fn = inner(loss_fn)
    if isinstance(loss_fn, Loss):
        return loss_fn.from_logits
    name = type(loss_fn).__name__ if isinstance(loss_fn, torch.nn.Module) else getattr(loss_fn, "__name__", "")
    return name not in ("BCELoss", "binary_cross_entropy")


def check_reading(loss_fn: Any, output: str) -> None:
    """Refuse a reading that does not exist, or that the loss does not have."""
    one_of("output", output, READINGS)
    if output != "raw":
        family(loss_fn)


def to_cpu(value: Any) -> Any:
    """Tensors in main memory, in the same tuples and dicts."""
    return map_tree(lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf, value)


def join(parts: list[Any]) -> Any:
    """The outputs of all batches as one, along the first dimension."""
    first = parts[0]
    if isinstance(first, Tensor):
        if len({part.shape[1:] for part in parts}) > 1:
            raise bad_value("data", received="batches whose outputs differ in shape", expected="equal shapes, to join",
                            fix="Use predict(..., stream=True) and take them batch by batch.")
        return torch.cat(parts) if first.dim() else torch.stack(parts)
    if isinstance(first, Mapping):
        return {name: join([part[name] for part in parts]) for name in first}
    if isinstance(first, (tuple, list)):
        return rebuild(first, [join(list(column)) for column in zip(*parts, strict=True)])
    return parts


def to_numpy(value: Any) -> Any:
    """Tensors as numpy arrays, in the same tuples and dicts; numpy has no bfloat16, float32 holds it exactly."""
    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).numpy(force=True)

    return map_tree(convert, value)


def whole(parts: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Predictions and labels of a batch from the parts of several processes; of one process, as they are."""
    if len(parts) < 2:
        return parts[0] if parts else (None, None)
    preds, labels = zip(*to_cpu(parts), strict=True)
    return join(list(preds)), join(list(labels))
