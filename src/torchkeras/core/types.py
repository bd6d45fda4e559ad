"""The words that everything else is written in.

A *batch* is whatever the data yields: a tuple, a dict, a graph, an object of the user's. A
*microbatch* is a batch and its place in the optimizer update that it belongs to. A *step* takes one
batch through the net; a *pass* feeds a step with all batches of the data, and gives a *row*: the
numbers of the pass by name. An *epoch* is a training pass, and a validation pass where one is due.
*Logs* are numbers of a single step, still on the device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor, nn

Batch: TypeAlias = Any  # whatever the data yields
Preds: TypeAlias = Any  # what a net returns: a tensor, or tensors in tuples, dicts and dataclasses
Labels: TypeAlias = Any  # what the loss compares predictions with, in the same forms
Data: TypeAlias = Any  # what the user gives as data: arrays, frames, a Dataset, a DataLoader, ...
Source: TypeAlias = Any  # an object that is read for batches, mostly a DataLoader
Count: TypeAlias = Any  # how much a batch counts: a number, a scalar tensor, or one per loss term
Leaf: TypeAlias = Any  # a value in a tree of tuples, lists and dicts
Value: TypeAlias = Any  # a value of any type, passed on as it is
State: TypeAlias = dict[str, Any]  # what state_dict gives
Row: TypeAlias = dict[str, float]  # the numbers of a pass, by name
Logs: TypeAlias = dict[str, Any]  # numbers by name: floats, or scalar tensors still on the device
Stage = Literal["train", "val", "predict"]


class StepOutput(NamedTuple):
    """The result of a step; it unpacks as the pair ``(step_losses, step_metrics)``."""

    losses: Logs  # means over this batch; the epoch runner averages them over all samples
    metrics: Logs  # other numbers of this step: of rates the last counts, of others the mean


class Microbatch(NamedTuple):
    """The place of a batch in the optimizer update that it belongs to.

    With gradient accumulation, the batches of one update are a *window*. With several processes,
    each has a *share* of every batch; where there is none left for a rank, it computes *padding*.
    """

    count: Count = None  # what its loss is a mean over; None: ask ``weight(batch)`` after the step
    divisor: Any = None  # what its loss is divided by before backward; None: it is not divided
    last: bool = True  # the optimizer moves after it
    has_labels: bool = True  # False where no label of it counts in this process
    padding: bool = False  # computed only so that the other ranks' all-reduce completes


WHOLE = Microbatch()  # a batch that makes an update alone


@runtime_checkable
class Metric(Protocol):
    """What counts as a metric object: ours, torchmetrics', or anything with these three."""

    def update(self, preds: Tensor, labels: Tensor) -> None:
        """Count one batch."""

    def compute(self) -> Any:
        """Return the number for all that was counted."""

    def reset(self) -> None:
        """Forget all that was counted."""


class LossFn(Protocol):
    """Anything that is called with predictions and labels, maybe weights, and returns a scalar."""


    def __call__(self, preds: Preds, labels: Labels, /) -> Any:
        """Return the loss."""


class Step(Protocol):
    """Anything that is called with a batch and gives ``(step_losses, step_metrics)``."""

    def __call__(self, batch: Batch, /) -> Any:
        """Take one batch through the net."""


@runtime_checkable
class Stateful(Protocol):
    """Anything whose state can be read and put back."""

    def state_dict(self) -> State:
        """Return the state."""

    def load_state_dict(self, state: State, /) -> Any:
        """Put the state back."""


class HasParts(Protocol):
    """The parts of a model: what has weights, and what moves them. KerasModel is one."""

    net: nn.Module
    loss_fn: Any
    metrics_dict: dict[str, Any]
    optimizer: torch.optim.Optimizer
    lr_scheduler: Any
    step_objects: dict[str, Any]


Tree: TypeAlias = Any  # a leaf, or tuples, lists and dicts of leaves, nested in any way


# What users may give as the parts of a model.
LossLike: TypeAlias = LossFn | str | None  # None: the net's output brings its loss
MetricsLike: TypeAlias = Mapping[str, Any] | Sequence[Any] | None  # metrics, functions or names
OptimizerLike: TypeAlias = (torch.optim.Optimizer | str | Sequence[torch.optim.Optimizer]
                            | Mapping[str, torch.optim.Optimizer] | None)
SchedulerLike: TypeAlias = Stateful | Sequence[Stateful] | Mapping[str, Stateful] | None
OneOrMany: TypeAlias = Any  # an optimizer or scheduler, several as one (core.optimizers), or None
