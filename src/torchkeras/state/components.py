"""What of a model has a state of its own, by name: modules, optimizers, schedules, and other objects that keep some.

A run places, measures, saves and resumes all of it. What has values that nobody can save is named, in a note.
"""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from torchkeras.core.optimizers import each_of, titled

GENERATORS = torch.Generator, np.random.Generator, np.random.RandomState, random.Random
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, FunctionType, MethodType,
         ModuleType, type)
OF_MODULES = frozenset(vars(nn.Module())) | {"_backward_hooks", "_is_full_backward_hook"}
SHOWN = 5  # names in a note
DEEP = 3  # objects in objects, of a loss that is an object


class Components(NamedTuple):
    """The parts of a model that have a state, each once, by name."""

    modules: dict[str, nn.Module]  # the net first, then a loss with a state, then step objects
    optimizers: dict[str, Any]
    schedulers: dict[str, Any]
    others: dict[str, Any]  # whatever else has state_dict and load_state_dict, and random generators
    stateless: list[str]  # names of step objects and parts of a loss that hold values and have no state


def components_of(model: Any) -> Components:
    """Return the parts of a model that have a state: of the net, the loss, optimizers, schedules and step objects."""
    found = Components({"net": model.net}, {}, {}, {}, [])
    for argument, part, kind in (("optimizer", model.optimizer, found.optimizers),
                                 ("lr_scheduler", model.lr_scheduler, found.schedulers)):
        kind.update({titled(argument, key): one for key, one in each_of(part).items()})
    for name, one in list(found.optimizers.items()):
        found.optimizers.update(nested(name, one))
    for name, one in parts_of_loss(model.loss_fn):
        add(found, name, one)
    for name, one in model.step_objects.items():
        add(found, name, one)
    return found


def unkept(found: Components) -> list[str]:
    """Return the names of values that a run cannot save: those outside of any ``state_dict``."""
    return [*found.stateless, *(f"{name}.{path}" for name, module in found.modules.items()
                                for path in outside_state(module, found))]


def modules_of(model: Any) -> list[nn.Module]:
    """Return all modules that have a mode: the net, those of the loss and of the step objects, with a state or not."""
    found = [*loss_modules(model.loss_fn), *modules_in(list(model.step_objects.values()))]
    return [model.net, *(one for one in found if one is not model.net)]


def loss_modules(loss_fn: Any) -> list[nn.Module]:
    """Return the modules in a loss."""
    return [one for _, part in parts_of_loss(loss_fn) for one in modules_in(part)]


def parts_of_loss(loss_fn: Any, name: str = "loss_fn", deep: int = DEEP) -> Iterator[tuple[str, Any]]:
    """Yield the objects in a loss that may have a state: itself, what a partial binds, whose method it is.

    Args:
        loss_fn: the loss, or an object in one.
        name: what it is called.
        deep: through how many objects to look.
    """
    if isinstance(loss_fn, functools.partial):
        yield from parts_of_loss(loss_fn.func, f"{name}.func")
        bound = {f"{name}.args[{place}]": one for place, one in enumerate(loss_fn.args)} | {
            f"{name}.keywords[{key!r}]": one for key, one in loss_fn.keywords.items()}
        # tensors that are bound, such as class weights, are constants
        for key, one in bound.items():
            if not isinstance(one, (Tensor, np.ndarray)):
                yield from parts_of_loss(one, key, deep - 1)
    elif isinstance(loss_fn, MethodType):
        yield from parts_of_loss(loss_fn.__self__, f"{name}.__self__", deep)
    elif isinstance(loss_fn, nn.Module) or stateful(loss_fn):
        yield name, loss_fn
    elif not isinstance(loss_fn, PLAIN):
        yield from inside_object(loss_fn, name, deep)


def inside_object(one: Any, name: str, deep: int) -> Iterator[tuple[str, Any]]:
    """Yield the objects among the attributes of an object of a user's own class, and in such objects there."""
    for key, value in vars_of(one).items():
        if type(value).__module__ != "builtins" and vars_of(value) and not isinstance(value, (nn.Module, Tensor)) and (
                not stateful(value) and deep > 0):
            yield from inside_object(value, f"{name}.{key}", deep - 1)
        else:
            yield f"{name}.{key}", value


def add(found: Components, name: str, one: Any) -> None:
    """Sort an object into the kind of its state; of lists, tuples and dicts, each item."""
    if isinstance(one, (list, tuple)) and not hasattr(one, "_fields"):
        for number, item in enumerate(one):
            add(found, f"{name}[{number}]", item)
    elif type(one) is dict:
        for key, item in one.items():
            add(found, f"{name}[{key!r}]", item)
    elif isinstance(one, nn.Module):
        add_module(found, name, one)
    elif not any(one is known for kind in found[1:4] for known in kind.values()):
        sort_in(found, name, one)


def add_module(found: Components, name: str, one: nn.Module) -> None:
    """Sort in a module, unless it is a part of one that is there; of one that holds the net, what else it holds."""
    if not has_state(one) or inside(one, found.modules.values()):
        return
    own = any(True for _ in (*one.parameters(recurse=False), *one.buffers(recurse=False)))
    if not own and inside(found.modules["net"], [one]):
        for key, child in one.named_children():
            add_module(found, f"{name}.{key}", child)
    else:
        found.modules[name] = one


def sort_in(found: Components, name: str, one: Any) -> None:
    """Sort in an object that is no module: an optimizer, a schedule, something else that has a state, or none."""
    if isinstance(one, torch.optim.Optimizer) or (stateful(one) and hasattr(one, "param_groups")):
        found.optimizers.update({name: one, **nested(name, one)})
    elif stateful(one) and hasattr(one, "get_last_lr"):
        found.schedulers[name] = one
    elif stateful(one) or isinstance(one, GENERATORS):
        found.others[name] = one
    else:
        found.stateless.extend(values_in(name, one))


def nested(name: str, optimizer: Any) -> dict[str, Any]:
    """Return the optimizers that an optimizer holds, such as the one that SAM or Lookahead steps with."""
    return {f"{name}.{key}": one for key, one in vars_of(optimizer).items() if isinstance(one, torch.optim.Optimizer)}


def stateful(one: Any) -> bool:
    """Tell whether an object can say its state, and take one."""
    return not isinstance(one, type) and all(
        callable(getattr(one, method, None)) for method in ("state_dict", "load_state_dict"))


def has_state(module: nn.Module) -> bool:
    """Tell whether a module has weights, buffers or a state of its own make."""
    return any(True for _ in (*module.parameters(), *module.buffers())) or bool(module.state_dict())


def inside(module: nn.Module, others: Any) -> bool:
    """Tell whether a module is one of others, or a part of one."""
    return any(module is part for other in others for part in other.modules())


def values_in(name: str, one: Any) -> Iterator[str]:
    """Yield the name of a value that may change and has no state to save: numbers in arrays, and what holds some."""
    if isinstance(one, (Tensor, np.ndarray)):
        yield name
    elif isinstance(one, (list, tuple, dict, deque)):
        if any(True for item in (one.values() if isinstance(one, dict) else one) for _ in values_in(name, item)):
            yield name
    elif not isinstance(one, PLAIN) and not isinstance(one, nn.Module):
        held = vars_of(one)
        if any(isinstance(item, (Tensor, np.ndarray, nn.Module, list, dict, deque)) for item in held.values()):
            yield name


def vars_of(one: Any) -> dict[str, Any]:
    """Return an object's attributes."""
    found: dict[str, Any] = getattr(one, "__dict__", {})
    return found


def outside_state(module: nn.Module, found: Components) -> Iterator[str]:
    """Yield the names of tensors, arrays and modules that a module keeps outside of its ``state_dict``."""
    saved = {id(value) for value in (*module.parameters(), *module.buffers())}
    for path, part in module.named_modules():
        extra = type(part).get_extra_state is not nn.Module.get_extra_state
        for name, value in {} if extra else vars_of(part).items():
            if name not in OF_MODULES and not name.startswith("__") and id(value) not in saved and (
                    hides(value) and not any(inside(one, found.modules.values()) for one in modules_in(value))):
                yield f"{path}.{name}".lstrip(".")


def hides(value: Any) -> bool:
    """Tell whether a plain attribute holds tensors, arrays or modules that are no part of a ``state_dict``."""
    if isinstance(value, (list, tuple, dict, deque)):
        return any(hides(one) for one in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, (Tensor, np.ndarray, nn.Module))


def modules_in(value: Any) -> list[nn.Module]:
    """Return the modules in lists, tuples and dicts."""
    if isinstance(value, (list, tuple, dict, deque)):
        return [one for item in (value.values() if isinstance(value, dict) else value) for one in modules_in(item)]
    return [value] if isinstance(value, nn.Module) else []


def shortened(names: list[str]) -> str:
    """Return names for a message, not more than a few."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
