"""Losses for rare positives and for wrong labels, where plain cross entropy learns badly."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from torchkeras.core.errors import bad_type, bad_value, whole_number
from torchkeras.losses.base import Loss, check_tensors, labels_like, shape_error

FLOOR = 1e-4  # replaces the 0 of a one-hot label in SCELoss: the logarithm of 0 is infinite


class FocalLoss(Loss):
    """Learn from rare or hard samples: binary cross entropy in which easy samples count little.

    With p the probability given to the true answer: -alpha_t x (1 - p)^gamma x log p, where alpha_t
    is ``alpha`` for positives and ``1 - alpha`` for negatives. Lin, Goyal, Girshick, He and Dollar,
    "Focal loss for dense object detection", ICCV 2017, equation 5.

    Args:
        gamma: how little easy samples count; 0 leaves them as they are.
        alpha: the share of the positives in the loss, 0 to 1; None weighs nothing.
        from_logits: True when the net outputs logits, False when it outputs probabilities.
        reduction: "mean" over all predictions, "sum", or "none".

    Raises:
        ValueError: ``gamma`` is negative, ``alpha`` is not within 0 to 1, the reduction is unknown,
            or predictions and labels differ in shape.

    Example:
        >>> easy, hard = torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])
        >>> loss_fn = FocalLoss()
        >>> [round(loss_fn(preds, torch.tensor([1, 0])).item(), 4) for preds in (easy, hard)]
        [0.0005, 0.0866]
    """

    task = "binary"

    def __init__(self, gamma: float = 2.0, alpha: float | None = 0.75, from_logits: bool = False,
                 reduction: str = "mean") -> None:
        super().__init__(reduction)
        check_number("gamma", gamma, "a number of at least 0", most=math.inf)
        if alpha is not None:
            check_number("alpha", alpha, "a number from 0 to 1, or None", most=1.0)
        self.gamma, self.alpha, self.from_logits = float(gamma), alpha, bool(from_logits)

    def values(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each prediction."""
        truth = labels_like(preds, labels)
        if self.from_logits:
            entropy = F.binary_cross_entropy_with_logits(preds, truth, reduction="none")
        else:
            entropy = F.binary_cross_entropy(preds, truth, reduction="none")
        yes = preds.sigmoid() if self.from_logits else preds
        missing = yes + truth - 2 * yes * truth  # 1 - p
        # The slope of a power below 1 is infinite at 0.
        losses = missing.clamp(min=torch.finfo(missing.dtype).tiny) ** self.gamma * entropy
        if self.alpha is None:
            return losses
        return losses * (self.alpha * truth + (1 - self.alpha) * (1 - truth))

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"gamma={self.gamma}, alpha={self.alpha}, from_logits={self.from_logits}"


class SCELoss(Loss):
    """Learn from partly wrong labels: cross entropy plus its reverse, which limits their loss.

    a x CE + b x RCE, with RCE = -sum p x log q over the classes, p the softmax of the predictions
    and q the one-hot label whose zeros count as 1e-4. Wang, Ma, Chen, Luo, Yi and Bailey,
    "Symmetric cross entropy for robust learning with noisy labels", ICCV 2019, equation 7.

    Args:
        num_classes: the number of classes, C.
        a: the weight of cross entropy.
        b: the weight of reverse cross entropy.
        reduction: "mean" over all labels, "sum", or "none".

    Raises:
        ValueError: a weight is negative, ``num_classes`` is below 2, or predictions (logits) are
            not ``(N, C, ...)`` for labels ``(N, ...)``.

    Example:
        >>> loss_fn = SCELoss(num_classes=2)
        >>> round(loss_fn(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item(), 4)
        5.2983
    """

    task = "classes"

    def __init__(self, num_classes: int, a: float = 1.0, b: float = 1.0,
                 reduction: str = "mean") -> None:
        super().__init__(reduction)
        whole_number("num_classes", num_classes, least=2)
        for argument, weight in (("a", a), ("b", b)):
            check_number(argument, weight, "a number of at least 0", most=math.inf)
        self.num_classes, self.a, self.b = num_classes, a, b

    def values(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each label."""
        check_tensors(preds, labels)
        if (preds.dim() < 2 or preds.shape[1] != self.num_classes
                or preds[:, 0].shape != labels.shape):
            raise shape_error(preds, labels,
                              f"predictions (N, {self.num_classes}, ...) with labels (N, ...)",
                              "Use labels.squeeze(1) for a column too many.")
        entropy = F.cross_entropy(preds, labels.long(), reduction="none")
        # The logarithm of q is 0 at the label and log(1e-4) elsewhere, where 1 - p of the label
        # lies.
        reverse = -math.log(FLOOR) * -torch.expm1(-entropy)
        return self.a * entropy + self.b * reverse

    def extra_repr(self) -> str:
        """Return the settings for ``repr``."""
        return f"num_classes={self.num_classes}, a={self.a}, b={self.b}"


def check_number(argument: str, value: object, expected: str, *, most: float) -> None:
    """Refuse what is not a finite number from 0 to ``most``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise bad_type(argument, received=f"{value!r} ({type(value).__name__})", expected=expected)
    if not 0 <= value <= most or value == math.inf:
        raise bad_value(argument, received=value, expected=expected)
