"""Losses that are no mean over samples: of overlaps, of pairs, of sequences; Keras's values.

The loss of a batch depends on its size. For several processes or accumulation that matters, and
``fit`` says so.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchkeras.losses.base import EPSILON, Loss, check_tensors, shape_error


class Tversky(nn.Module):
    """Segment with rare regions: 1 - overlap / (overlap + weighted errors) of the whole batch.

    Salehi et al., "Tversky loss function for image segmentation", 2017. Predictions are
    probabilities of the shape of the labels.

    Args:
        alpha: the weight of what was missed. (Keras calls it that of false positives.)
        beta: the weight of what was predicted wrongly.
        axis: the dimensions that are summed, such as ``(1, 2, 3)`` for one value a sample. Default:
            all, as in Keras.

    Raises:
        ValueError: predictions and labels differ in shape.

    Example:
        >>> loss_fn = Tversky(alpha=0.3, beta=0.7)
        >>> round(loss_fn(torch.tensor([[0.9, 0.1]]), torch.tensor([[1.0, 0.0]])).item(), 4)
        0.1
    """

    def __init__(self, alpha: float = 0.5, beta: float = 0.5,
                 axis: int | tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.alpha, self.beta, self.axis = alpha, beta, axis

    def forward(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the batch."""
        preds, labels = alike(preds, labels)
        overlap, missed, wrong = (self.summed(one) for one in (
            labels * preds, (1 - preds) * labels, preds * (1 - labels)))
        found = overlap / (overlap + missed * self.alpha + wrong * self.beta + EPSILON)
        return (1 - found).mean()

    def summed(self, values: Tensor) -> Tensor:
        """Return the sum over the dimensions that are summed."""
        return values.sum() if self.axis is None else values.sum(self.axis)


class Dice(Tversky):
    """Segment with rare regions: 1 - twice the overlap / both areas, of the whole batch.

    Args:
        axis: the dimensions that are summed. Default: all, as in Keras.

    Raises:
        ValueError: predictions and labels differ in shape.

    Example:
        >>> round(Dice()(torch.tensor([[0.9, 0.1]]), torch.tensor([[1.0, 0.0]])).item(), 4)
        0.1
    """

    def __init__(self, axis: int | tuple[int, ...] | None = None) -> None:
        super().__init__(axis=axis)

    def forward(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of the batch."""
        preds, labels = alike(preds, labels)
        overlap, areas = self.summed(labels * preds), self.summed(labels) + self.summed(preds)
        return (1 - 2 * overlap / (areas + EPSILON)).mean()


class Circle(nn.Module):
    """Learn embeddings: samples of one class close, those of others apart, in the batch.

    Sun et al., "Circle loss: a unified perspective of pair similarity optimization", 2020.

    Args:
        gamma: the scale.
        margin: how close and how far apart is enough.
        remove_diagonal: leave out pairs of a sample with itself.

    Raises:
        ValueError: labels are not one class number for each embedding.

    Example:
        >>> embeddings = torch.nn.functional.normalize(torch.eye(3)[[0, 0, 1, 1]])
        >>> Circle()(embeddings, torch.tensor([0, 0, 1, 1])).item() < 1e-3
        True
    """

    def __init__(self, gamma: float = 80.0, margin: float = 0.4,
                 remove_diagonal: bool = True) -> None:
        super().__init__()
        self.gamma, self.margin, self.remove_diagonal = gamma, margin, remove_diagonal

    def forward(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss over the embeddings (N, D) of a batch."""
        check_tensors(preds, labels)
        labels = labels.reshape(-1)
        if preds.dim() != 2 or len(labels) != len(preds):
            raise shape_error(preds, labels, "one class number for each embedding (N, D)")
        distances, margin = (1 - preds @ preds.T).clamp(min=0), self.margin
        same = labels[:, None] == labels[None]
        others = ~same
        if self.remove_diagonal:
            same = same & ~torch.eye(len(labels), dtype=torch.bool, device=preds.device)
        near = -self.gamma * (margin + distances) * (margin - distances)
        far = self.gamma * (1 + margin - distances).clamp(min=0) * (1 - margin - distances)
        lowest = -torch.inf
        pulled = torch.where(same, near, lowest).logsumexp(1)
        pushed = torch.where(others, far, lowest).logsumexp(1)
        return F.softplus(pulled + pushed).mean()


class CTC(Loss):
    """Learn sequences without alignment: Keras's CTC, with 0 for blanks and padding.

    Graves et al., "Connectionist temporal classification", 2006; torch's ``ctc_loss`` computes it.

    Args:
        reduction: "mean" over all samples, "sum", or "none".

    Raises:
        ValueError: predictions are not logits ``(N, T, C)``, or labels not ``(N, L)``.

    Example:
        >>> round(CTC()(torch.zeros(1, 3, 2), torch.tensor([[1]])).item(), 4)
        0.2877
    """

    def values(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each sample."""
        check_tensors(preds, labels)
        if preds.dim() != 3 or labels.dim() != 2 or len(preds) != len(labels):
            raise shape_error(preds, labels, "logits (N, T, C) with labels (N, L)")
        steps = torch.full((len(preds),), preds.shape[1], dtype=torch.long, device=preds.device)
        return F.ctc_loss(preds.log_softmax(-1).transpose(0, 1), labels.long(), steps,
                          (labels != 0).sum(-1), blank=0, reduction="none")


def alike(preds: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return predictions and labels in one dtype, after checking that they have one shape."""
    check_tensors(preds, labels)
    if preds.shape != labels.shape:
        raise shape_error(preds, labels, "labels of the shape of the predictions")
    return preds, labels.to(preds.dtype)
