"""Tell what the loss of a batch is a mean over: samples, elements, or labels that count.

Nothing else says how much a batch counts: in the mean of an epoch, in gradient accumulation and
across ranks. For losses of torch and of this library it is known; for a user's loss, or one that a
net returns, :mod:`torchkeras.weighting.recognition` finds it out on the first batch.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkeras.core.signature import unwrapped
from torchkeras.core.types import Batch, Labels, Preds, Stage
from torchkeras.losses import PenalizedLoss

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from accelerate import Accelerator


Kind = Literal["samples", "elements", "valid", "shifted", "sum", "other", "random", "unseen"]
CLASS_LOSSES = (nn.CrossEntropyLoss, nn.NLLLoss)
CLASS_FUNCTIONS = (F.cross_entropy, F.nll_loss)
ELEMENT_LOSSES = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss,
                  nn.BCEWithLogitsLoss, nn.KLDivLoss, nn.PoissonNLLLoss, nn.SoftMarginLoss,
                  nn.HingeEmbeddingLoss, nn.MultiMarginLoss, nn.MultiLabelMarginLoss,
                  nn.MultiLabelSoftMarginLoss)
ELEMENT_FUNCTIONS = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.binary_cross_entropy,
                     F.binary_cross_entropy_with_logits, F.kl_div, F.poisson_nll_loss,
                     F.soft_margin_loss, F.hinge_embedding_loss, F.multi_margin_loss,
                     F.multilabel_margin_loss, F.multilabel_soft_margin_loss)
IGNORED = -100  # torch's default for ignore_index


@dataclass(frozen=True)
class Denominator:
    """What a loss is a mean over.

    Attributes:
        kind: "samples"; "elements", all elements of the labels; "valid", the labels that are not
            ``ignored``; "shifted", the valid labels from the second on, as in language models;
            "sum", a sum; "other", unknown or no mean at all; "random", unknown, since the loss
            draws random numbers; "unseen", not known yet, since nothing has counted so far.
        dims: for "elements", the dimensions of the labels that it is a mean over; None for all.
        ignored: the labels that are left out; NaN stands for missing labels.
        weight: a weight for each class, with which the valid labels count.
        classes: whether labels are class numbers; floating-point ones are class probabilities, all
            of which count.
    """

    kind: Kind
    dims: tuple[int, ...] | None = None
    ignored: tuple[float, ...] = ()
    weight: Tensor | None = None
    classes: bool = False

    @functools.cached_property
    def by_labels(self) -> bool:
        """Tell whether the count depends on the labels, where they are one tensor."""
        return self.kind in ("elements", "valid", "shifted")

    def count(self, labels: Labels, samples: int) -> float | Tensor:
        """Return how much a batch counts.

        Args:
            labels: the labels of the batch, as the loss gets them.
            samples: how many samples the batch has.
        """
        if not isinstance(labels, Tensor) or not self.by_labels:
            return samples
        if self.kind == "elements":
            if self.dims is None:
                return labels.numel()
            return math.prod(labels.shape[dim] for dim in self.dims)
        if self.classes and labels.is_floating_point():
            return labels.numel() // labels.shape[1] if labels.dim() > 1 else 1
        return read_count(count_valid(labels[:, 1:] if self.kind == "shifted" else labels,
                                      self.ignored, self.weight))


def count_valid(labels: Tensor, ignored: tuple[float, ...], weight: Tensor | None) -> Tensor:
    """Count the labels that are not ignored, each with the weight of its class."""
    used = valid_mask(labels, ignored)
    return used.sum() if weight is None else (weight[(labels * used).long()] * used).sum()


def valid_mask(labels: Tensor, ignored: tuple[float, ...]) -> Tensor:
    """Return a mask of the labels that are not ignored."""
    used = torch.ones_like(labels, dtype=torch.bool) if len(ignored) != 1 else None
    for mark in ignored:
        here: Any = ~labels.isnan() if math.isnan(mark) else labels != mark
        used = here if used is None else used & here
    return cast(Tensor, used)


def read_count(count: Tensor) -> float | Tensor:
    """Return a count as a number if it is on the CPU; on an accelerator it stays a tensor."""
    if count.is_cpu:
        return count.item()
    return count if count.device.type == "mps" else count.double()  # MPS has no float64


@dataclass(frozen=True)
class LossOptions:
    """A loss without its wrappers, and the options that say what it is a mean over."""

    loss: Any
    reduction: str
    ignored: int
    weight: Tensor | None


def options_of(loss_fn: object) -> LossOptions:
    """Return the loss inside of penalties, wrappers and ``functools.partial``, and its options."""
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
    options = (("reduction", "mean"), ("ignore_index", IGNORED), ("weight", None))
    found: dict[str, Any] = {name: named.get(name, getattr(loss_fn, name, default))
                             for name, default in options}
    weight = found["weight"] if isinstance(found["weight"], Tensor) else None
    return LossOptions(loss_fn, found["reduction"], found["ignore_index"], weight)


def adds_up(loss_fn: object) -> bool:
    """Tell whether a loss is known to be a sum over samples (``reduction="sum"``)."""
    found = known_denominator(loss_fn)
    return found is not None and found.kind == "sum"


def is_class_loss(loss_fn: object) -> bool:
    """Tell whether a loss is torch's cross entropy or negative log likelihood."""
    return is_one_of(options_of(loss_fn).loss, CLASS_LOSSES, CLASS_FUNCTIONS)


def is_one_of(loss: object, kinds: tuple[type[nn.Module], ...],
              functions: tuple[object, ...]) -> bool:
    """Tell whether a loss is one of torch's; a subclass with its own forward is not."""
    if not isinstance(loss, nn.Module):
        return loss in functions
    return any(isinstance(loss, kind) and type(loss).forward is kind.forward for kind in kinds)


def known_denominator(loss_fn: object) -> Denominator | None:
    """Return what a loss of torch or this library is a mean over; None for any other.

    With class weights torch divides by the weights of the labels, and with ``ignore_index`` (-100
    by default) by the number of labels that are not ignored (torch.nn.CrossEntropyLoss,
    "reduction"); its other losses are means over all elements.
    """
    options, of_classes = options_of(loss_fn), is_class_loss(loss_fn)
    if not of_classes and not is_ours(options.loss) and (
            not is_one_of(options.loss, ELEMENT_LOSSES, ELEMENT_FUNCTIONS)):
        return None
    if options.reduction == "sum":
        return Denominator("sum")
    if of_classes:
        return Denominator("valid", ignored=(options.ignored,), weight=options.weight, classes=True)
    if is_ours(options.loss) and getattr(options.loss, "ignore_index", None) is not None:
        return Denominator("valid", ignored=(options.ignored,))
    return Denominator("samples" if options.reduction == "batchmean" else "elements")


def is_ours(loss: object) -> bool:
    """Tell whether a loss is one of this library's that has a reduction."""
    return type(loss).__module__.startswith("torchkeras.losses.") and hasattr(loss, "reduction")


class LossFacts:
    """What was found about a loss of unknown kind, shared by all passes of one kind in a run.

    Attributes:
        found: what the loss is a mean over; None if it was not examined, or without a result.
        paired: whether it is a function of predictions and labels, so that later batches can be
            compared.
        revised: what a later batch showed on this rank, before the others know of it.
        single: predictions and labels of the last batch of one sample that was examined.
    """

    def __init__(self) -> None:
        self.found: Denominator | None = None
        self.revised: Denominator | None = None
        self.paired = False
        self.single: tuple[Tensor, Tensor] | None = None


class LossStep(Protocol):
    """The parts of a ``StepRunner`` with which its loss is computed and examined."""

    net: nn.Module
    loss_fn: Any  # a LossFn, or None where the net returns its own loss
    metrics_dict: dict[str, Any]
    optimizer: Any
    lr_scheduler: Any
    accelerator: Accelerator
    process_strategy: Any  # where it is computed: engine.strategy
    config: Any  # what was asked: engine.config
    stage: Stage
    own: frozenset[str]  # names of the methods that a user has overridden
    calls_itself: bool  # whether a user has overridden __call__
    facts: LossFacts
    known: Denominator | None
    notes: list[str]
    waiting: list[tuple[Any, Any]] | None

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of mixed precision."""

    def forward(self, batch: Batch, /) -> tuple[Any, ...]:
        """Return predictions and labels, and sample weights if there are any."""

    def loss(self, preds: Preds, labels: Labels, weights: Tensor | None = None, /) -> Any:
        """Return the loss, or ``(loss, parts)``."""

    def forward_and_loss(self, batch: Batch, /) -> tuple[Any, Any, Tensor]:
        """Return predictions, labels and loss."""

    def count(self, batch: Batch, /) -> float | Tensor:
        """Return what the loss of a batch is a mean over."""

    def update_metrics(self, preds: Preds, labels: Labels, /) -> None:
        """Update each metric with a batch."""
