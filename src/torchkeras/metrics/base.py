"""What every metric is: a state that batches add to, and the number that the state stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.core.errors import bad_type, bad_value

State = dict[str, Tensor]


class Metric(nn.Module):
    """Subclass this to measure something of your own over any number of batches.

    Write two functions without side effects: ``count(preds, labels)`` says what one batch adds to the state, and
    ``value(state)`` what number a state stands for. The state comes in two kinds, and whoever joins the states of
    several processes needs to know no more than these: ``sums`` are added, ``lists`` are concatenated.

    The state is never a parameter and never in a ``state_dict``; it moves with ``.to(device)`` and keeps its precision
    under ``.half()``. Before the first sample the number is NaN.

    Attributes:
        higher_is_better: which way the number is good; None when it cannot be known.
        cheap: whether ``compute()`` costs so little that it may be called while an epoch is running.
        sums: names of the state tensors that add up.
        lists: names of the state lists, whose tensors join along the first dimension.
        follows_loss: whether it was given by name, so that the loss says how it reads labels and predictions.

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

    def add_sum(self, name: str, size: tuple[int, ...] = (), dtype: torch.dtype = torch.int64) -> None:
        """Declare a state tensor that starts at zero and adds up: int64 for counts, float64 for measures.

        One without a size takes the shape of what is added first.
        """
        self.register_buffer(name, torch.zeros(size, dtype=dtype), persistent=False)
        self.sums += (name,)
        self.sizes[name] = size

    def add_list(self, name: str) -> None:
        """Declare a state list that keeps a tensor of every batch."""
        if hasattr(self, name):
            raise bad_value("name", received=repr(name), expected="a name that the metric does not use yet")
        setattr(self, name, [])
        self.lists += (name,)

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """What one batch adds to sums and lists, worked out without reading a value from the device."""
        raise NotImplementedError

    def value(self, state: State) -> Any:
        """The number that a state stands for; sums are on the CPU here, and lists are not empty."""
        raise NotImplementedError

    def leave_out(self, marks: tuple[float, ...]) -> None:
        """Take note of labels that the loss was found to leave out; a metric object keeps to what its user said.

        Args:
            marks: such labels, as 0, -999 or NaN; none where the loss leaves out nothing, or where it is not known.
        """

    def update(self, preds: Tensor, labels: Tensor) -> None:
        """Count one batch; nothing is read from the device."""
        with torch.no_grad():
            self.absorb(self.counted(preds, labels))

    def compute(self) -> Any:
        """The number for all that was counted: a float64 scalar on the CPU, NaN before the first sample."""
        return self.result(self.state())

    def reset(self) -> None:
        """Forget all that was counted."""
        for name in self.sums:
            setattr(self, name, getattr(self, name).new_zeros(self.sizes[name]))
        for name in self.lists:
            setattr(self, name, [])

    def forward(self, preds: Tensor, labels: Tensor) -> Any:
        """Count one batch, and give the number of this batch alone (which waits for the device)."""
        with torch.no_grad():
            added = self.counted(preds, labels)
            self.absorb(added)
            nothing = {name: torch.zeros(self.sizes[name], dtype=torch.int64) for name in self.sums}
            return self.result(nothing | {name: torch.as_tensor(more) for name, more in added.items()})

    def state(self) -> State:
        """The whole state as one tensor a name."""
        sums = {name: getattr(self, name) for name in self.sums}
        return sums | {name: joined(getattr(self, name)) for name in self.lists}

    def result(self, state: State) -> Any:
        """The number for a state: the metric's own, that of one batch, or one joined over processes."""
        with torch.no_grad():
            on_cpu = {name: state[name].cpu() for name in self.sums}
            if self.lists and not any(state[name].numel() for name in self.lists):
                return scalar(float("nan"))
            return self.finished(self.value(state | on_cpu))

    def finished(self, value: Any) -> Any:
        """A value as it is given out."""
        return scalar(value)

    def counted(self, preds: Any, labels: Any) -> dict[str, Tensor | int]:
        """What a batch adds, after a look at what came."""
        for argument, given in (("preds", preds), ("labels", labels)):
            if not isinstance(given, Tensor):
                raise bad_type(argument, received=type(given).__name__, expected=f"a tensor for {type(self).__name__}",
                               fix="For other outputs, write an object with update, compute and reset.")
        return self.count(preds.detach(), labels.detach())

    def absorb(self, added: dict[str, Tensor | int]) -> None:
        """Add to the state what a batch brought."""
        # A new tensor each time: one made in inference mode cannot be written to outside of it.
        totals: Any = self._buffers  # a module's own way to set them costs more than the sum
        for name, more in added.items():
            if name in self.sizes:
                total = totals[name]
                if isinstance(more, Tensor) and more.device != total.device:
                    total = moved(total, more.device)
                totals[name] = total + more
            else:  # a copy: CUDA graphs write the next batch into the tensors of this one
                getattr(self, name).append(torch.as_tensor(more).clone())

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Metric:
        # An integer shows where .to(), .cuda() and .half() lead, and is left in its type by all of them.
        device = fn(torch.zeros((), dtype=torch.int64, device=self.device)).device
        own = {name: self._buffers.pop(name) for name in self.sums}
        super()._apply(fn, recurse)
        self._buffers |= {name: total if total is None else moved(total, device) for name, total in own.items()}
        for name in self.lists:
            setattr(self, name, [moved(piece, device) for piece in getattr(self, name)])
        return self

    @property
    def device(self) -> torch.device:
        """Where the state is."""
        kept = [getattr(self, name) for name in self.sums] + [one for name in self.lists for one in getattr(self, name)]
        return kept[0].device if kept else torch.device("cpu")


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device, in float32 where the device has no float64."""
    return tensor.to(device, widest(device) if tensor.dtype == torch.float64 else tensor.dtype)


def widest(device: torch.device) -> torch.dtype:
    """The most precise float of a device: MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def joined(pieces: list[Tensor]) -> Tensor:
    """Kept tensors as one, on the device of the newest."""
    return torch.cat([piece.to(pieces[-1].device) for piece in pieces]) if pieces else torch.zeros(0)


def scalar(number: Any) -> Tensor:
    """A result as a float64 scalar on the CPU."""
    if isinstance(number, Tensor):
        return number.detach().cpu().double().reshape(())
    return torch.as_tensor(number, dtype=torch.float64).reshape(())
