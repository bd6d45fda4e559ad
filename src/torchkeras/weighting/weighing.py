"""Weigh samples by sample and class weights, and combine the losses of several outputs."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.signature import takes_third
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Count, Labels, LossFn, Preds
from torchkeras.data.outputs import logits_of
from torchkeras.weighting.denominator import Denominator, known_denominator, options_of


def weighted_loss(loss_fn: Any, preds: Preds, labels: Labels, weights: Tensor) -> Tensor:
    """Return the sum of weight x loss over the samples, divided as without weights.

    Weights of 1 change nothing, also with ignored labels or class weights in the loss. Where all
    elements of a sample count alike, this is the sum over the samples of weight x mean loss,
    divided by their number, as in Keras.
    """
    penalty = getattr(loss_fn, "penalty", None)  # weighted by the mean weight of the samples
    terms = terms_of(loss_fn)
    if terms is not None:
        total: Tensor = terms.weighted(preds, labels, weights)
    else:
        inner = loss_fn if penalty is None else loss_fn.module
        total = weighted_term(inner, preds, labels, weights)
    return total if penalty is None else total + penalty() * weights.to(total).mean()


def weighted_term(loss_fn: LossFn, preds: Preds, labels: Labels, weights: Tensor) -> Tensor:
    """Return the weighted loss of one output."""
    losses = per_sample(loss_fn)(preds, labels)
    weights = weights.reshape(-1).to(losses)
    if len(losses) != len(weights):
        raise bad_value("sample_weight",
                        received=f"{len(weights)} weights for {len(losses)} samples",
                        expected="one weight a sample")
    total: Tensor = (losses * weights.reshape(-1, *[1] * (losses.dim() - 1))).sum()
    known = known_denominator(loss_fn) or Denominator("elements")
    if options_of(loss_fn).reduction == "sum":
        return total
    of_elements = known.kind == "elements"
    return total / (losses.numel() if of_elements else known.count(labels, len(losses)))


def weighted(loss_fn: LossFn, preds: Preds, labels: Labels, weights: Tensor | None) -> Any:
    """Return a loss, weighted by its third argument where it takes one."""
    if weights is None:
        return loss_fn(preds, labels)
    if takes_third(loss_fn):
        third: Any = loss_fn
        return third(preds, labels, weights)
    return weighted_loss(loss_fn, preds, labels, weights)


def terms_of(loss_fn: object) -> Any:
    """Return the sum of several outputs' losses in a loss; None for any other loss."""
    found = options_of(loss_fn).loss
    return found if hasattr(found, "term_counts") else None


class Terms(NamedTuple):
    """Counts of the losses of several outputs.

    Each is a mean over its own samples or labels, so their sum is not a mean; the sum of their
    means over an epoch is what is reported.
    """

    samples: int  # in the batch
    counts: list[Any]  # what each loss is a mean over
    shares: list[float]  # the weight of each loss in the sum
    losses: list[Tensor]  # of the last batch
    scales: list[Any] | None  # factors of each loss, in a microbatch of an update


def per_sample(loss_fn: Any) -> Any:
    """Return the same loss without its reduction."""
    inner = options_of(loss_fn).loss
    if isinstance(loss_fn, nn.Module) and inner is not loss_fn and hasattr(inner, "reduction"):
        # the parameters of such a loss are synchronised across ranks by its wrapper
        return functools.partial(unreduced, loss_fn, inner)
    if isinstance(loss_fn, nn.Module) and hasattr(loss_fn, "reduction"):
        single: Any = copy.copy(loss_fn)
        single.reduction = "none"
        return single
    if not isinstance(loss_fn, nn.Module) and "reduction" in inspect.signature(loss_fn).parameters:
        return functools.partial(loss_fn, reduction="none")
    raise bad_type("loss_fn", received=type(loss_fn).__name__,
                   expected="a loss with a reduction argument, since sample or class weights were "
                   "given",
                   fix="Use a torch loss, or multiply by the weights in your own StepRunner.loss.")


def unreduced(wrapper: LossFn, inner: Any, preds: Preds, labels: Labels) -> Tensor:
    """Call a wrapped loss through its wrapper, without its reduction."""
    before, inner.reduction = inner.reduction, "none"
    try:
        losses: Tensor = wrapper(preds, labels)
    finally:
        inner.reduction = before
    return losses


def class_weights_of(table: Mapping[int, float], preds: Tensor, labels: Tensor,
                     weights: Tensor | None) -> Tensor:
    """Return the weight of each sample's class, 1 if not in the table, times its own weight."""
    one_hot = labels.dim() == 2 and labels.shape[1] > 1 and (
        labels.is_floating_point() and labels.shape == preds.shape)
    if not one_hot and labels.numel() != len(labels):
        raise bad_value("class_weight", received=f"with labels of shape {tuple(labels.shape)}",
                        expected="one class a sample, as a number or one-hot",
                        fix="For labels with several classes a sample, weigh in your own loss.")
    classes = labels.argmax(dim=1) if one_hot else labels.reshape(-1).long()
    column = class_column(tuple(table.items()), torch.get_default_dtype(), labels.device)
    known = classes.clamp(0, len(column) - 1)
    chosen = torch.where(known == classes, column[known], torch.ones_like(column[known]))
    return chosen if weights is None else chosen * weights.reshape(-1).to(chosen)


@functools.lru_cache(maxsize=8)
def class_column(table: tuple[tuple[int, float], ...], dtype: torch.dtype,
                 device: torch.device) -> Tensor:
    """Return the weights of classes as a tensor; built once, for it costs a wait for the device."""
    column = torch.ones(max([0, *(index for index, _ in table)]) + 1, dtype=dtype)
    for index, weight in table:
        column[index] = weight
    return column.to(device)


def own_loss(output: object) -> Tensor | None:
    """Return the loss in a net's output, under the name ``loss``; None without one."""
    return output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)


def detach_predictions(output: Preds) -> Preds:
    """Return the part of a net's output that metrics see, detached: its ``logits`` if any."""
    if isinstance(output, Tensor):
        return output.detach()
    return map_tree(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf,
                    logits_of(output))


def none_counts(count: Count) -> bool:
    """Tell whether a batch counts nothing: all labels are ignored, or it is empty."""
    counts = count.counts if isinstance(count, Terms) else [count]
    return all(isinstance(one, (int, float)) and not one for one in counts)


def zero_of(preds: Preds, loss_fn: object, loss: Tensor) -> Tensor:
    """Return a zero loss with zero gradients for the predictions and the loss's parameters."""
    learned = loss_fn.parameters() if isinstance(loss_fn, nn.Module) else ()
    found: list[Tensor] = [one for one in learned if one.requires_grad]

    def collect(leaf: object) -> None:
        if isinstance(leaf, Tensor) and leaf.requires_grad:
            found.append(leaf)

    map_tree(collect, preds)
    if not found:
        return loss
    return sum((one.float().sum() * 0 for one in found), start=torch.zeros_like(loss))


def totals_of(window: list[Any]) -> list[Any]:
    """Return the total samples of an accumulation window, and the total count of each loss."""
    terms = [one for one in window if isinstance(one, Terms)]
    return [sum(one.samples for one in terms),
            *map(sum, zip(*(one.counts for one in terms), strict=True))]


def scale_terms(step: object, batch: Terms | None, totals: list[Any] | None) -> None:
    """Scale each of several losses by its share of an update over the batch's share.

    Dividing their sum by the batch's share, as for every loss, then gives each its own share.
    Without a batch, the scales are reset.
    """
    terms = terms_of(getattr(step, "loss_fn", None))
    if terms is None:
        return
    if batch is None or totals is None or not batch.samples:
        terms.scales = None
        return
    share = totals[0] / batch.samples
    terms.scales = [count / (total + (total == 0)) * share
                    for count, total in zip(batch.counts, totals[1:], strict=True)]
