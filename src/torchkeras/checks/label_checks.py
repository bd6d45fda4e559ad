"""Check the labels of a pass's first batch against the loss that compares them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.checks import broadcast
from torchkeras.core.errors import bad_value
from torchkeras.core.types import Labels, LossFn, Preds
from torchkeras.data import outputs

CLASS_LOSSES = {"CrossEntropyLoss", "NLLLoss", "cross_entropy", "nll_loss"}
BINARY_LOSSES = {"BCELoss", "BCEWithLogitsLoss", "binary_cross_entropy",
                 "binary_cross_entropy_with_logits"}
ELEMENT_LOSSES = BINARY_LOSSES | {"MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "mse_loss",
                                  "l1_loss", "smooth_l1_loss", "huber_loss"}


def check_labels(loss: LossFn | None, loss_fn: object, preds: Preds, labels: Labels,
                 argument: str) -> None:
    """Raise if the labels of the first batch do not fit the loss, or would be misread.

    Args:
        loss: what is called with predictions and labels: the loss itself, or a user's
            ``StepRunner.loss`` that calls it.
        loss_fn: the loss itself.
        preds: the net's output.
        labels: the labels.
        argument: the name of the data in the message.

    Raises:
        ValueError: they do not fit.
    """
    if loss is None or labels is None:
        return
    if callable(parts := getattr(loss_fn, "each_output", None)):
        for one, own_preds, own_labels in parts(preds, labels):
            check_labels(one, one, own_preds, own_labels, argument)
        return
    if loss is loss_fn:
        check_one_output(loss_fn, preds)
    # a user's StepRunner.loss may change predictions and labels first
    if isinstance(preds, Tensor) and isinstance(labels, Tensor) and loss is loss_fn:
        if loss_name(loss_fn) in CLASS_LOSSES:
            check_class_labels(loss_fn, preds, labels, argument)
        elif loss_name(loss_fn) in ELEMENT_LOSSES:
            check_element_labels(loss_fn, preds, labels, argument)
    broadcast.check_broadcast(loss, preds, labels, argument)


def check_one_output(loss_fn: LossFn, preds: Preds) -> None:
    """Raise if a loss of torch or this library, which takes one tensor, gets several outputs."""
    module = str(getattr(outputs.kind_of_loss(loss_fn), "__module__", ""))
    known = module.startswith(("torch.nn.", "torchkeras.losses."))  # a user's own may take them all
    if not known or not isinstance(preds, (tuple, list, Mapping)):
        return
    named = isinstance(preds, Mapping)
    found = ", ".join(map(repr, preds)) if named else f"{len(preds)} of them"
    first = next(iter(preds)) if named and preds else 0
    raise bad_value("loss_fn", received=f"{loss_name(loss_fn)} for a net with several outputs "
                    f"({found})", expected="a loss that takes them all",
                    fix="Write a function of preds and labels that looks at, for example, "
                    f"preds[{first!r}]; with Model, compile(loss=...) takes a loss for each "
                    "output, as a dict or a list.")


def check_class_labels(loss_fn: object, preds: Tensor, labels: Tensor, argument: str) -> None:
    """Raise unless class labels are int64, one for each prediction, and in range."""
    name, expected = loss_name(loss_fn), tuple(preds.shape[:1] + preds.shape[2:])
    if labels.is_floating_point():
        several = preds.dim() > 1 and preds.shape[1] > 1
        if labels.shape == preds.shape and "nll" not in name.lower() and several:
            return  # class probabilities
        if labels.shape == preds.shape and preds.dim() > 1 and preds.shape[1] == 1:
            raise bad_value("loss_fn",
                            received=f"{name} for a net with one output, of which the loss is "
                            "always 0",
                            expected="an output for each class",
                            fix="Use bce_with_logits, or widen the net to 2.")
        raise bad_value(argument,
                        received=f"labels of {labels.dtype} and shape {tuple(labels.shape)}",
                        expected=f"int64 class numbers for {name}", fix="Use labels.long().")
    if tuple(labels.shape) != expected:
        raise bad_value(argument, received=f"labels of shape {tuple(labels.shape)} for net output "
                        f"{tuple(preds.shape)}", expected=f"shape {expected} for {name}",
                        fix="Use labels.squeeze(1) for a column too many.")
    if labels.dtype != torch.int64:
        raise bad_value(argument, received=f"labels of {labels.dtype}",
                        expected=f"int64 for {name}", fix="Use labels.long().")
    classes = preds.shape[1] if preds.dim() > 1 else len(preds)
    used = labels[labels != loss_option(loss_fn, "ignore_index", -100)]
    wrong = used[(used < 0) | (used >= classes)]
    if len(wrong):
        raise bad_value(argument,
                        received=f"labels with the class {int(wrong[0])}, and the net has "
                        f"{classes} outputs",
                        expected=f"classes from 0 to {classes - 1}",
                        fix="Count classes from 0, or widen the net.")


def loss_option(loss_fn: object, name: str, default: object) -> Any:
    """Return an option of a loss: its attribute, or a keyword bound by ``partial``."""
    if isinstance(loss_fn, functools.partial):
        if name in loss_fn.keywords:
            return loss_fn.keywords[name]
        return loss_option(loss_fn.func, name, default)
    return getattr(loss_fn, name, default)


def check_element_labels(loss_fn: object, preds: Tensor, labels: Tensor, argument: str) -> None:
    """Raise unless labels are floating point and of the predictions' shape."""
    name = loss_name(loss_fn)
    # shapes () and (1,) hold one number each
    one_each = preds.numel() == labels.numel() == 1 and name not in BINARY_LOSSES
    if preds.shape != labels.shape and not one_each:
        raise broadcast.bad_shapes(argument, preds, labels, name)
    if not labels.is_floating_point():
        raise bad_value(argument, received=f"labels of {labels.dtype}",
                        expected=f"floating point for {name}", fix="Use labels.float().")
    of_probabilities = name in {"BCELoss", "binary_cross_entropy"}
    if of_probabilities and (count := int(preds.isnan().sum())):
        raise bad_value("loss_fn", received=f"{name} on net outputs of which {count} of "
                        f"{preds.numel()} are NaN", expected="probabilities",
                        fix="Look for NaN in the features and in the weights of the net.")
    if of_probabilities and not bool(((preds >= 0) & (preds <= 1)).all()):
        raise bad_value("loss_fn", received=f"{name} on net outputs outside 0..1",
                        expected="probabilities",
                        fix="End the net with nn.Sigmoid(), or use BCEWithLogitsLoss.")


def loss_name(loss_fn: object) -> str:
    """Return torch's name of a loss, looking through partials and wrappers."""
    while isinstance(loss_fn, functools.partial):
        loss_fn = loss_fn.func
    loss_fn = getattr(loss_fn, "module", loss_fn)
    if isinstance(loss_fn, nn.Module):
        return type(loss_fn).__name__
    return getattr(loss_fn, "__name__", "")
