"""How much each sample counts: sample weights and class weights; the losses of several outputs."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.tree import map_tree
from torchkeras.data.outputs import logits_of
from torchkeras.weighting.denominator import Denominator, known_denominator, options_of


def weighted_loss(loss_fn: Any, preds: Any, labels: Any, weights: Tensor) -> Tensor:
    """Return the sum of weight x loss over the samples, divided by what the loss is a mean over without weights.

    So weights of 1 change nothing: not beside labels that are left out, nor beside class weights in the loss. Where
    every number of a sample counts alike, this is the sum over the samples of weight x mean loss, divided by their
    number, as in Keras.
    """
    penalty = getattr(loss_fn, "penalty", None)  # it weighs what the samples do on average
    terms = terms_of(loss_fn)
    total: Tensor = weighted_term(loss_fn if penalty is None else loss_fn.module, preds, labels, weights) if (
        terms is None) else terms.weighted(preds, labels, weights)
    return total if penalty is None else total + penalty() * weights.to(total).mean()


def weighted_term(loss_fn: Any, preds: Any, labels: Any, weights: Tensor) -> Tensor:
    """Return the weighted loss of one output."""
    losses = per_sample(loss_fn)(preds, labels)
    weights = weights.reshape(-1).to(losses)
    if len(losses) != len(weights):
        raise bad_value("sample_weight", received=f"{len(weights)} weights for {len(losses)} samples",
                        expected="one weight a sample")
    total = (losses * weights.reshape(-1, *[1] * (losses.dim() - 1))).sum()
    known = known_denominator(loss_fn) or Denominator("elements")
    if options_of(loss_fn).reduction == "sum":
        return total
    return total / (losses.numel() if known.kind == "elements" else known.count(labels, len(losses)))


def terms_of(loss_fn: Any) -> Any:
    """Return the losses of several outputs that a loss adds up, each a mean of its own; None for any other loss."""
    found = options_of(loss_fn).loss
    return found if hasattr(found, "term_counts") else None


class Terms(NamedTuple):
    """How the losses of several outputs count.

    Each is a mean over its own samples or labels, so their sum is none; the sum of their means over an epoch is.
    """

    samples: int  # of the batch
    counts: list[Any]  # what each loss is a mean over
    shares: list[float]  # how much each loss counts in the sum
    losses: list[Tensor]  # of the batch just done
    scales: list[Any] | None  # by which each was multiplied, as a part of an update


def per_sample(loss_fn: Any) -> Any:
    """Return the same loss without its reduction: one value, or several, a sample."""
    inner = options_of(loss_fn).loss
    if isinstance(loss_fn, nn.Module) and inner is not loss_fn and hasattr(inner, "reduction"):
        return functools.partial(unreduced, loss_fn, inner)  # a loss that learns in step with those of other processes
    if isinstance(loss_fn, nn.Module) and hasattr(loss_fn, "reduction"):
        single: Any = copy.copy(loss_fn)
        single.reduction = "none"
        return single
    if not isinstance(loss_fn, nn.Module) and "reduction" in inspect.signature(loss_fn).parameters:
        return functools.partial(loss_fn, reduction="none")
    raise bad_type("loss_fn", received=type(loss_fn).__name__,
                   expected="a loss with a reduction argument, since sample or class weights were given",
                   fix="Use a torch loss, or multiply by the weights in your own StepRunner.loss.")


def unreduced(wrapper: Any, inner: Any, preds: Any, labels: Any) -> Tensor:
    """Call a wrapped loss, which only its wrapper may call, without its reduction."""
    before, inner.reduction = inner.reduction, "none"
    try:
        losses: Tensor = wrapper(preds, labels)
    finally:
        inner.reduction = before
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


def none_counts(count: Any) -> bool:
    """Tell whether a batch counts nothing at all: all its labels are left out, or it has no sample."""
    counts = count.counts if isinstance(count, Terms) else [count]
    return all(isinstance(one, (int, float)) and not one for one in counts)


def zero_of(preds: Any, loss_fn: Any, loss: Tensor) -> Tensor:
    """Return a loss of zero whose gradient is zero in all that predictions depend on, and in what the loss learns."""
    learned = loss_fn.parameters() if isinstance(loss_fn, nn.Module) else ()
    found: list[Tensor] = [one for one in learned if one.requires_grad]
    map_tree(lambda leaf: found.append(leaf) if isinstance(leaf, Tensor) and leaf.requires_grad else None, preds)
    return sum((one.float().sum() * 0 for one in found), start=torch.zeros_like(loss)) if found else loss


def totals_of(window: list[Any]) -> list[Any]:
    """Return the samples of the batches of a window, and what each of their losses is a mean over, added up."""
    terms = [one for one in window if isinstance(one, Terms)]
    return [sum(one.samples for one in terms), *map(sum, zip(*(one.counts for one in terms), strict=True))]


def scale_terms(step: Any, batch: Terms | None, totals: list[Any] | None) -> None:
    """Multiply each loss of several by its share of an update, over the share of samples that the batch has in it.

    Dividing their sum by the latter, as every loss is, gives each its own share. Without a batch, nothing is scaled.
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
