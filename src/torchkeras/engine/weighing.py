"""How much each sample counts: sample weights, class weights, and what a loss is a mean over."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkeras.data import batch as batches
from torchkeras.data.tree import map_tree
from torchkeras.engine.checks import bad_type, bad_value
from torchkeras.outputs import logits_of


def mean_over(loss_fn: Any, batch: Any) -> float | Tensor:
    """The denominator of a batch's mean loss: samples, or what cross entropy really divides by.

    With class weights torch divides by the weights of the labels, with ``ignore_index`` (-100 unless set) by the labels
    that are not ignored (torch.nn.CrossEntropyLoss, "reduction").
    """
    if not counts_labels(loss_fn):
        return batches.size(batch)
    _, labels, weights = batches.split(batch)
    if weights is not None or not isinstance(labels, Tensor) or labels.is_floating_point():
        return batches.size(batch)
    used = labels != getattr(loss_fn, "ignore_index", -100)
    weight = getattr(loss_fn, "weight", None)
    count = used.sum() if weight is None else (weight[labels * used] * used).sum()
    if count.is_cpu:
        return count.item()  # nothing is waited for there
    return count if count.device.type == "mps" else count.double()  # MPS has no float64


def counts_labels(loss_fn: Any) -> bool:
    """Whether a loss is a mean over labels, some of which it may leave out or weigh."""
    if isinstance(loss_fn, nn.Module):
        return isinstance(getattr(loss_fn, "module", loss_fn), (nn.CrossEntropyLoss, nn.NLLLoss))
    return loss_fn in (F.cross_entropy, F.nll_loss)


def weighted_loss(loss_fn: Any, preds: Any, labels: Any, weights: Tensor) -> Tensor:
    """Sum of weight x loss over the samples, divided by their number, as Keras does.

    Each sample's loss is the mean over its own values, or their sum where the loss's own reduction adds them up, so
    the result is the same at any batch split, and weights of 1 change nothing.
    """
    reduction = getattr(loss_fn, "reduction", "mean")
    losses = per_sample(loss_fn)(preds, labels)
    losses = losses.reshape(len(losses), -1)
    losses = losses.mean(dim=1) if reduction == "mean" else losses.sum(dim=1)
    weights = weights.reshape(-1).to(losses)
    if len(losses) != len(weights):
        raise bad_value("sample_weight", received=f"{len(weights)} weights for {len(losses)} samples",
                        expected="one weight a sample")
    return (losses * weights).sum() if reduction == "sum" else (losses * weights).mean()


def per_sample(loss_fn: Any) -> Any:
    """The same loss, one value a sample."""
    if isinstance(getattr(loss_fn, "module", None), nn.Module) and hasattr(loss_fn.module, "reduction"):
        return functools.partial(unreduced, loss_fn)  # a loss that learns in step with those of other processes
    if isinstance(loss_fn, nn.Module) and hasattr(loss_fn, "reduction"):
        single: Any = copy.copy(loss_fn)
        single.reduction = "none"
        return single
    if not isinstance(loss_fn, nn.Module) and "reduction" in inspect.signature(loss_fn).parameters:
        return functools.partial(loss_fn, reduction="none")
    raise bad_type("loss_fn", received=type(loss_fn).__name__,
                   expected="a loss with a reduction argument, since sample or class weights were given",
                   fix="Use a torch loss, or multiply by the weights in your own StepRunner.loss.")


def unreduced(replica: Any, preds: Any, labels: Any) -> Tensor:
    """Call a wrapped loss, which only its wrapper may call, without its reduction."""
    before, replica.module.reduction = replica.module.reduction, "none"
    try:
        losses: Tensor = replica(preds, labels)
    finally:
        replica.module.reduction = before
    return losses


def by_class(table: Mapping[int, float], preds: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """One weight a sample from its class; a class that is not in the table weighs 1."""
    one_hot = labels.dim() == 2 and labels.shape[1] > 1 and labels.is_floating_point() and labels.shape == preds.shape
    if not one_hot and labels.numel() != len(labels):
        raise bad_value("class_weight", received=f"with labels of shape {tuple(labels.shape)}",
                        expected="one class a sample, as a number or one-hot",
                        fix="For labels with several classes a sample, weigh in your own loss.")
    classes = labels.argmax(dim=1) if one_hot else labels.reshape(-1).long()
    column = torch.ones(max(max(table), 0) + 1, dtype=torch.get_default_dtype(), device=labels.device)
    for index, weight in table.items():
        column[index] = weight
    known = classes.clamp(0, len(column) - 1)
    chosen = torch.where(known == classes, column[known], torch.ones_like(column[known]))
    return chosen if weights is None else chosen * weights.reshape(-1).to(chosen)


def own_loss(output: Any) -> Tensor | None:
    """The loss that a net's output brings along, under the name ``loss``."""
    return output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)


def scores(output: Any) -> Any:
    """What metrics see of a net's output: its ``logits`` when it has such, without the graph behind it."""
    if isinstance(output, Tensor):
        return output.detach()
    return map_tree(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, logits_of(output))
