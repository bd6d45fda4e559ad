"""Metrics from plain functions and from objects of other interfaces."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Labels, Preds, Value
from torchkeras.metrics import structure
from torchkeras.metrics.base import Metric, MetricState, as_scalar
from torchkeras.metrics.shapes import at_least_float32

ROOM = 64 * 2**20  # bytes that may be kept on an accelerator
SCORES = ("y_pred", "y_score", "y_prob", "y_proba")


class FunctionMetric(Metric):
    """Use any function ``(preds, labels) -> number`` as a metric, exact at any batch size.

    Many metrics of a data set are not means over its batches (a root, a rank correlation, an F1).
    So all predictions and labels are kept, and the function is called once, in ``compute()``, with
    all of them on the CPU. They stay on their device until they fill 64 MB, then move to main
    memory. Half precision is kept as float32, which numpy supports.

    Values of dicts are paired by key, those of tuples and lists by position. Each batch must have
    the keys and the lengths of the first.

    A function whose arguments are named ``(y_true, y_pred)`` or ``(y_true, y_score)``, as in
    scikit-learn, gets them in that order.

    Args:
        fn: takes predictions and labels (tensors, or the net's own tuples and dicts of tensors) and
            returns a number of any type, or a dict of names to numbers.
        name: its name in messages. Default: the function's own name.
        higher_is_better: whether larger values are better; None where you do not say.

    Raises:
        TypeError: predictions or labels hold something that is not a tensor.
        ValueError: the function does not return one number, batches differ in structure, or they
            cannot be concatenated.

    Example:
        >>> import torch
        >>> metric = FunctionMetric(lambda preds, labels: (preds - labels).abs().max())
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 5.0]))
        >>> metric.compute().item()
        3.0
    """

    fn: Callable[[Any, Any], Any]

    def __init__(self, fn: Callable[[Any, Any], Any], name: str | None = None,
                 higher_is_better: bool | None = None) -> None:
        super().__init__()
        # Not as a submodule: weights of a loss used as a metric must not become the metric's.
        self.__dict__["fn"] = preds_first(fn)
        self.name = name or getattr(fn, "__name__", type(fn).__name__)
        self.higher_is_better = higher_is_better
        self.waiting = 0  # bytes on an accelerator
        self.layout: Any = (0, 1)  # preds and labels, with a number in the place of each tensor

    def counted(self, preds: Preds, labels: Labels) -> dict[str, Tensor | int]:
        """Return the tensors of a batch by name, one for each leaf."""
        if not any(getattr(self, name) for name in self.lists):
            self.layout = structure.number_leaves((preds, labels))
        leaves = structure.leaves_by_number(self.layout, (preds, labels), f"metric {self.name!r}")
        for leaf in leaves.values():
            if not isinstance(leaf, Tensor):
                raise bad_type(
                    f"metric {self.name!r}", received=type(leaf).__name__,
                    expected="tensors to keep",
                    fix="For other data, write an object with update, compute and reset.")
        for number in range(len(self.lists), len(leaves)):
            self.add_list(f"part{number}")
        kept = {number: at_least_float32(leaf.detach()) for number, leaf in leaves.items()}
        return {f"part{number}": one if one.dim() else one.reshape(1)
                for number, one in kept.items()}

    def absorb(self, added: dict[str, Tensor | int]) -> None:
        """Keep a batch; move all kept tensors to main memory when they exceed the limit."""
        super().absorb(added)
        self.waiting += sum(one.nbytes for one in added.values()
                            if isinstance(one, Tensor) and not one.is_cpu)
        if self.waiting > ROOM:
            self.settle()

    def settle(self) -> None:
        """Move all kept tensors to main memory."""
        self.cpu()
        self.waiting = 0

    def reset(self) -> None:
        """Drop all kept tensors."""
        super().reset()
        self.waiting = 0

    def state(self) -> MetricState:
        """Return all kept tensors, in main memory."""
        self.settle()
        if len({len(getattr(self, name)) for name in self.lists if getattr(self, name)}) > 1:
            raise bad_value(f"metric {self.name!r}",
                            received="batches of unlike structure in several processes",
                            expected="the same keys and lengths in every batch")
        for name in self.lists:
            shapes = {tuple(piece.shape[1:]) for piece in getattr(self, name)}
            if len(shapes) > 1:
                raise bad_value(
                    f"metric {self.name!r}",
                    received=f"batches of different shapes {sorted(shapes)}",
                    expected="batches that join along the first dimension",
                    fix="Write an object with update, compute and reset, "
                    "which sees each batch alone.")
        return super().state()

    def value(self, state: MetricState) -> Any:
        """Return the function's result for all predictions and labels."""
        return self.fn(*map_tree(lambda number: state[f"part{number}"].cpu(), self.layout))

    def result(self, state: MetricState) -> Any:
        """Return the value, or NaN when nothing was kept."""
        return super().result(state) if state else as_scalar(math.nan)

    def finished(self, value: Value) -> Any:
        """Return one number, or a dict of numbers."""
        if isinstance(value, Mapping):
            return {key: self.number(one) for key, one in value.items()}
        return self.number(value)

    def number(self, value: Value) -> Tensor:
        """Return a number of any type as a float64 scalar."""
        shape = tuple(getattr(value, "shape", ()))
        came = f"shape {shape}" if shape else f"{type(value).__name__}"
        if value is None or isinstance(value, (str, list, tuple, Mapping)) or math.prod(shape) != 1:
            raise bad_value(f"metric {self.name!r}", received=f"a function that returned {came}",
                            expected="one number, or a dict of names to numbers",
                            fix="Reduce it, for example with .mean().")
        return as_scalar(value)


class LabelsFirst:
    """A function ``(y_true, y_pred)``, called with predictions first.

    Args:
        function: the function.
    """

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function, self.__name__ = function, function.__name__

    def __call__(self, preds: Preds, labels: Labels) -> Any:
        """Call the function with labels first."""
        return self.function(labels, preds)


def preds_first(function: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a function with arguments ``(y_true, y_pred)`` so that it takes predictions first."""
    if not inspect.isroutine(function):
        return function
    try:
        first = list(inspect.signature(function).parameters)[:2]
    except (TypeError, ValueError):  # code that hides its signature
        return function
    labels_first = first[:1] == ["y_true"] and first[1:] and first[1] in SCORES
    return LabelsFirst(function) if labels_first else function


class Accumulating(nn.Module):
    """A wrapper with ``update`` for older objects that count when they are called."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.higher_is_better = getattr(inner, "higher_is_better", None)

    def forward(self, preds: Preds, labels: Labels) -> Any:
        """Count one batch and return the object's result for it."""
        return self.inner(preds, labels)

    def update(self, preds: Preds, labels: Labels) -> None:
        """Count one batch."""
        self.inner(preds, labels)

    def compute(self) -> Any:
        """Return the value for all that was counted."""
        return self.inner.compute()

    def reset(self) -> None:
        """Reset the object."""
        self.inner.reset()
