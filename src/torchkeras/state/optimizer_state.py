"""What optimizers remember: taken down by the names of parameters, compared, put back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.state.wrappers import bare_parameters

CHOSEN = ("foreach", "fused", "capturable", "differentiable", "params")  # how an optimizer computes, not what


def names_of(modules: list[nn.Module]) -> dict[int, str]:
    """Return the name of every parameter, by its identity."""
    return {id(weight): f"{number}.{name}" for number, module in enumerate(modules)
            for name, weight in bare_parameters(module)}


def groups_of(optimizer: Any, modules: list[nn.Module]) -> list[list[str]]:
    """Return the names of an optimizer's parameters, group by group; those of no module have none."""
    names = names_of(modules)
    return [[names.get(id(weight), "") for weight in group["params"]] for group in optimizer.param_groups]


def optimizer_state(optimizer: Any, modules: list[nn.Module]) -> dict[str, Any]:
    """Return what an optimizer remembers, by the names of the parameters."""
    found = optimizer.state_dict()
    groups = [{name: value for name, value in group.items() if name not in CHOSEN} for group in found["param_groups"]]
    more = {name: value for name, value in found.items() if name not in ("state", "param_groups")}
    order = groups_of(optimizer, modules)
    loose = [weight.detach() for group, names in zip(optimizer.param_groups, order, strict=True)
             for weight, name in zip(group["params"], names, strict=True) if not name]
    return {"kind": type(optimizer).__name__, "order": order, "groups": groups, "state": found["state"],
            "more": more, "loose": loose}


def put_optimizer(optimizer: Any, saved: Mapping[str, Any], groups: int | None = None) -> None:
    """Put back what an optimizer remembered.

    torch's own loading turns numbers of other types than the weights' into theirs, which is undone.

    Args:
        optimizer: it has the first ``groups`` of the groups that were saved.
        saved: what :func:`optimizer_state` gave.
        groups: how many groups to put back. Default: all.
    """
    linked = [one for one in vars(optimizer).values() if isinstance(one, torch.optim.Optimizer)
              and one.param_groups is optimizer.param_groups]
    now = optimizer.state_dict()
    kept = saved["groups"][:groups]
    count = sum(len(order) for order in saved["order"][:groups])
    states = {key: state for key, state in saved["state"].items() if not isinstance(key, int) or key < count}
    groups_now = [{**own, **group} for own, group in zip(now["param_groups"], kept, strict=True)]
    if type(optimizer).load_state_dict is torch.optim.Optimizer.load_state_dict:
        for group in groups_now:
            group["params"] = in_a_range(group["params"])
    optimizer.load_state_dict({**saved["more"], "state": states, "param_groups": groups_now})
    for state, loaded in zip(states.values(), in_order(optimizer, states), strict=True):
        for name, value in state.items() if isinstance(state, dict) else ():
            if isinstance(value, Tensor) and loaded[name].dtype != value.dtype:
                loaded[name] = value.to(loaded[name].device)
            else:
                loaded[name] = own_copy(loaded[name])
    for one in linked:  # SAM and its kind share their groups with the optimizer that they step with
        one.param_groups = optimizer.param_groups


def in_a_range(numbers: Any) -> Any:
    """Return the numbers of a group's parameters as a range, where they are one.

    torch looks up each value that it loads in them: with a list, 8,000 parameters of Adam take 1.3 s, not 0.16.
    """
    found = range(numbers[0], numbers[0] + len(numbers)) if numbers and type(numbers[0]) is int else []
    return found if list(found) == numbers else numbers


def put_loose(optimizer: Any, saved: Mapping[str, Any], modules: list[nn.Module]) -> None:
    """Put back parameters that are in no module: nobody else has them."""
    names = names_of(modules)
    own = [weight for group in optimizer.param_groups for weight in group["params"] if id(weight) not in names]
    for weight, value in zip(own, saved.get("loose", ()), strict=False):
        with torch.no_grad():
            weight.copy_(value)


def own_copy(value: Any) -> Any:
    """Return a copy of tensors, also of those in lists: what was loaded may lie in the file that was read."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (list, tuple):
        return type(value)(own_copy(one) for one in value)
    return {name: own_copy(one) for name, one in value.items()} if type(value) is dict else value


def in_order(optimizer: Any, numbered: Mapping[int, Any]) -> list[Any]:
    """Return the state of each parameter of which there is some, by the numbers of ``state_dict``."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    return [optimizer.state[weights[key] if isinstance(key, int) else key] for key in numbered]


def with_groups(optimizer: Any, saved: Mapping[str, Any], modules: list[nn.Module], count: int) -> None:
    """Add parameter groups that a callback had added when the state was saved, until there are so many."""
    names = names_of(modules)
    named = {names[id(weight)]: weight for module in modules for _, weight in bare_parameters(module)}
    for number in range(len(optimizer.param_groups), min(count, len(saved["order"]))):
        optimizer.add_param_group({"params": [named[name] for name in saved["order"][number]],
                                   **saved["groups"][number]})
