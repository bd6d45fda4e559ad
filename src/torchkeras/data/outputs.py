"""Turn outputs of a net into probabilities or classes; move them to the CPU and into numpy."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from torchkeras.core.errors import bad_value, one_of
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Labels, Leaf, LossFn, Preds, Tree, Value
from torchkeras.data.joined import join, without_extras
from torchkeras.data.samples import length
from torchkeras.losses import Loss, PenalizedLoss

READINGS = ("raw", "probabilities", "classes")
FAMILIES = {"CrossEntropyLoss": "softmax", "cross_entropy": "softmax", "NLLLoss": "log",
            "nll_loss": "log", "BCEWithLogitsLoss": "sigmoid",
            "binary_cross_entropy_with_logits": "sigmoid", "BCELoss": "given",
            "binary_cross_entropy": "given"}


def interpret(preds: Preds, loss_fn: LossFn | None, output: str,
              net: nn.Module | None = None) -> Any:
    """Return raw outputs as they are, or the probabilities or classes that the loss defines.

    Args:
        preds: the output of the net.
        loss_fn: the loss; None for a net with a loss of its own, whose ``logits`` have the classes
            along the last dimension.
        output: "raw", "probabilities" or "classes".
        net: for a net with a loss of its own; ``config.problem_type`` says what its logits mean.

    Raises:
        ValueError: the outputs are neither probabilities nor classes.
    """
    if output == "raw":
        return preds
    scores = logits_of(preds)
    if loss_fn is None:
        kind, dim = own_family(preds, scores, net), -1
    else:
        kind, dim = family(loss_fn), getattr(without_penalty(loss_fn), "axis", 1)
    if not isinstance(scores, Tensor):
        raise undefined_output(f"a {type(scores).__name__} as the net's output",
                               "one tensor of scores")
    if output == "classes" and kind in ("softmax", "log", "shares"):
        return scores.argmax(dim=dim)
    known: dict[str, Any] = {
        "softmax": functools.partial(torch.softmax, dim=dim), "sigmoid": torch.sigmoid,
        "log": torch.exp, "given": torch.as_tensor, "shares": torch.as_tensor}
    probabilities = known[kind](scores)
    return (probabilities > 0.5).long() if output == "classes" else probabilities


def logits_of(output: Preds) -> Any:
    """Return the ``logits`` of an output that has some; else, and of a distribution, the output."""
    if isinstance(output, (Tensor, Distribution)):
        return output
    keyed = isinstance(output, Mapping)
    logits = output.get("logits") if keyed else getattr(output, "logits", None)
    return output if logits is None else logits


def loss_inputs(loss_fn: LossFn | None, preds: Preds) -> Preds:
    """Return the part of a net's output that a loss takes: its ``logits``, if any.

    The outputs of transformers (dicts whose ``logits`` are an attribute too) give them to any loss,
    a plain dict only to torch's and this library's losses: a user's own loss function gets the
    whole dict that the user's own net returns.
    """
    if isinstance(preds, Tensor) or loss_fn is None or not isinstance(preds, Mapping):
        return preds
    if getattr(loss_fn, "takes_whole_outputs", False):
        return preds
    return logits_of(preds) if hasattr(preds, "logits") or takes_tensors(loss_fn) else preds


def takes_tensors(loss_fn: Value) -> bool:
    """Tell whether a loss is one of torch's or of this library, which take tensors."""
    kind = kind_of_loss(loss_fn)
    ours = isinstance(kind, type) and issubclass(kind, Loss)
    return ours or str(getattr(kind, "__module__", "")).startswith("torch.nn.")


def kind_of_loss(loss_fn: LossFn) -> Any:
    """Return the class of a loss, or the function that it is, without penalty and ``partial``."""
    inner = without_penalty(loss_fn)
    inner = getattr(inner, "func", inner)
    return type(inner) if isinstance(inner, nn.Module) else inner


def own_family(preds: Preds, scores: Preds, net: nn.Module | None) -> str:
    """Return what makes probabilities of the logits of a net that has a loss of its own."""
    check_own_reading(net)
    if scores is preds or not isinstance(scores, Tensor):
        raise undefined_output("loss_fn=None, and outputs without logits",
                         "outputs with logits, or a loss that says what the outputs are")
    if scores.dim() < 2 or scores.shape[-1] == 1:
        raise undefined_output(f"loss_fn=None, and logits of shape {tuple(scores.shape)}",
                         "logits with a column for each class")
    return "sigmoid" if problem_type(net) == "multi_label_classification" else "softmax"


def check_own_reading(net: nn.Module | None) -> None:
    """Raise for classes of a net whose config says that it does regression."""
    if problem_type(net) == "regression":
        raise undefined_output("loss_fn=None, and a net with config.problem_type='regression'",
                         "a classifier")


def problem_type(net: nn.Module | None) -> Any:
    """Return ``config.problem_type`` of a net of transformers; None if it has none."""
    return getattr(getattr(net, "config", None), "problem_type", None)


def undefined_output(received: str, expected: str) -> ValueError:
    """Return the error for outputs that are neither probabilities nor classes."""
    return bad_value("output", received=f"'probabilities' or 'classes' with {received}",
                     expected=expected, fix="Use output='raw' and read the outputs yourself.")


def family(loss_fn: LossFn) -> str:
    """Return which function makes probabilities of outputs, by the loss of the training."""
    loss_fn = without_penalty(loss_fn)
    if isinstance(loss_fn, Loss) and loss_fn.family is not None:
        return loss_fn.family
    name = loss_name(loss_fn)
    if name not in FAMILIES:
        raise undefined_output(f"the loss {name or loss_fn!r}",
                         "one of the losses " + ", ".join(FAMILIES))
    return FAMILIES[name]


def loss_name(loss_fn: LossFn) -> str:
    """Return the name of a loss function, or that of a loss module's class."""
    return type(loss_fn).__name__ if isinstance(loss_fn, nn.Module) else getattr(
        loss_fn, "__name__", "")


def without_penalty(loss_fn: LossFn) -> Any:
    """Return the loss that a penalty was added to; another loss as it is."""
    return loss_fn.module if isinstance(loss_fn, PenalizedLoss) else loss_fn


def takes_logits(loss_fn: Value) -> bool:
    """Tell whether a loss takes logits, as most do, or probabilities."""
    loss_fn = without_penalty(loss_fn)
    if isinstance(loss_fn, Loss):
        return loss_fn.from_logits
    return loss_name(loss_fn) not in ("BCELoss", "binary_cross_entropy")


def check_reading(loss_fn: LossFn | None, output: str, net: nn.Module | None = None) -> None:
    """Raise for a kind of output that does not exist, or that the loss does not define."""
    one_of("output", output, READINGS)
    if output == "raw":
        return
    if loss_fn is None:
        check_own_reading(net)
    else:
        family(loss_fn)


def to_cpu(value: Tree) -> Tree:
    """Return tensors on the CPU, in the same containers."""
    def move(leaf: Leaf) -> Leaf:
        if isinstance(leaf, Tensor):
            return leaf.detach().cpu()
        movable = callable(getattr(leaf, "to", None)) and not isinstance(leaf, nn.Module)
        return leaf.to("cpu") if movable else leaf

    return map_tree(move, value)


def to_numpy(value: Tree) -> Tree:
    """Return tensors as numpy arrays, in the same containers; bfloat16 becomes float32."""
    def convert(leaf: Leaf) -> Leaf:
        if not isinstance(leaf, Tensor):
            return leaf
        if leaf.is_nested or leaf.layout != torch.strided:
            raise bad_value(
                "as_numpy", received=f"True for a tensor with the layout {leaf.layout}",
                expected="ordinary tensors",
                fix="Leave as_numpy out, and convert the tensor yourself.")
        return (leaf.float() if leaf.dtype == torch.bfloat16 else leaf).numpy(force=True)

    return map_tree(convert, value)


def merge_parts(parts: list[tuple[Any, Any]]) -> tuple[Any, Any]:
    """Return predictions and labels of a batch, joined from the parts of several ranks."""
    if len(parts) < 2:
        return parts[0] if parts else (None, None)
    on_cpu = to_cpu([(without_extras(preds), labels) for preds, labels in parts])
    preds, labels = zip(*on_cpu, strict=True)
    counts = [samples_of(*part) for part in parts]
    return join(preds, counts, "preds"), join(labels, counts, "labels of a batch")


def samples_of(preds: Preds, labels: Labels) -> int | None:
    """Return how many samples a batch has, by its labels, or its outputs if it has none."""
    found = length(labels, ragged=True)
    return length(preds) if found is None else found
