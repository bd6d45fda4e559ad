"""The base of all metrics: a state that batches add to, and the value computed from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.types import Labels, Preds, Value

MetricState = dict[str, Tensor]


class Metric(nn.Module):
    """Subclass this to measure something of your own over any number of batches.

    Write two functions without side effects: ``count(preds, labels)`` returns what one batch adds
    to the state, and ``value(state)`` computes the metric from a state. The state has two kinds of
    entries, which is all that is needed to reduce the states of several ranks: ``sums`` are added,
    ``lists`` are concatenated.

    The state is never a parameter and never in a ``state_dict``; it moves with ``.to(device)`` and
    keeps its precision under ``.half()``. Before the first sample the value is NaN.

    Attributes:
        higher_is_better: whether larger values are better; None when this is unknown.
        cheap: whether ``compute()`` costs so little that it may be called during an epoch.
        sums: names of the state tensors that add up.
        lists: names of the state lists, whose tensors are concatenated along the first dimension.
        follows_loss: whether it was given by name, so that the loss defines how it reads labels and
            predictions.

    Example:
        >>> class Largest(Metric):
        ...     higher_is_better = True
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.add_list("errors")
        ...     def count(self, preds, labels):
        ...         return {"errors": (preds - labels).abs()}
        ...     def value(self, state):
        ...         return state["errors"].max()
        >>> metric = Largest()
        >>> metric.update(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 5.0]))
        >>> metric.compute().item()
        3.0
    """

    higher_is_better: bool | None = None
    cheap: bool = False
    follows_loss: bool = False

    def __init__(self) -> None:
        super().__init__()
        self.sums: tuple[str, ...] = ()
        self.sizes: dict[str, tuple[int, ...]] = {}
        self.lists: tuple[str, ...] = ()

    def add_sum(self, name: str, size: tuple[int, ...] = (),
                dtype: torch.dtype = torch.int64) -> None:
        """Declare a state tensor that starts at 0 and adds up: int64 for counts, else float64.

        One without a size takes the shape of what is added first.
        """
        self.register_buffer(name, torch.zeros(size, dtype=dtype), persistent=False)
        self.sums += (name,)
        self.sizes[name] = size

    def add_list(self, name: str) -> None:
        """Declare a state list that keeps a tensor of every batch."""
        if hasattr(self, name):
            raise bad_value("name", received=repr(name),
                            expected="a name that the metric does not use yet")
        setattr(self, name, [])
        self.lists += (name,)

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """Return what one batch adds to sums and lists, without reading a value from the device."""
        raise NotImplementedError

    def value(self, state: MetricState) -> Any:
        """Return the value for a state; its sums are on the CPU, its lists are not empty."""
        raise NotImplementedError

    def leave_out(self, marks: tuple[float, ...]) -> None:
        """Exclude labels that the loss excludes; metrics given as objects ignore this.

        Args:
            marks: such labels, as 0, -999 or NaN; empty where the loss excludes none, or where it
                is unknown.
        """

    def update(self, preds: Tensor, labels: Tensor) -> None:
        """Add one batch to the state; nothing is read from the device."""
        with torch.no_grad():
            self.absorb(self.counted(preds, labels))

    def compute(self) -> Any:
        """Return the metric's value: a float64 scalar on the CPU, NaN before the first sample."""
        return self.result(self.state())

    def reset(self) -> None:
        """Reset the state to its initial value."""
        for name in self.sums:
            setattr(self, name, getattr(self, name).new_zeros(self.sizes[name]))
        for name in self.lists:
            setattr(self, name, [])

    def forward(self, preds: Tensor, labels: Tensor) -> Any:
        """Add one batch and return the value of this batch alone (which waits for the device)."""
        with torch.no_grad():
            added = self.counted(preds, labels)
            self.absorb(added)
            nothing = {name: torch.zeros(self.sizes[name], dtype=torch.int64) for name in self.sums}
            mine = {name: torch.as_tensor(more) for name, more in added.items()}
            return self.result(nothing | mine)

    def state(self) -> MetricState:
        """Return the whole state, one tensor for each name."""
        sums = {name: getattr(self, name) for name in self.sums}
        return sums | {name: concatenated(getattr(self, name)) for name in self.lists}

    def result(self, state: MetricState) -> Any:
        """Return the value for a state: the metric's own, one batch's, or that of all ranks."""
        with torch.no_grad():
            on_cpu = {name: state[name].cpu() for name in self.sums}
            if self.lists and not any(state[name].numel() for name in self.lists):
                return as_scalar(float("nan"))
            return self.finished(self.value(state | on_cpu))

    def finished(self, value: Value) -> Any:
        """Convert the result of ``value`` to the form that ``compute`` returns."""
        return as_scalar(value)

    def counted(self, preds: Preds, labels: Labels) -> dict[str, Tensor | int]:
        """Check the arguments and return what a batch adds."""
        for argument, given in (("preds", preds), ("labels", labels)):
            if not isinstance(given, Tensor):
                raise bad_type(
                    argument, received=type(given).__name__,
                    expected=f"a tensor for {type(self).__name__}",
                    fix="For other outputs, write an object with update, compute and reset.")
        return self.count(preds.detach(), labels.detach())

    def absorb(self, added: dict[str, Tensor | int]) -> None:
        """Add a batch's contribution to the state."""
        # Not in place: a tensor made in inference mode cannot be written to outside of it.
        totals: Any = self._buffers  # nn.Module.__setattr__ costs more than the sum
        for name, more in added.items():
            if name in self.sizes:
                total = totals[name]
                if isinstance(more, Tensor) and more.device != total.device:
                    total = to_device(total, more.device)
                totals[name] = total + more
            else:  # a copy: CUDA graphs write the next batch into the tensors of this one
                getattr(self, name).append(torch.as_tensor(more).clone())

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Metric:
        # An integer tensor shows the target device of .to() and .cuda(), and keeps its dtype.
        device = fn(torch.zeros((), dtype=torch.int64, device=self.device)).device
        own = {name: self._buffers.pop(name) for name in self.sums}
        apply: Callable[..., nn.Module] = super()._apply
        apply(fn, recurse)
        self._buffers |= {
            name: total if total is None else to_device(total, device)
            for name, total in own.items()}
        for name in self.lists:
            setattr(self, name, [to_device(piece, device) for piece in getattr(self, name)])
        return self

    @property
    def device(self) -> torch.device:
        """Return the device of the state."""
        kept = [getattr(self, name) for name in self.sums] + [
            one for name in self.lists for one in getattr(self, name)]
        return kept[0].device if kept else torch.device("cpu")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device, in float32 where the device has no float64."""
    return tensor.to(device, widest(device) if tensor.dtype == torch.float64 else tensor.dtype)


def widest(device: torch.device) -> torch.dtype:
    """Return the most precise float dtype of a device: MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def concatenated(pieces: list[Tensor]) -> Tensor:
    """Return kept tensors concatenated, on the device of the newest."""
    if not pieces:
        return torch.zeros(0)
    return torch.cat([piece.to(pieces[-1].device) for piece in pieces])


def as_scalar(number: Value) -> Tensor:
    """Return a result as a float64 scalar on the CPU."""
    if isinstance(number, Tensor):
        return number.detach().cpu().double().reshape(())
    return torch.as_tensor(number, dtype=torch.float64).reshape(())
