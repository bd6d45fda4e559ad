"""Read what a net puts out as probabilities or classes; bring it to main memory and into numpy."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from torchkeras.core.errors import bad_value, one_of
from torchkeras.core.tree import map_tree
from torchkeras.data.joined import join, without_extras
from torchkeras.data.samples import length
from torchkeras.losses import Loss, PenalizedLoss

READINGS = ("raw", "probabilities", "classes")
FAMILIES = {"CrossEntropyLoss": "softmax", "cross_entropy": "softmax", "NLLLoss": "log", "nll_loss": "log",
            "BCEWithLogitsLoss": "sigmoid", "binary_cross_entropy_with_logits": "sigmoid",
            "BCELoss": "given", "binary_cross_entropy": "given"}


def read(preds: Any, loss_fn: Any, output: str, net: Any = None) -> Any:
    """Return raw outputs as they are; probabilities or classes as the loss understands them.

    Args:
        preds: what the net gave.
        loss_fn: the loss; None for a net that brings its own, whose ``logits`` have their classes last.
        output: "raw", "probabilities" or "classes".
        net: whose ``config.problem_type`` says what its logits mean, where the loss is its own.

    Raises:
        ValueError: the outputs have no such reading.
    """
    if output == "raw":
        return preds
    scores = logits_of(preds)
    if loss_fn is None:
        kind, dim = own_family(preds, scores, net), -1
    else:
        kind, dim = family(loss_fn), getattr(inner(loss_fn), "axis", 1)
    if not isinstance(scores, Tensor):
        raise unreadable(f"a {type(scores).__name__} as the net's output", "one tensor of scores")
    if output == "classes" and kind in ("softmax", "log", "shares"):
        return scores.argmax(dim=dim)
    known: dict[str, Any] = {"softmax": functools.partial(torch.softmax, dim=dim), "sigmoid": torch.sigmoid,
                             "log": torch.exp, "given": torch.as_tensor, "shares": torch.as_tensor}
    probabilities = known[kind](scores)
    return (probabilities > 0.5).long() if output == "classes" else probabilities


def logits_of(output: Any) -> Any:
    """Return the ``logits`` of an output that has such; else the output itself, as it is of a distribution."""
    if isinstance(output, (Tensor, Distribution)):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return output if logits is None else logits


def scored(loss_fn: Any, preds: Any) -> Any:
    """Return what a loss takes of a net's output: the ``logits`` of an output that has such.

    The outputs of transformers (dicts whose ``logits`` are an attribute too) give them to any loss, a plain dict to
    torch's and this library's losses only: a function of one's own takes the dict that one's own net returns whole.
    """
    if isinstance(preds, Tensor) or loss_fn is None or not isinstance(preds, Mapping):
        return preds
    if getattr(loss_fn, "takes_whole_outputs", False):
        return preds
    return logits_of(preds) if hasattr(preds, "logits") or of_tensors(loss_fn) else preds


def of_tensors(loss_fn: Any) -> bool:
    """Return whether a loss is one of torch's or of this library, which take tensors."""
    loss_fn = getattr(inner(loss_fn), "func", inner(loss_fn))  # functools.partial
    if isinstance(loss_fn, Loss):
        return True
    kind = type(loss_fn) if isinstance(loss_fn, torch.nn.Module) else loss_fn
    return str(getattr(kind, "__module__", "")).startswith("torch.nn.")


def own_family(preds: Any, scores: Any, net: Any) -> str:
    """Return what makes probabilities of the logits of a net that brings its own loss."""
    check_own_reading(net)
    if scores is preds or not isinstance(scores, Tensor):
        raise unreadable("loss_fn=None, and outputs without logits", "outputs with logits, or a loss that says what "
                         "the outputs are")
    if scores.dim() < 2 or scores.shape[-1] == 1:
        raise unreadable(f"loss_fn=None, and logits of shape {tuple(scores.shape)}", "logits with a column for each "
                         "class")
    return "sigmoid" if problem_type(net) == "multi_label_classification" else "softmax"


def check_own_reading(net: Any) -> None:
    """Refuse classes of a net whose settings say that it does regression."""
    if problem_type(net) == "regression":
        raise unreadable("loss_fn=None, and a net with config.problem_type='regression'", "a classifier")


def problem_type(net: Any) -> Any:
    """Return what a net of transformers was made for, where it says so."""
    return getattr(getattr(net, "config", None), "problem_type", None)


def unreadable(received: str, expected: str) -> ValueError:
    """Return the error for outputs that are neither probabilities nor classes."""
    return bad_value("output", received=f"a wish for probabilities or classes with {received}", expected=expected,
                     fix="Use output='raw' and read the outputs yourself.")


def family(loss_fn: Any) -> str:
    """Which function makes probabilities of a net's outputs, by the loss it was trained with."""
    loss_fn = inner(loss_fn)
    if isinstance(loss_fn, Loss) and loss_fn.family is not None:
        return loss_fn.family
    name = type(loss_fn).__name__ if isinstance(loss_fn, torch.nn.Module) else getattr(loss_fn, "__name__", "")
    if name not in FAMILIES:
        raise unreadable(f"the loss {name or loss_fn!r}", "one of the losses " + ", ".join(FAMILIES))
    return FAMILIES[name]


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


def check_reading(loss_fn: Any, output: str, net: Any = None) -> None:
    """Refuse a reading that does not exist, or that the loss does not have."""
    one_of("output", output, READINGS)
    if output != "raw" and loss_fn is None:
        check_own_reading(net)
    elif output != "raw":
        family(loss_fn)


def to_cpu(value: Any) -> Any:
    """Return tensors in main memory, in the same containers."""
    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.detach().cpu()
        movable = callable(getattr(leaf, "to", None)) and not isinstance(leaf, torch.nn.Module)
        return leaf.to("cpu") if movable else leaf

    return map_tree(move, value)


def as_is(value: Any) -> Any:
    """Return the value itself."""
    return value


def to_numpy(value: Any) -> Any:
    """Return tensors as numpy arrays, in the same containers; numpy has no bfloat16, float32 holds it exactly."""
    def convert(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.is_nested or leaf.layout != torch.strided:
            raise bad_value("as_numpy", received=f"True for a tensor with the layout {leaf.layout}",
                            expected="ordinary tensors", fix="Leave as_numpy out, and convert the tensor yourself.")
        return (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).numpy(force=True)

    return map_tree(convert, value)


def whole(parts: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Return predictions and labels of a batch from the parts of several processes; of one process, as they are."""
    if len(parts) < 2:
        return parts[0] if parts else (None, None)
    preds, labels = zip(*to_cpu([(without_extras(preds), labels) for preds, labels in parts]), strict=True)
    counts = [samples_of(*part) for part in parts]
    return join(preds, counts, "preds"), join(labels, counts, "labels of a batch")


def samples_of(preds: Any, labels: Any) -> int | None:
    """Return how many samples a batch has, told from its labels, or its outputs where there are none."""
    found = length(labels, ragged=True)
    return length(preds) if found is None else found
