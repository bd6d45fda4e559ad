"""Focal and generalized cross entropies, with Keras's names and values."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from torchkeras.core.errors import bad_value, whole_number
from torchkeras.losses.base import EPSILON, ElementLoss, Loss, check_tensors, shape_error
from torchkeras.losses.robust import check_number


class BinaryFocalCrossentropy(ElementLoss):
    """Learn binary labels with the weight on samples that are still wrong, as in Keras.

    Lin et al., "Focal loss for dense object detection", 2017.

    Args:
        apply_class_balancing: weigh positive labels by ``alpha``, negative ones by 1 - ``alpha``.
        alpha: that weight.
        gamma: how much less samples weigh that are right already.
        from_logits: True when the net outputs logits, False when it outputs probabilities.
        label_smoothing: the share, 0 to 1, by which labels move towards 0.5.
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: the reduction is unknown, or predictions and labels differ in shape.

    Example:
        >>> import torch
        >>> loss_fn = BinaryFocalCrossentropy()
        >>> round(loss_fn(torch.tensor([[0.6], [0.4]]), torch.tensor([1, 0])).item(), 4)
        0.0817
    """

    task = "binary"

    def __init__(self, apply_class_balancing: bool = False, alpha: float = 0.25, gamma: float = 2.0,
                 from_logits: bool = False, label_smoothing: float = 0.0,
                 reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.apply_class_balancing, self.alpha, self.gamma = apply_class_balancing, alpha, gamma
        check_number("label_smoothing", label_smoothing, "a share from 0 to 1", most=1)
        self.from_logits, self.label_smoothing = bool(from_logits), label_smoothing

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the focal cross entropy of each prediction."""
        labels = labels * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        preds = preds.sigmoid() if self.from_logits else preds
        clipped = preds.clamp(EPSILON, 1 - EPSILON)
        entropy = F.binary_cross_entropy(clipped, labels, reduction="none")
        right = labels * preds + (1 - labels) * (1 - preds)
        focal = (1 - right) ** self.gamma * entropy
        if self.apply_class_balancing:
            focal = focal * (labels * self.alpha + (1 - labels) * (1 - self.alpha))
        return focal


class CategoricalFocalCrossentropy(Loss):
    """Learn one of several classes, one-hot, with the weight on samples still wrong, as in Keras.

    Args:
        alpha: the weight of all.
        gamma: how much less samples weigh that are right already.
        from_logits: True when the net outputs logits, False when it outputs probabilities.
        label_smoothing: the share, 0 to 1, that labels give to all classes alike.
        reduction: "mean" over all samples, "sum", or "none".
        axis: the dimension of the classes: the last, as in Keras; 1 for ``(N, C, H, W)``.

    Raises:
        ValueError: the reduction is unknown, or predictions and labels differ in shape.

    Example:
        >>> import torch
        >>> loss_fn = CategoricalFocalCrossentropy()
        >>> round(loss_fn(torch.tensor([[0.2, 0.8]]), torch.tensor([[0, 1]])).item(), 4)
        0.0022
    """

    task = "classes"

    def __init__(self, alpha: float = 0.25, gamma: float = 2.0, from_logits: bool = False,
                 label_smoothing: float = 0.0, reduction: str = "mean", axis: int = -1) -> None:
        super().__init__(reduction)
        whole_number("axis", axis, least=-10, most=10)
        self.alpha, self.gamma, self.from_logits = alpha, gamma, bool(from_logits)
        check_number("label_smoothing", label_smoothing, "a share from 0 to 1", most=1)
        self.label_smoothing, self.axis = label_smoothing, axis

    def values(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the focal cross entropy of each sample."""
        check_tensors(preds, labels)
        if preds.shape != labels.shape or preds.dim() < 2:
            raise shape_error(preds, labels,
                              "one-hot labels of the shape of the predictions, such as (N, C)")
        labels = labels.to(preds.dtype) * (1 - self.label_smoothing) + (
            self.label_smoothing / preds.shape[-1])
        preds = preds.softmax(self.axis) if self.from_logits else preds
        shares = (preds / preds.sum(self.axis, keepdim=True)).clamp(EPSILON, 1 - EPSILON)
        focal = self.alpha * (1 - shares) ** self.gamma * -labels * shares.log()
        return focal.sum(self.axis)


class CategoricalGeneralizedCrossEntropy(Loss):
    """Learn one of several classes, by number, from labels of which some are wrong, as in Keras.

    (1 - p^q) / q of the true class's probability p; Zhang and Sabuncu, "Generalized cross entropy
    loss for training deep neural networks with noisy labels", 2018.

    Args:
        q: between 0 (the cross entropy) and 1 (the mean absolute error).
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: ``q`` is out of range, the reduction is unknown, or labels are not one class
            number for each row.

    Example:
        >>> import torch
        >>> loss_fn = CategoricalGeneralizedCrossEntropy()
        >>> round(loss_fn(torch.tensor([[0.36, 0.64]]), torch.tensor([1])).item(), 4)
        0.4
    """

    task = "classes"
    from_logits = False

    def __init__(self, q: float = 0.5, reduction: str = "mean") -> None:
        super().__init__(reduction)
        if not 0 < q < 1:
            raise bad_value("q", received=q, expected="a number between 0 and 1")
        self.q, self.axis = q, -1

    def values(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each sample."""
        check_tensors(preds, labels)
        if labels.shape == (*preds.shape[:-1], 1):
            labels = labels.squeeze(-1)
        if preds.dim() < 2 or labels.shape != preds.shape[:-1]:
            raise shape_error(preds, labels, "one class number for each row, (N,) for (N, C)")
        likely = preds.gather(-1, labels.long().unsqueeze(-1)).squeeze(-1)
        return (1 - likely ** self.q) / self.q
