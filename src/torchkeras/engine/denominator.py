"""What the loss of a batch is a mean over: samples, all their numbers, or the labels that are not left out.

This is the one place that says how much a batch counts: in the mean of an epoch, in gradient accumulation and in the
parts of several processes. For torch's losses and our own it is known; for a loss of one's own, or one that a net
brings, :mod:`torchkeras.engine.recognition` finds out on the first batch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor, nn

Kind = Literal["samples", "elements", "columns", "valid", "shifted", "sum", "other", "random", "unseen"]
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
        kind: "samples"; "elements", all numbers of the labels; "columns", the second dimension of the labels;
            "valid", the labels that are not ``ignored``; "shifted", those among them that have one before them, as in
            language models; "sum", nothing: it adds up; "other", something that is not known, or no mean at all;
            "random", not known, since the loss draws random numbers; "unseen", not known yet, since all labels so far
            are left out.
        ignored: the label that is left out; NaN for labels that are not there.
        weight: a weight for each class, by which the valid labels count.
        classes: whether labels are class numbers; floating-point ones then are shares of classes, all of which count.
    """

    kind: Kind
    ignored: float | None = None
    weight: Tensor | None = None
    classes: bool = False

    @property
    def known(self) -> bool:
        """Tell whether the batches of a window, and the parts of a batch, can be put together to one mean."""
        return self.kind not in ("other", "random")

    @property
    def by_labels(self) -> bool:
        """Tell whether labels tell how much a batch counts, where they are one tensor."""
        return self.kind in ("elements", "columns", "valid", "shifted")

    def count(self, labels: Any, samples: int) -> float | Tensor:
        """Return how much a batch counts.

        Args:
            labels: the labels of the batch, as the loss gets them.
            samples: how many samples the batch has.
        """
        if not isinstance(labels, Tensor) or not self.by_labels:
            return samples
        if self.kind == "elements":
            return labels.numel()
        if self.kind == "columns":
            return labels.shape[1]
        if self.classes and labels.is_floating_point():
            return labels.numel() // labels.shape[1] if labels.dim() > 1 else 1
        return number(valid(labels[:, 1:] if self.kind == "shifted" else labels, self.ignored, self.weight))


def valid(labels: Tensor, ignored: float | None, weight: Tensor | None) -> Tensor:
    """Return the number of labels that are not left out, each counted by the weight of its class."""
    used: Any = ~labels.isnan() if ignored is not None and ignored != ignored else labels != ignored
    return used.sum() if weight is None else (weight[(labels * used).long()] * used).sum()


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
        elif isinstance(loss_fn, nn.Module) and callable(getattr(loss_fn, "module", None)):
            loss_fn = loss_fn.module
        else:
            break
    found: dict[str, Any] = {name: named.get(name, getattr(loss_fn, name, default)) for name, default in
             (("reduction", "mean"), ("ignore_index", IGNORED), ("weight", None))}
    weight = found["weight"] if isinstance(found["weight"], Tensor) else None
    return LossOptions(loss_fn, found["reduction"], found["ignore_index"], weight)


def adds_up(loss_fn: Any) -> bool:
    """Tell whether a loss is known to add up its samples (``reduction="sum"``); then an epoch's loss does too."""
    return options_of(loss_fn).reduction == "sum"


def is_class_loss(loss_fn: Any) -> bool:
    """Tell whether a loss is torch's cross entropy or negative log likelihood."""
    loss = options_of(loss_fn).loss
    return isinstance(loss, CLASS_LOSSES) if isinstance(loss, nn.Module) else loss in CLASS_FUNCTIONS


def known_denominator(loss_fn: Any) -> Denominator | None:
    """Return what a loss is a mean over, where its kind tells; None for a loss of one's own.

    With class weights torch divides by the weights of the labels, with ``ignore_index`` (-100 unless set) by the labels
    that are not ignored (torch.nn.CrossEntropyLoss, "reduction"); its other losses are means over all their numbers.
    """
    options = options_of(loss_fn)
    if options.reduction == "sum":
        return Denominator("sum")
    if is_class_loss(loss_fn):
        return Denominator("valid", options.ignored, options.weight, classes=True)
    if options.reduction == "batchmean":
        return Denominator("samples")
    if isinstance(options.loss, ELEMENT_LOSSES) or options.loss in ELEMENT_FUNCTIONS or is_ours(options.loss):
        return Denominator("elements")
    return None


def is_ours(loss: Any) -> bool:
    """Tell whether a loss is one of this library's: its numbers are as many as its labels, or a share of them."""
    return type(loss).__module__.startswith("torchkeras.losses.") and hasattr(loss, "reduction")


class LossFacts:
    """What is known of a model's loss; found out once, and shared by the steps of all passes.

    Attributes:
        found: what the loss is a mean over; None until it is looked at.
        subject: the loss, or the net that brings one, of which this was found.
    """

    def __init__(self) -> None:
        self.found: Denominator | None = None
        self.subject: Any = None

    def of(self, subject: Any) -> Denominator | None:
        """Return what was found out about a loss or net; None if it is another one."""
        return self.found if self.subject is subject else None

    def keep(self, subject: Any, found: Denominator) -> None:
        """Remember what was found out."""
        self.subject, self.found = subject, found
