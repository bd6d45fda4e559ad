"""The base of the losses: a number for each sample or element, and their reduction."""

from __future__ import annotations

from torch import Tensor, nn

from torchkeras.core.errors import bad_type, bad_value, one_of
from torchkeras.metrics.shapes import layout

REDUCTIONS = ("mean", "sum", "none")
FAMILIES = {("binary", True): "sigmoid", ("binary", False): "given",
            ("classes", True): "softmax", ("classes", False): "shares"}
EPSILON = 1e-7  # Keras's keras.config.epsilon()


class Loss(nn.Module):
    """Subclass this for a loss of your own that supports sample weights: write ``values``.

    Args:
        reduction: "mean", "sum", or "none" for the losses as they are.

    Attributes:
        reduction: as given; it may be changed at any time.
        task: "binary" (each prediction is a binary decision) or "classes" (a score for each class);
            None for neither.
        from_logits: whether predictions are logits or probabilities; unused without a task.

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
        """Return the reduced loss of a batch."""
        return reduce_losses(self.values(preds, labels), self.reduction)

    def values(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the losses before reduction; the first dimension is the batch."""
        raise NotImplementedError

    @property
    def family(self) -> str | None:
        """Return how predictions become probabilities: sigmoid, softmax, given or shares."""
        return None if self.task is None else FAMILIES[self.task, self.from_logits]


class ElementLoss(Loss):
    """A loss of each element; a sample's is the mean over its last dimension.

    So the reduction "none" returns one dimension less than the predictions have.

    Predictions and labels pair as in Keras: ``(N, 1)`` goes with ``(N,)``, and ``(N,)`` with
    ``(N,)`` reads as ``(N, 1)``.
    """

    def forward(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the reduced loss of a batch."""
        elements = self.elements(*paired_rows(preds, labels))
        if self.reduction == "mean":
            return elements.mean()
        return reduce_losses(elements.mean(-1), self.reduction)

    def elements(self, preds: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of each number."""
        raise NotImplementedError


def reduce_losses(losses: Tensor, reduction: str) -> Tensor:
    """Return losses reduced to one number, or as they are."""
    if reduction == "mean":
        return losses.mean()
    return losses.sum() if reduction == "sum" else losses


def labels_like(preds: Tensor, labels: Tensor) -> Tensor:
    """Return labels in the shape and dtype of the predictions; refuse shapes that do not fit."""
    check_tensors(preds, labels)
    if preds.shape != labels.shape and layout(preds) != layout(labels):
        raise shape_error(preds, labels, "one label a prediction, such as (N, 1) with labels (N,)")
    return labels.reshape(preds.shape).to(preds.dtype)


def paired_rows(preds: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return predictions and labels in one shape and dtype, with at least two dimensions."""
    check_tensors(preds, labels)
    if preds.shape != labels.shape:
        if layout(preds) != layout(labels):
            raise shape_error(preds, labels,
                              "one label a prediction, such as (N, 1) with labels (N,)")
        shape = min(preds.shape, labels.shape, key=len)
        preds, labels = preds.reshape(shape), labels.reshape(shape)
    if preds.dim() < 2:
        preds, labels = preds.reshape(-1, 1), labels.reshape(-1, 1)
    return preds, labels.to(preds.dtype)


def check_vectors(preds: Tensor, labels: Tensor) -> None:
    """Refuse what is not a pair of vectors of one shape."""
    check_tensors(preds, labels)
    if preds.shape != labels.shape or preds.dim() < 2:
        raise shape_error(preds, labels, "vectors of one shape, (N, ..., D)")


def check_tensors(preds: Tensor, labels: Tensor) -> None:
    """Refuse what is not a tensor."""
    for argument, given in (("preds", preds), ("labels", labels)):
        if not isinstance(given, Tensor):
            raise bad_type(argument, received=type(given).__name__, expected="a tensor")


def shape_error(preds: Tensor, labels: Tensor, expected: str, fix: str = "") -> ValueError:
    """Return the error for predictions and labels whose shapes do not fit."""
    return bad_value(
        "labels",
        received=f"shape {tuple(labels.shape)} for predictions of shape {tuple(preds.shape)}",
        expected=expected, fix=fix)
