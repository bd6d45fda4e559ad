"""A plain function as a metric."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.tree import map_tree
from torchkeras.metrics import structure
from torchkeras.metrics.base import Metric, State, scalar
from torchkeras.metrics.shapes import precise

ROOM = 64 * 2**20  # bytes that may wait on an accelerator
SCORES = ("y_pred", "y_score", "y_prob", "y_proba")


class FunctionMetric(Metric):
    """Use any function ``(preds, labels) -> number`` as a metric, scikit-learn's included, exact at any batch size.

    Many numbers of a data set are no mean over its batches (a root, a rank correlation, an F1). So all predictions and
    labels are kept, and the function is called once, in ``compute()``, with all of them on the CPU. They wait where
    they were made until they fill 64 MB, then in main memory. Half precision is kept as float32, which numpy knows.

    Values of dicts belong together by their keys, those of tuples and lists by their places. Each batch must have the
    keys and the lengths of the first.

    A function whose arguments are named ``(y_true, y_pred)`` or ``(y_true, y_score)``, as scikit-learn's are, gets them
    in that order.

    Args:
        fn: takes predictions and labels (tensors, or the net's own tuples and dicts of tensors) and gives a number of
            any kind, or a dict of names to numbers.
        name: what to call it in messages. Default: the function's own name.
        higher_is_better: which way the number is good, if you wish to say so.

    Raises:
        TypeError: predictions or labels hold something that is no tensor.
        ValueError: the function does not give one number, batches differ in structure, or they do not join into one
            tensor.

    Example:
        >>> metric = FunctionMetric(lambda preds, labels: (preds - labels).abs().max())
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 5.0]))
        >>> metric.compute().item()
        3.0
    """

    fn: Callable[[Any, Any], Any]

    def __init__(self, fn: Callable[[Any, Any], Any], name: str | None = None,
                 higher_is_better: bool | None = None) -> None:
        super().__init__()
        # Not as a submodule: weights of a loss used as a metric belong to no one who holds the metric.
        self.__dict__["fn"] = in_our_order(fn)
        self.name = name or getattr(fn, "__name__", type(fn).__name__)
        self.higher_is_better = higher_is_better
        self.waiting = 0  # bytes on an accelerator
        self.layout: Any = (0, 1)  # preds and labels, with a number in the place of each tensor

    def counted(self, preds: Any, labels: Any) -> dict[str, Tensor | int]:
        """Return all that came, a list for each tensor in it."""
        if not any(getattr(self, name) for name in self.lists):
            self.layout = structure.numbered((preds, labels))
        leaves = structure.leaves_of(self.layout, (preds, labels), f"metric {self.name!r}")
        for leaf in leaves.values():
            if not isinstance(leaf, Tensor):
                raise bad_type(f"metric {self.name!r}", received=type(leaf).__name__, expected="tensors to keep",
                               fix="For other data, write an object with update, compute and reset.")
        for number in range(len(self.lists), len(leaves)):
            self.add_list(f"part{number}")
        return {f"part{number}": torch.atleast_1d(precise(leaf.detach())) for number, leaf in leaves.items()}

    def absorb(self, added: dict[str, Tensor | int]) -> None:
        """Keep a batch; move what is kept to main memory when it is much."""
        super().absorb(added)
        self.waiting += sum(one.nbytes for one in added.values() if isinstance(one, Tensor) and not one.is_cpu)
        if self.waiting > ROOM:
            self.settle()

    def settle(self) -> None:
        """Move all that is kept to main memory."""
        self.cpu()
        self.waiting = 0

    def reset(self) -> None:
        """Forget all that was kept."""
        super().reset()
        self.waiting = 0

    def state(self) -> State:
        """Everything kept, in main memory."""
        self.settle()
        if len({len(getattr(self, name)) for name in self.lists if getattr(self, name)}) > 1:
            raise bad_value(f"metric {self.name!r}", received="batches of unlike structure in several processes",
                            expected="the same keys and lengths in every batch")
        for name in self.lists:
            shapes = {tuple(piece.shape[1:]) for piece in getattr(self, name)}
            if len(shapes) > 1:
                raise bad_value(f"metric {self.name!r}", received=f"batches of unlike shapes {sorted(shapes)}",
                                expected="batches that join along the first dimension",
                                fix="Write an object with update, compute and reset, which sees each batch alone.")
        return super().state()

    def value(self, state: State) -> Any:
        """What the function says of everything."""
        return self.fn(*map_tree(lambda number: state[f"part{number}"].cpu(), self.layout))

    def result(self, state: State) -> Any:
        """The number, or NaN when nothing was kept."""
        return super().result(state) if state else scalar(math.nan)

    def finished(self, value: Any) -> Any:
        """One number, or a dict of numbers."""
        if isinstance(value, Mapping):
            return {key: self.number(one) for key, one in value.items()}
        return self.number(value)

    def number(self, value: Any) -> Tensor:
        """A number of any kind as a float64 scalar."""
        shape = tuple(getattr(value, "shape", ()))
        came = f"shape {shape}" if shape else f"{type(value).__name__}"
        if value is None or isinstance(value, (str, list, tuple, Mapping)) or math.prod(shape) != 1:
            raise bad_value(f"metric {self.name!r}", received=f"a function that returned {came}",
                            expected="one number, or a dict of names to numbers",
                            fix="Reduce it, for example with .mean().")
        return scalar(value)


class Swapped:
    """A function ``(y_true, y_pred)``, called with predictions first.

    Args:
        function: the function.
    """

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        self.function, self.__name__ = function, function.__name__

    def __call__(self, preds: Any, labels: Any) -> Any:
        """What the function says."""
        return self.function(labels, preds)


def in_our_order(function: Any) -> Any:
    """A function whose arguments are named ``(y_true, y_pred)``, as Keras's and scikit-learn's are, takes ours."""
    if not inspect.isroutine(function):
        return function
    try:
        first = list(inspect.signature(function).parameters)[:2]
    except (TypeError, ValueError):  # code that hides its signature
        return function
    return Swapped(function) if first[:1] == ["y_true"] and first[1:] and first[1] in SCORES else function


class Accumulating(nn.Module):
    """An object of the older kind, which counts when it is called, with the ``update`` of the newer."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner
        self.higher_is_better = getattr(inner, "higher_is_better", None)

    def forward(self, preds: Any, labels: Any) -> Any:
        """Count one batch, and give what the object says of it."""
        return self.inner(preds, labels)

    def update(self, preds: Any, labels: Any) -> None:
        """Count one batch."""
        self.inner(preds, labels)

    def compute(self) -> Any:
        """The number for all that was counted."""
        return self.inner.compute()

    def reset(self) -> None:
        """Forget all that was counted."""
        self.inner.reset()
