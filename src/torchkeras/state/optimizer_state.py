"""Read the state of optimizers by the names of parameters, and load it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchkeras.core import internals
from torchkeras.core.tree import leaves
from torchkeras.core.types import Leaf, State
from torchkeras.state.wrappers import bare_parameters

Place: TypeAlias = tuple[str, int]  # an optimizer's name, and the number of one of its parameters
# how an optimizer computes, not what
IMPLEMENTATION_OPTIONS = ("foreach", "fused", "capturable", "differentiable", "params")


def parameter_names(modules: list[nn.Module]) -> dict[int, str]:
    """Return the name of every parameter, by its ``id``."""
    return {id(weight): f"{number}.{name}" for number, module in enumerate(modules)
            for name, weight in bare_parameters(module)}


def group_parameter_names(optimizer: Optimizer, modules: list[nn.Module]) -> list[list[str]]:
    """Return the names of an optimizer's parameters by group; "" for those of no module."""
    names = parameter_names(modules)
    return [[names.get(id(weight), "") for weight in group["params"]]
            for group in optimizer.param_groups]


def optimizer_state(optimizer: Optimizer, modules: list[nn.Module]) -> State:
    """Return the state of an optimizer by the names of the parameters."""
    found = optimizer.state_dict()
    groups = [{name: value for name, value in group.items() if name not in IMPLEMENTATION_OPTIONS}
              for group in found["param_groups"]]
    more = {name: value for name, value in found.items() if name not in ("state", "param_groups")}
    order = group_parameter_names(optimizer, modules)
    loose = [weight.detach() for group, names in zip(optimizer.param_groups, order, strict=True)
             for weight, name in zip(group["params"], names, strict=True) if not name]
    return {"kind": type(optimizer).__name__, "order": order, "groups": groups,
            "state": found["state"], "more": more, "loose": loose}


def load_optimizer_state(optimizer: Optimizer, saved: Mapping[str, Any],
                         groups: int | None = None) -> None:
    """Load the state of an optimizer, in the dtypes that were saved.

    ``load_state_dict`` casts tensors to the dtype of the weights, which is undone here.

    Args:
        optimizer: the optimizer, which has the first ``groups`` of the saved groups.
        saved: what :func:`optimizer_state` returned.
        groups: the number of groups to load. Default: all.
    """
    linked = [one for one in vars(optimizer).values() if isinstance(one, torch.optim.Optimizer)
              and one.param_groups is optimizer.param_groups]
    now = optimizer.state_dict()
    kept = saved["groups"][:groups]
    count = sum(len(order) for order in saved["order"][:groups])
    states = {key: state for key, state in saved["state"].items()
              if not isinstance(key, int) or key < count}
    groups_now = [{**own, **group} for own, group in zip(now["param_groups"], kept, strict=True)]
    if getattr(type(optimizer), "load_state_dict", None) is torch.optim.Optimizer.load_state_dict:
        for group in groups_now:
            group["params"] = in_a_range(group["params"])
    optimizer.load_state_dict({**saved["more"], "state": states, "param_groups": groups_now})
    for state, loaded in zip(states.values(), states_in_order(optimizer, states), strict=True):
        for name, value in state.items() if isinstance(state, dict) else ():
            if isinstance(value, Tensor) and loaded[name].dtype != value.dtype:
                loaded[name] = value.to(loaded[name].device)
            else:
                loaded[name] = clone_tensors(loaded[name])
    for one in linked:  # SAM and the like share their groups with an inner optimizer
        one.param_groups = optimizer.param_groups


def in_a_range(numbers: list[Any]) -> list[Any] | range:
    """Return the numbers of a group's parameters as a range, where they are one.

    torch looks up each value that it loads in them: with a list, 8,000 parameters of Adam take
    1.3 s, not 0.16.
    """
    found: Any = []
    if numbers and type(numbers[0]) is int:
        found = range(numbers[0], numbers[0] + len(numbers))
    return found if list(found) == numbers else numbers


def load_loose_parameters(optimizer: Optimizer, saved: Mapping[str, Any],
                          modules: list[nn.Module]) -> None:
    """Load the parameters that are in no module."""
    names = parameter_names(modules)
    own = [weight for group in optimizer.param_groups for weight in group["params"]
           if id(weight) not in names]
    for weight, value in zip(own, saved.get("loose", ()), strict=False):
        with torch.no_grad():
            weight.copy_(value)


def clone_tensors(value: Leaf) -> Leaf:
    """Clone tensors, also in lists and dicts: a loaded one may be a view of the file."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(clone_tensors(one) for one in value)
    return {name: clone_tensors(one)
            for name, one in value.items()} if type(value) is dict else value


def states_in_order(optimizer: Optimizer, numbered: Mapping[int, Any]) -> list[Any]:
    """Return the state of each parameter that has one, by its number in ``state_dict``."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return [optimizer.state[weights[key] if isinstance(key, int) else key] for key in numbered]


def add_saved_groups(optimizer: Optimizer, saved: Mapping[str, Any], modules: list[nn.Module],
                     count: int) -> None:
    """Add the parameter groups that a callback had added before the state was saved."""
    names = parameter_names(modules)
    named = {names[id(weight)]: weight for module in modules
             for _, weight in bare_parameters(module)}
    for number in range(len(optimizer.param_groups), min(count, len(saved["order"]))):
        optimizer.add_param_group({"params": [named[name] for name in saved["order"][number]],
                                   **saved["groups"][number]})


def drop_non_finite(optimizers: Mapping[str, Optimizer],
                    all_gather: Callable[[set[Place]], list[set[Place]]]) -> list[str]:
    """Drop what optimizers remember of parameters for which it holds NaN or infinity.

    Off the CPU a loss is read steps after its gradients have moved the optimizer. The weights can
    be restored, but moments that are NaN would make the next update NaN too.

    Args:
        optimizers: the optimizers by name.
        all_gather: returns the places of all processes: a parameter that is divided between them
            must lose its state in each.

    Returns:
        The names of the optimizers that lost some.
    """
    weights = {name: [weight for group in one.param_groups for weight in group["params"]]
               for name, one in optimizers.items()}
    own = {(name, place) for name, every in weights.items() for place, weight in enumerate(every)
           if not is_finite(optimizers[name].state.get(weight, {}))}
    found = sorted(set().union(*all_gather(own)))
    for name, place in found:
        optimizers[name].state.pop(weights[name][place], None)
    return list(dict.fromkeys(name for name, _ in found))


def is_finite(state: Leaf) -> bool:
    """Tell whether all tensors in a parameter's state are finite, as far as they are here."""
    tensors = (internals.local_part(one) for one in leaves(state)
               if isinstance(one, Tensor))
    return all(bool(one.isfinite().all()) for one in tensors)
