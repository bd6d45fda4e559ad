"""Let several optimizers or schedulers act as one; recognise optimizers that need a closure."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.core.types import State


def is_torchs(function: Any) -> bool:
    """Tell whether a function was written by torch: a tool may have put another in its place."""
    return str(getattr(function, "__globals__", {}).get("__name__", "")).startswith("torch.")


ZERO_GRAD = torch.optim.Optimizer.zero_grad  # to know whether an optimizer has another
REPLACED = not is_torchs(ZERO_GRAD)  # by a tool that was imported before this package


class Several:
    """Several objects of one kind that are used as one: the base of Optimizers and Schedulers.

    Args:
        each: the objects by name or, for a list, by index.
    """

    def __init__(self, each: Mapping[Any, Any]) -> None:
        self.each = dict(each)

    def __getitem__(self, key: str | int) -> Any:
        return self.each[key]

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the objects of a list, or the names of a dict, as the user gave them."""
        named = any(isinstance(name, str) for name in self.each)
        return iter(self.each if named else self.each.values())

    def __len__(self) -> int:
        return len(self.each)

    def keys(self) -> Any:
        """Return the names, or the indices."""
        return self.each.keys()

    def values(self) -> Any:
        """Return the objects."""
        return self.each.values()

    def items(self) -> Any:
        """Return pairs of name or index and object."""
        return self.each.items()

    def state_dict(self) -> dict[Any, State]:
        """Return the ``state_dict`` of each object."""
        return {name: one.state_dict() for name, one in self.each.items()}

    def load_state_dict(self, states: Mapping[Any, State]) -> None:
        """Load the ``state_dict`` of each object."""
        for name, one in self.each.items():
            one.load_state_dict(states[name])


class Optimizers(Several):
    """Several optimizers that a step updates together.

    ``KerasModel(net, loss_fn, optimizer=[SparseAdam(...), Adam(...)])`` makes one, as does a dict
    of them. A StepRunner of your own picks one by its name: ``self.optimizer["d"].step()``.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
        >>> first = torch.optim.SGD(net[0].parameters())
        >>> both = Optimizers({"a": first, "b": torch.optim.Adam(net[1].parameters())})
        >>> len(both.param_groups), type(both["b"]).__name__
        (2, 'Adam')
    """

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Return the parameter groups of all, those of the first optimizer first."""
        return [group for one in self.each.values() for group in one.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        """Return the state of all parameters, to read it."""
        return {weight: state for one in self.each.values()
                for weight, state in one.state.items()}

    def step(self) -> None:
        """Update all parameters."""
        for one in self.each.values():
            one.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients."""
        for one in self.each.values():
            one.zero_grad(set_to_none)


class Schedulers(Several):
    """Several learning rate schedulers that are stepped together."""

    def step(self, *watched: object) -> None:
        """Step each scheduler."""
        for one in self.each.values():
            one.step(*watched)


def each_of(part: object) -> dict[Any, Any]:
    """Return optimizers or schedulers by name or index; a single one under the key ``None``."""
    if part is None:
        return {}
    return dict(part.each) if isinstance(part, Several) else {None: part}


def combine(part: object, kind: type[Several]) -> Any:
    """Return a list or dict of optimizers or schedulers as one object; a single one as it is."""
    if isinstance(part, Mapping):
        items: Iterable[tuple[Any, Any]] = ((str(name), one) for name, one in part.items())
    elif isinstance(part, (list, tuple)):
        items = enumerate(part)
    else:
        return part
    each = {key: one for key, one in items if one is not None}
    return kind(each) if each else None


def argument_name(argument: str, key: object) -> str:
    """Return how errors name it: ``optimizer``, or one of several as ``optimizer['d']``."""
    return argument if key is None else f"{argument}[{key!r}]"


def type_names(part: object) -> str:
    """Return the class name of an optimizer or scheduler, or those of several joined by ``+``."""
    return " + ".join(type(one).__name__ for one in each_of(part).values()) or type(None).__name__


def needs_closure(optimizer: Any) -> bool:
    """Tell whether an optimizer calls net and loss itself, as LBFGS does."""
    if isinstance(optimizer, Several):
        return False
    if type(optimizer).__module__.startswith("accelerate."):  # a wrapper whose step takes any
        optimizer = getattr(optimizer, "optimizer", optimizer)
    # a schedule replaces the step of the object; a wrapper that passes all on has none in its class
    step: Any = getattr(type(optimizer), "step", None) or optimizer.step
    return count_required(getattr(step, "__func__", step)) > 1


def count_required(function: Callable[..., Any]) -> int:
    """Return how many parameters have no default, ``self`` included."""
    return sum(one.default is one.empty for one in inspect.signature(function).parameters.values()
               if one.kind is one.POSITIONAL_OR_KEYWORD)


def clear_gradients(optimizer: Any) -> None:
    """Set all gradients to None, as torch's ``zero_grad`` does, or call the optimizer's own.

    torch's also tells the profiler, which took 13 of its 17 microseconds for six parameters.
    """
    own = getattr(type(optimizer), "zero_grad", None)  # None: a wrapper that passes all on
    if own is not ZERO_GRAD or REPLACED or "zero_grad" in vars(optimizer):
        optimizer.zero_grad()
        return
    for group in optimizer.param_groups:
        for weight in group["params"]:
            if weight.grad is not None:
                weight.grad = None


def current_lr(optimizer: torch.optim.Optimizer | Optimizers) -> Any:
    """Return a copy of the first group's learning rate: schedulers change a tensor in place."""
    rate = optimizer.param_groups[0]["lr"]
    return rate.detach().clone() if isinstance(rate, Tensor) else rate


def has_zero_lr(optimizer: torch.optim.Optimizer | Optimizers) -> bool:
    """Tell whether nothing can be learned, because all learning rates are 0."""
    return all(not torch.as_tensor(group.get("lr", 1.0)).any() for group in optimizer.param_groups)


def select_keys(part: object, keys: Collection[Any]) -> Any:
    """Return the schedulers that have these keys: None, a single one that was given, or several."""
    chosen = {key: one for key, one in each_of(part).items() if key in keys}
    return chosen.get(None) if not chosen or None in chosen else Schedulers(chosen)


def parameters_moved(net: nn.Module, optimizer: Any) -> list[nn.Parameter]:
    """Return the parameters of a net, and then what else its optimizer moves."""
    weights = {id(one): one for one in net.parameters()}
    weights |= {id(one): one for group in optimizer.param_groups for one in group["params"]}
    return list(weights.values())
