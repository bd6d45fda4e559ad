"""Refuse a saved state that is not one of the object it is to be loaded into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Number
from typing import Any, TypeAlias

import torch
from torch import nn

from torchkeras.checkpoint.run_state import check_optimizer
from torchkeras.checkpoint.weight_file import shape_of
from torchkeras.core import internals
from torchkeras.core.errors import bad_value
from torchkeras.core.types import State, Stateful, Value
from torchkeras.state.module_state import bare_state_dict, resizable_buffer_names
from torchkeras.training.loading import SHOWN, is_tensor

Part: TypeAlias = Any  # what save_checkpoint takes: a module, an optimizer, any object or value


def check_fits(name: str, part: Part, state: Value, modules: list[nn.Module]) -> None:
    """Refuse a state that does not fit its part, before anything is loaded."""
    if isinstance(part, nn.Module):
        own, free = bare_state_dict(part), resizable_buffer_names(part)
        wrong = [key for key in {**own, **state} if key not in free and (
            key not in own or key not in state or (is_tensor(own[key]) and (
                not is_tensor(state[key]) or shape_of(own[key]) != shape_of(state[key]))))]
        if wrong:
            raise bad_value(
                name, received=f"a net that differs in {', '.join(wrong[:SHOWN])}",
                expected="the names and shapes that were kept")
    elif isinstance(part, torch.optim.Optimizer):
        if state["kind"] != type(part).__name__:
            raise bad_value(name, received=f"{type(part).__name__}",
                            expected=f"{state['kind']}, which was kept")
        check_optimizer(part, modules, state)
    else:
        check_object(name, part, state)


def check_object(name: str, part: Stateful, state: Value) -> None:
    """Refuse the state of another object that the part would take silently.

    torch's schedules set everything in a state as attributes.
    """
    own: Value = part.state_dict()
    if not isinstance(own, dict):
        return
    if not isinstance(state, dict):
        wrong = [f"a {type(state).__name__} in place of a dict"]
    elif type(part).__module__ == torch.optim.lr_scheduler.__name__:
        wrong = schedule_differences(name, part, own, state)
    else:
        alike = not own or not state or own.keys() & state.keys()
        wrong = [] if alike else [str(key) for key in state]
    if wrong:
        raise bad_value(
            name,
            received=f"a {type(part).__name__}, which differs in {', '.join(wrong[:SHOWN])}",
            expected="the kind of object whose state was kept", fix="Build it as it was.")


def schedule_differences(name: str, part: Stateful, own: State, state: State) -> list[str]:
    """Return what tells that a state is not of this schedule of torch's; check inner schedules."""
    changing = ("verbose", "_verbose")  # that torch's versions have or lack
    new = [key for key in state if key not in own and key not in changing and (
        not isinstance(key, str) or not key.startswith("_") or hasattr(part, key))]
    gone = [key for key in own
            if key not in state and not key.startswith("_") and key not in changing]
    wrong = [*map(str, new), *gone, *changed_kinds(own, state)]
    inner: Sequence[Stateful] = internals.inner_schedulers(part)  # of SequentialLR, ...
    if inner and not wrong:
        given = state.get(internals.SCHEDULERS)
        if not isinstance(given, list) or len(given) != len(inner):
            wrong = ["the number of its schedules"]
        for one, another in zip(inner, given or (), strict=False):
            check_object(name, one, another)
    return wrong


def changed_kinds(own: Mapping[str, Value], given: Mapping[str, Value]) -> list[str]:
    """Return the names of values whose kind (number, text, list, dict) differs from the saved."""
    return [name for name, value in own.items() if name in given and value_kind(value) is not None
            and value_kind(value) != value_kind(given[name])]


def value_kind(value: object) -> str | None:
    """Return the kind of a value, which another of its kind may replace; None for objects."""
    if isinstance(value, (Number, bool)) or (is_tensor(value) and value.numel() == 1):
        return "number"
    kinds = {str: "text", list: "several", tuple: "several", dict: "names"}
    return next((sort for kind, sort in kinds.items() if isinstance(value, kind)), None)
