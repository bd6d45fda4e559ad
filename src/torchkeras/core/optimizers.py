"""Several optimizers, and several schedules, as one; and optimizers that call the net themselves."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


class Several:
    """Several objects of one kind that move together, by place or by name: what their two kinds have in common.

    Args:
        each: the objects by name, or by place.
    """

    def __init__(self, each: Mapping[Any, Any]) -> None:
        self.each = dict(each)

    def __getitem__(self, key: Any) -> Any:
        return self.each[key]

    def __iter__(self) -> Iterator[Any]:
        """Iterate as what was given does: over the objects of a list, over the names of a dict."""
        return iter(self.each if any(isinstance(name, str) for name in self.each) else self.each.values())

    def __len__(self) -> int:
        return len(self.each)

    def keys(self) -> Any:
        """Return the names, or the places."""
        return self.each.keys()

    def values(self) -> Any:
        """Return the objects."""
        return self.each.values()

    def items(self) -> Any:
        """Return names, or places, and objects."""
        return self.each.items()

    def state_dict(self) -> dict[Any, Any]:
        """Return the states of all."""
        return {name: one.state_dict() for name, one in self.each.items()}

    def load_state_dict(self, states: Mapping[Any, Any]) -> None:
        """Put the states of all back."""
        for name, one in self.each.items():
            one.load_state_dict(states[name])


class Optimizers(Several):
    """Several optimizers that a step updates together; a step of your own picks one: ``self.optimizer["d"].step()``.

    ``KerasModel(net, loss_fn, optimizer=[SparseAdam(...), Adam(...)])`` makes one, as does a dict of them.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))
        >>> both = Optimizers({"a": torch.optim.SGD(net[0].parameters()), "b": torch.optim.Adam(net[1].parameters())})
        >>> len(both.param_groups), type(both["b"]).__name__
        (2, 'Adam')
    """

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of all, those of the first optimizer first."""
        return [group for one in self.each.values() for group in one.param_groups]

    @property
    def state(self) -> dict[Any, Any]:
        """What all remember of their parameters, to be read."""
        return {weight: state for one in self.each.values() for weight, state in one.state.items()}

    def step(self) -> None:
        """Update all parameters."""
        for one in self.each.values():
            one.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients."""
        for one in self.each.values():
            one.zero_grad(set_to_none)


class Schedulers(Several):
    """Several schedules that move together."""

    def step(self, *watched: Any) -> None:
        """Move all."""
        for one in self.each.values():
            one.step(*watched)


def each_of(part: Any) -> dict[Any, Any]:
    """Return the optimizers or schedules in what stands for one or several: by name, by place, or under ``None``."""
    if part is None:
        return {}
    return dict(part.each) if isinstance(part, Several) else {None: part}


def gathered(part: Any, kind: type[Several]) -> Any:
    """Return optimizers or schedules that were given as a list or a dict as one; a single one stays as it is."""
    if isinstance(part, Mapping):
        items: Iterable[tuple[Any, Any]] = ((str(name), one) for name, one in part.items())
    elif isinstance(part, (list, tuple)):
        items = enumerate(part)
    else:
        return part
    each = {key: one for key, one in items if one is not None}
    return kind(each) if each else None


def titled(argument: str, key: Any) -> str:
    """Return what one of several is called: ``optimizer``, ``optimizer[0]``, ``optimizer['d']``."""
    return argument if key is None else f"{argument}[{key!r}]"


def kind_of(part: Any) -> str:
    """Return the class of an optimizer or schedule, or those of several."""
    return " + ".join(type(one).__name__ for one in each_of(part).values()) or type(None).__name__


def needs_closure(optimizer: Any) -> bool:
    """Tell whether an optimizer calls net and loss itself, as often as it likes: LBFGS and its kind."""
    optimizer = getattr(optimizer, "optimizer", optimizer)  # what accelerate wraps
    return not isinstance(optimizer, Several) and required(type(optimizer).step) > 1


def required(function: Callable[..., Any]) -> int:
    """Return how many arguments have no default, ``self`` included."""
    return sum(one.default is one.empty for one in inspect.signature(function).parameters.values()
               if one.kind is one.POSITIONAL_OR_KEYWORD)


def rate_of(optimizer: Any) -> Any:
    """Return the learning rate of the first group, as it is now: a schedule changes a tensor in place."""
    rate = optimizer.param_groups[0]["lr"]
    return rate.detach().clone() if isinstance(rate, Tensor) else rate


def at_rest(optimizer: Any) -> bool:
    """Tell whether nothing can be learned, because all rates are 0."""
    return all(not torch.as_tensor(group.get("lr", 1.0)).any() for group in optimizer.param_groups)


def picked(part: Any, keys: Collection[Any]) -> Any:
    """Return those of several schedules that have these keys: None, one by itself where only one was given, or some."""
    chosen = {key: one for key, one in each_of(part).items() if key in keys}
    return chosen.get(None) if not chosen or None in chosen else Schedulers(chosen)
