"""Read the state that the steps of a run keep, and put it back in a resumed run."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.checkpoint.serialization import TensorJSONEncoder
from torchkeras.core.errors import bad_value
from torchkeras.core.types import Stage
from torchkeras.engine.step import StepRunner
from torchkeras.engine.steps import GIVEN, OURS, own_attributes, tensors_of
from torchkeras.state.components import PLAIN, Components, add, components_of
from torchkeras.state.generators import generator_state, set_generator_state
from torchkeras.state.module_state import bare_state_dict, load_bare_state_dict
from torchkeras.state.optimizer_state import load_optimizer_state, optimizer_state


def states_of_steps(steps: Mapping[tuple[Stage, bool], Any], model: Any,
                    parts: Components) -> dict[str, Any]:
    """Return the states of a run's steps by stage; what two of them share is under training."""
    train, val = steps.get(("train", True)), steps.get(("val", False))
    found = {} if train is None else {"train": own_state(train, model, parts)}
    return found if val is None else {
        **found, "val": own_state(val, model, parts, [] if train is None else [train])}


def sorted_out(step: Any, model: Any, parts: Components,
               others: Any = ()) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return a step's objects with a state, its plain values, and the names it cannot save."""
    found = Components(dict(parts.modules), dict(parts.optimizers), dict(parts.schedulers),
                       dict(parts.others), [])
    values, lost = {}, []
    for name, value in own_attributes(step, model, parts, others):
        before = sum(map(len, found[:4]))
        add(found, name, value)
        if sum(map(len, found[:4])) > before or isinstance(value, nn.Module):
            continue
        if can_be_saved(value):
            values[name] = value
        elif not isinstance(value, PLAIN):
            lost.append(f"StepRunner.{name}")
    objects = {name: one for kind, old in zip(found[:4], parts[:4], strict=True)
               for name, one in kind.items() if name not in old}
    return objects, values, lost


def can_be_saved(value: Any) -> bool:
    """Tell whether a plain value can be saved as it is."""
    try:
        TensorJSONEncoder(copy=False).pack(value, "value")
    except (TypeError, ValueError):
        return False
    return True


def own_state(step: Any, model: Any, parts: Components, others: Any = ()) -> dict[str, Any]:
    """Return the state of a step: by its ``state_dict`` if it has one, else its attributes."""
    if callable(getattr(step, "state_dict", None)) and (
            callable(getattr(step, "load_state_dict", None))):
        return {"own": step.state_dict()}
    objects, values, _ = sorted_out(step, model, parts, others)
    modules = [*parts.modules.values(),
               *(one for one in objects.values() if isinstance(one, nn.Module))]
    return {"objects": {name: state_of_object(one, modules) for name, one in objects.items()},
            "values": values}


def put_own_state(step: Any, model: Any, saved: Mapping[str, Any]) -> None:
    """Put back the state of a step."""
    if "own" in saved:
        step.load_state_dict(saved["own"])
        return
    parts = components_of(model)
    objects, _, _ = sorted_out(step, model, parts)
    if missing := [name for name in saved["objects"] if name not in objects]:
        raise bad_value("StepRunner",
                        received=f"one without {', '.join(missing)}, which the stopped run's step "
                        "had", expected="a step that makes them in __init__",
                        fix="Make them there, or pass them to KerasModel as step objects.")
    for name, state in saved["objects"].items():
        put_object(objects[name], state)
    known = tensors_of(parts)
    for name, value in saved["values"].items():
        ours = OURS if isinstance(step, StepRunner) else set()
        if name in GIVEN | ours or name in model.step_objects or hasattr(type(step), name):
            raise bad_value("StepRunner",
                            received=f"a state with a {name}, which is not kept as a value of a "
                            "step", expected="what the stopped run's step kept",
                            fix="Is it the state of this run?")
        setattr(step, name, put_into(
            getattr(step, name, None), value, known, step.accelerator.device))


def state_of_object(one: Any, modules: list[nn.Module]) -> Any:
    """Return the state of an object of any kind that has one."""
    if isinstance(one, torch.optim.Optimizer):
        return optimizer_state(one, modules)
    if isinstance(one, nn.Module):
        return bare_state_dict(one)
    return one.state_dict() if hasattr(one, "state_dict") else generator_state(one)


def put_object(one: Any, state: Any) -> None:
    """Put the state of an object back."""
    if isinstance(one, torch.optim.Optimizer):
        load_optimizer_state(one, state)
    elif isinstance(one, nn.Module):
        load_bare_state_dict(one, state)
    elif hasattr(one, "load_state_dict"):
        one.load_state_dict(state)
    else:
        set_generator_state(one, state)


def put_into(now: Any, value: Any, known: set[int], device: Any) -> Any:
    """Put a plain value back, into existing tensors and containers, which others may share.

    Args:
        now: what is there.
        value: what was saved.
        known: tensors that are put back by others.
        device: where new tensors go.
    """
    if id(now) in known:
        return now
    if isinstance(value, Tensor):
        if isinstance(now, Tensor) and (now.shape, now.dtype) == (value.shape, value.dtype):
            with torch.no_grad():
                now.copy_(value)
            return now
        return value.clone().to(device)
    if isinstance(value, dict):
        return in_dict(now if isinstance(now, dict) else {}, value, known, device)
    if type(value) in (list, tuple, deque):
        there = list(now) if isinstance(now, type(value)) else []
        items = [put_into(there[place] if place < len(there) else None, one, known, device)
                 for place, one in enumerate(value)]
        if isinstance(value, tuple) or not isinstance(now, type(value)):
            return deque(items, value.maxlen) if isinstance(value, deque) else type(value)(items)
        now.clear()
        now.extend(items)
    return now if type(value) in (list, deque) else value


def in_dict(now: dict[Any, Any], value: Mapping[Any, Any], known: set[int],
            device: Any) -> dict[Any, Any]:
    """Put the items of a dict back into the existing one, which may be a defaultdict."""
    items = {key: put_into(now.get(key), one, known, device) for key, one in value.items()}
    now.clear()
    now.update(items)
    return now
