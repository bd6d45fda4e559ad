"""Find out how a loss reads labels and predictions, so that metrics read them alike."""

from __future__ import annotations

import functools
from dataclasses import replace

from torch import nn

from torchkeras.core.types import Value
from torchkeras.data import outputs
from torchkeras.losses import Loss
from torchkeras.metrics.task import Task

CLASSES = Task("classes", one_hot=True, likely_axis=1)
BINARY = Task("binary", one_hot=False)
SIGNED = Task("binary", one_hot=False, signed=True)
NUMBERS = Task("numbers")
# a net that computes its own loss, as those of transformers, has the classes last
OWN = Task(from_logits=None, likely_axis=-1)
TASKS: dict[tuple[type[nn.Module], str], Task] = {
    (nn.CrossEntropyLoss, "cross_entropy"): CLASSES, (nn.NLLLoss, "nll_loss"): CLASSES,
    (nn.MultiMarginLoss, "multi_margin_loss"): CLASSES,
    (nn.KLDivLoss, "kl_div"): replace(CLASSES, likely_axis=None),
    (nn.BCEWithLogitsLoss, "binary_cross_entropy_with_logits"): BINARY,
    (nn.BCELoss, "binary_cross_entropy"): replace(BINARY, from_logits=False),
    (nn.MultiLabelSoftMarginLoss, "multilabel_soft_margin_loss"): BINARY,
    (nn.SoftMarginLoss, "soft_margin_loss"): SIGNED,
    (nn.HingeEmbeddingLoss, "hinge_embedding_loss"): SIGNED,
    (nn.MSELoss, "mse_loss"): NUMBERS, (nn.L1Loss, "l1_loss"): NUMBERS,
    (nn.SmoothL1Loss, "smooth_l1_loss"): NUMBERS, (nn.HuberLoss, "huber_loss"): NUMBERS,
    (nn.PoissonNLLLoss, "poisson_nll_loss"): NUMBERS,
    (nn.GaussianNLLLoss, "gaussian_nll_loss"): NUMBERS,
}


def task_of(loss_fn: object) -> Task:
    """Return how a loss reads labels and predictions, for metrics that are to read them alike.

    Penalties, ``functools.partial`` and wrappers such as DDP are seen through. None stands for a
    net that computes its own loss.

    Args:
        loss_fn: a loss, as a model takes it.

    Returns:
        A :class:`torchkeras.metrics.Task`. For an unknown loss it has no kind, and ``from_logits``
        is None: the predictions of a whole pass then tell.

    Example:
        >>> task_of(nn.CrossEntropyLoss(ignore_index=255)).ignore_index
        255
        >>> task_of(nn.BCELoss()).from_logits
        False
    """
    if loss_fn is None:
        return OWN
    loss_fn, options = unwrapped(loss_fn)
    ignored = options.get("ignore_index", getattr(loss_fn, "ignore_index", None))
    if not isinstance(ignored, int) or isinstance(ignored, bool):
        ignored = None
    return replace(known_task(loss_fn), ignore_index=ignored)


def known_task(loss_fn: object) -> Task:
    """Return the task of a loss by its class; from its source or name if that is unknown."""
    if isinstance(loss_fn, Loss):
        if loss_fn.task is None:  # from_logits has no meaning without a task
            return Task(from_logits=None if loss_fn.from_logits else False)
        axis = getattr(loss_fn, "axis", 1)
        classes = loss_fn.task == "classes"
        return replace(CLASSES if classes else BINARY, from_logits=loss_fn.from_logits,
                       likely_axis=axis if classes else None)
    name = getattr(loss_fn, "__name__", "")
    for (kind, function), task in TASKS.items():
        if isinstance(loss_fn, kind) or name == function:
            return task
    if not outputs.takes_logits(loss_fn):
        return Task(from_logits=False)
    return Task(from_logits=True if outputs.takes_tensors(loss_fn) else None)


def unwrapped(loss_fn: Value) -> tuple[Value, dict[str, Value]]:
    """Return the loss inside penalties, partials and wrappers, and the partials' options."""
    options: dict[str, Value] = {}
    while True:
        if isinstance(loss_fn, functools.partial):
            loss_fn, options = loss_fn.func, loss_fn.keywords | options
        elif isinstance(loss_fn, nn.Module) and callable(inner := getattr(loss_fn, "module", None)):
            loss_fn = inner
        else:
            return loss_fn, options


def task_for(loss_fn: object, from_logits: bool) -> Task:
    """Return the task as Keras does: where the loss does not tell, ``from_logits`` counts."""
    task = task_of(loss_fn)
    return task if task.kind in ("classes", "binary") else replace(task, from_logits=from_logits)
