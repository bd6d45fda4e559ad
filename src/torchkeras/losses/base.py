"""What every loss here is: a number for each sample or value, and how these become one."""

from __future__ import annotations

from torch import Tensor, nn

from torchkeras.core.errors import bad_type, bad_value, one_of
from torchkeras.metrics.shapes import layout

REDUCTIONS = ("mean", "sum", "none")
FAMILIES = {("binary", True): "sigmoid", ("binary", False): "given",
            ("classes", True): "softmax", ("classes", False): "shares"}
EPSILON = 1e-7  # Keras's keras.config.epsilon()


class Loss(nn.Module):
    """Subclass this for a loss of your own that goes with sample weights: write ``values``, the rest is here.

    Args:
        reduction: "mean", "sum", or "none" for the losses as they are.

    Attributes:
        reduction: as given; it may be set anew at any time.
        task: "binary" (each prediction is a yes or a no) or "classes" (a score for each class); None for neither.
        from_logits: whether predictions are logits or probabilities; it counts for a task only.

    Raises:
        ValueError: ``reduction`` is none of the three.

    Example:
        >>> import torch
        >>> class LogCosh(Loss):
        ...     def values(self, preds, labels):
        ...         return (preds - labels).cosh().log()
        >>> round(LogCosh()(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 4.0])).item(), 4)
        0.6625
    """

    task: str | None = None
    from_logits: bool = True

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        one_of("reduction", reduction, REDUCTIONS)
        self.reduction = reduction

    def forward(self, preds: Tensor, labels: Tensor) -> Tensor:
        """The losses of a batch, reduced."""
        return reduced(self.values(preds, labels), self.reduction)

    def values(self, preds: Tensor, labels: Tensor) -> Tensor:
        """The losses that are not reduced yet; the first dimension counts the samples."""
        raise NotImplementedError

    @property
    def family(self) -> str | None:
        """What makes probabilities of the predictions: "sigmoid", "softmax", or nothing ("given", "shares")."""
        return None if self.task is None else FAMILIES[self.task, self.from_logits]


class ElementLoss(Loss):
    """A loss of each number; a sample's is the mean over its last dimension, so "none" gives one dimension less.

    Predictions and labels pair as in Keras: ``(N, 1)`` goes with ``(N,)``, and ``(N,)`` with ``(N,)`` reads as
    ``(N, 1)``.
    """

    def forward(self, preds: Tensor, labels: Tensor) -> Tensor:
        """The losses of a batch, reduced."""
        elements = self.elements(*in_rows(preds, labels))
        return elements.mean() if self.reduction == "mean" else reduced(elements.mean(-1), self.reduction)

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """The loss of each number."""
        raise NotImplementedError


def reduced(losses: Tensor, reduction: str) -> Tensor:
    """One number of many, or all of them."""
    if reduction == "mean":
        return losses.mean()
    return losses.sum() if reduction == "sum" else losses


def like(preds: Tensor, labels: Tensor) -> Tensor:
    """Labels with the shape and type of the predictions, one to one."""
    check_tensors(preds, labels)
    if preds.shape != labels.shape and layout(preds) != layout(labels):
        raise mismatch(preds, labels, "one label a prediction, such as (N, 1) with labels (N,)")
    return labels.reshape(preds.shape).to(preds.dtype)


def in_rows(preds: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and labels of one shape and type, with at least two dimensions."""
    check_tensors(preds, labels)
    if preds.shape != labels.shape:
        if layout(preds) != layout(labels):
            raise mismatch(preds, labels, "one label a prediction, such as (N, 1) with labels (N,)")
        shape = min(preds.shape, labels.shape, key=len)
        preds, labels = preds.reshape(shape), labels.reshape(shape)
    if preds.dim() < 2:
        preds, labels = preds.reshape(-1, 1), labels.reshape(-1, 1)
    return preds, labels.to(preds.dtype)


def vectors(preds: Tensor, labels: Tensor) -> None:
    """Refuse what are no vectors of one shape."""
    check_tensors(preds, labels)
    if preds.shape != labels.shape or preds.dim() < 2:
        raise mismatch(preds, labels, "vectors of one shape, (N, ..., D)")


def check_tensors(preds: Tensor, labels: Tensor) -> None:
    """Refuse what is no tensor."""
    for argument, given in (("preds", preds), ("labels", labels)):
        if not isinstance(given, Tensor):
            raise bad_type(argument, received=type(given).__name__, expected="a tensor")


def mismatch(preds: Tensor, labels: Tensor, expected: str, fix: str = "") -> ValueError:
    """The error for predictions and labels that do not belong together."""
    return bad_value("labels", received=f"shape {tuple(labels.shape)} for predictions of shape {tuple(preds.shape)}",
                     expected=expected, fix=fix)
