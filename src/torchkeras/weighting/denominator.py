"""What the loss of a batch is a mean over: samples, all their numbers, or the labels that are not left out.

This is the one place that says how much a batch counts: in the mean of an epoch, in gradient accumulation and in the
parts of several processes. For torch's losses and our own it is known; for a loss of one's own, or one that a net
brings, :mod:`torchkeras.weighting.recognition` finds out on the first batch.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkeras.data.signature import unwrapped
from torchkeras.losses import PenalizedLoss

Kind = Literal["samples", "elements", "valid", "shifted", "sum", "other", "random", "unseen"]
CLASS_LOSSES = (nn.CrossEntropyLoss, nn.NLLLoss)
CLASS_FUNCTIONS = (F.cross_entropy, F.nll_loss)
ELEMENT_LOSSES = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss,
                  nn.KLDivLoss, nn.PoissonNLLLoss, nn.SoftMarginLoss, nn.HingeEmbeddingLoss, nn.MultiMarginLoss,
                  nn.MultiLabelMarginLoss, nn.MultiLabelSoftMarginLoss)
ELEMENT_FUNCTIONS = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy,
                     F.binary_cross_entropy_with_logits, F.kl_div, F.poisson_nll_loss, F.soft_margin_loss,
                     F.hinge_embedding_loss, F.multi_margin_loss, F.multilabel_margin_loss,
                     F.multilabel_soft_margin_loss)
IGNORED = -100  # torch's default for ignore_index


@dataclass(frozen=True)
class Denominator:
    """What a loss is a mean over.

    Attributes:
        kind: "samples"; "elements", all numbers of the labels; "valid", the labels that are not ``ignored``; "shifted",
            those among them that have one before them, as in language models; "sum", nothing: it adds up; "other",
            something that is not known, or no mean at all; "random", not known, since the loss draws random numbers;
            "unseen", not known yet, since nothing counted so far.
        dims: of "elements", the dimensions of the labels that it is a mean over; None for all of them.
        ignored: the labels that are left out; NaN for labels that are not there.
        weight: a weight for each class, by which the valid labels count.
        classes: whether labels are class numbers; floating-point ones then are shares of classes, all of which count.
    """

    kind: Kind
    dims: tuple[int, ...] | None = None
    ignored: tuple[float, ...] = ()
    weight: Tensor | None = None
    classes: bool = False

    @property
    def by_labels(self) -> bool:
        """Tell whether labels tell how much a batch counts, where they are one tensor."""
        return self.kind in ("elements", "valid", "shifted")

    def count(self, labels: Any, samples: int) -> float | Tensor:
        """Return how much a batch counts.

        Args:
            labels: the labels of the batch, as the loss gets them.
            samples: how many samples the batch has.
        """
        if not isinstance(labels, Tensor) or not self.by_labels:
            return samples
        if self.kind == "elements":
            return labels.numel() if self.dims is None else math.prod(labels.shape[dim] for dim in self.dims)
        if self.classes and labels.is_floating_point():
            return labels.numel() // labels.shape[1] if labels.dim() > 1 else 1
        return number(valid(labels[:, 1:] if self.kind == "shifted" else labels, self.ignored, self.weight))


def valid(labels: Tensor, ignored: tuple[float, ...], weight: Tensor | None) -> Tensor:
    """Return the number of labels that are not left out, each counted by the weight of its class."""
    used = used_of(labels, ignored)
    return used.sum() if weight is None else (weight[(labels * used).long()] * used).sum()


def used_of(labels: Tensor, ignored: tuple[float, ...]) -> Tensor:
    """Return which labels are not left out."""
    used = torch.ones_like(labels, dtype=torch.bool) if len(ignored) != 1 else None
    for mark in ignored:
        here: Any = ~labels.isnan() if math.isnan(mark) else labels != mark
        used = here if used is None else used & here
    return cast(Tensor, used)


def number(count: Tensor) -> float | Tensor:
    """Return a count as a number where reading it costs nothing; on an accelerator it stays there."""
    if count.is_cpu:
        return count.item()
    return count if count.device.type == "mps" else count.double()  # MPS has no float64


@dataclass(frozen=True)
class LossOptions:
    """A loss without what is around it, and the options that say what it is a mean over."""

    loss: Any
    reduction: str
    ignored: int
    weight: Tensor | None


def options_of(loss_fn: Any) -> LossOptions:
    """Return the loss inside of penalties, wrappers and ``functools.partial``, with its options."""
    named: dict[str, Any] = {}
    while True:
        if isinstance(loss_fn, functools.partial):
            named = {**loss_fn.keywords, **named}
            loss_fn = loss_fn.func
        elif isinstance(loss_fn, PenalizedLoss):
            loss_fn = loss_fn.module
        elif isinstance(loss_fn, nn.Module) and unwrapped(loss_fn) is not loss_fn:
            loss_fn = unwrapped(loss_fn)
        else:
            break
    found: dict[str, Any] = {name: named.get(name, getattr(loss_fn, name, default)) for name, default in
             (("reduction", "mean"), ("ignore_index", IGNORED), ("weight", None))}
    weight = found["weight"] if isinstance(found["weight"], Tensor) else None
    return LossOptions(loss_fn, found["reduction"], found["ignore_index"], weight)


def adds_up(loss_fn: Any) -> bool:
    """Tell whether a loss is known to add up its samples (``reduction="sum"``); then an epoch's loss does too."""
    found = known_denominator(loss_fn)
    return found is not None and found.kind == "sum"


def is_class_loss(loss_fn: Any) -> bool:
    """Tell whether a loss is torch's cross entropy or negative log likelihood."""
    return is_one_of(options_of(loss_fn).loss, CLASS_LOSSES, CLASS_FUNCTIONS)


def is_one_of(loss: Any, kinds: tuple[Any, ...], functions: tuple[Any, ...]) -> bool:
    """Tell whether a loss is one of torch's; a subclass with a forward of its own is another loss."""
    if not isinstance(loss, nn.Module):
        return loss in functions
    return any(isinstance(loss, kind) and type(loss).forward is kind.forward for kind in kinds)


def known_denominator(loss_fn: Any) -> Denominator | None:
    """Return what a loss is a mean over, where its kind tells; None for a loss of one's own.

    With class weights torch divides by the weights of the labels, with ``ignore_index`` (-100 unless set) by the labels
    that are not ignored (torch.nn.CrossEntropyLoss, "reduction"); its other losses are means over all their numbers.
    """
    options, of_classes = options_of(loss_fn), is_class_loss(loss_fn)
    if not of_classes and not is_ours(options.loss) and not is_one_of(options.loss, ELEMENT_LOSSES, ELEMENT_FUNCTIONS):
        return None
    if options.reduction == "sum":
        return Denominator("sum")
    if of_classes:
        return Denominator("valid", ignored=(options.ignored,), weight=options.weight, classes=True)
    return Denominator("samples" if options.reduction == "batchmean" else "elements")


def is_ours(loss: Any) -> bool:
    """Tell whether a loss is one of this library's: its numbers are as many as its labels, or a share of them."""
    return type(loss).__module__.startswith("torchkeras.losses.") and hasattr(loss, "reduction")


class LossFacts:
    """What was found out of a loss of unknown make; shared by the passes of one kind in a run.

    Attributes:
        found: what the loss is a mean over; None where nobody has looked, or could tell.
        paired: whether it is a function of predictions and labels that later batches can be compared by.
        revised: what a later batch showed this process, before the others know of it.
        single: predictions and labels of the last sample that came alone and was looked at.
    """

    def __init__(self) -> None:
        self.found: Denominator | None = None
        self.revised: Denominator | None = None
        self.paired = False
        self.single: tuple[Tensor, Tensor] | None = None
