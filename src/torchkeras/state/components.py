"""Collect the parts of a model that have a state: modules, optimizers, schedulers and others.

A run moves, measures, saves and resumes all of them. What holds values outside of any state is
named in a note, since it cannot be saved.
"""

from __future__ import annotations

import functools
import random
from collections import deque
from collections.abc import Iterable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from torchkeras.core.optimizers import argument_name, each_of
from torchkeras.core.tree import leaves
from torchkeras.core.types import HasParts

RandomGenerator: TypeAlias = (torch.Generator | np.random.Generator | np.random.RandomState |
                              random.Random)
GENERATORS = torch.Generator, np.random.Generator, np.random.RandomState, random.Random
PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, FunctionType,
         MethodType, ModuleType, type)
MODULE_ATTRIBUTES = frozenset(vars(nn.Module())) | {"_backward_hooks", "_is_full_backward_hook"}
MAX_NAMES = 5  # names in a note
MAX_DEPTH = 3  # levels of objects in objects that are searched in a loss


class Components(NamedTuple):
    """The parts of a model that have a state, each once, by name."""

    modules: dict[str, nn.Module]  # the net first, then a loss with a state, then step objects
    optimizers: dict[str, Any]
    schedulers: dict[str, Any]
    others: dict[str, Any]  # other objects with a state_dict, and random generators
    stateless: list[str]  # names of step objects and parts of a loss with values but no state


def components_of(model: HasParts) -> Components:
    """Collect the parts of a model that have a state, each once, by name."""
    found = Components({"net": model.net}, {}, {}, {}, [])
    for argument, part, kind in (("optimizer", model.optimizer, found.optimizers),
                                 ("lr_scheduler", model.lr_scheduler, found.schedulers)):
        kind.update({argument_name(argument, key): one for key, one in each_of(part).items()})
    for name, one in list(found.optimizers.items()):
        found.optimizers.update(inner_optimizers(name, one))
    for name, one in parts_of_loss(model.loss_fn):
        add(found, name, one)
    for name, one in model.step_objects.items():
        add(found, name, one)
    return found


def unsaved_names(found: Components) -> list[str]:
    """Return the names of values that no ``state_dict`` holds, so that a run cannot save them."""
    return [*found.stateless,
            *(f"{name}.{path}" for name, module in found.modules.items()
              for path in unsaved_attributes(module, found)),
            *(f"{name}.{path}" for name, optimizer in found.optimizers.items()
              for path in unsaved_in_optimizer(optimizer))]


def modules_of(model: HasParts) -> list[nn.Module]:
    """Return all modules with a train/eval mode: the net, those of the loss and step objects."""
    found = [*loss_modules(model.loss_fn), *modules_in(list(model.step_objects.values()))]
    return [model.net, *(one for one in found if one is not model.net)]


def loss_modules(loss_fn: object) -> list[nn.Module]:
    """Return the modules in a loss."""
    return [one for _, part in parts_of_loss(loss_fn) for one in modules_in(part)]


def parts_of_loss(loss_fn: object, name: str = "loss_fn",
                  deep: int = MAX_DEPTH) -> Iterator[tuple[str, Any]]:
    """Yield the objects in a loss that may have a state, each with its name.

    Args:
        loss_fn: the loss, or an object in one.
        name: its name.
        deep: how many levels of objects in objects are searched.
    """
    if isinstance(loss_fn, functools.partial):
        yield from parts_of_loss(loss_fn.func, f"{name}.func")
        bound = {f"{name}.args[{place}]": one for place, one in enumerate(loss_fn.args)} | {
            f"{name}.keywords[{key!r}]": one for key, one in loss_fn.keywords.items()}
        # bound tensors, such as class weights, are constants
        for key, one in bound.items():
            if not isinstance(one, (Tensor, np.ndarray)):
                yield from parts_of_loss(one, key, deep - 1)
    elif isinstance(loss_fn, MethodType):
        yield from parts_of_loss(loss_fn.__self__, f"{name}.__self__", deep)
    elif isinstance(loss_fn, nn.Module) or is_stateful(loss_fn):
        yield name, loss_fn
    elif not isinstance(loss_fn, PLAIN):
        yield from objects_inside(loss_fn, name, deep)


def objects_inside(one: object, name: str, deep: int) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of an object of a user's own class, and those of such objects in it."""
    for key, value in attributes_of(one).items():
        if type(value).__module__ != "builtins" and attributes_of(value) and not isinstance(
                value, (nn.Module, Tensor)) and not is_stateful(value) and deep > 0:
            yield from objects_inside(value, f"{name}.{key}", deep - 1)
        else:
            yield f"{name}.{key}", value


def add(found: Components, name: str, one: object) -> None:
    """Add an object to the kind that its state makes it; of lists, tuples and dicts, each item."""
    if isinstance(one, (list, tuple)) and not hasattr(one, "_fields"):
        for number, item in enumerate(one):
            add(found, f"{name}[{number}]", item)
    elif type(one) is dict:
        for key, item in one.items():
            add(found, f"{name}[{key!r}]", item)
    elif isinstance(one, nn.Module):
        add_module(found, name, one)
    elif not any(one is known for kind in found[1:4] for known in kind.values()):
        add_other(found, name, one)


def add_module(found: Components, name: str, one: nn.Module) -> None:
    """Add a module unless it is contained already; of one that contains the net, the rest."""
    if not has_state(one) or is_part_of(one, found.modules.values()):
        return
    own = any(True for _ in (*one.parameters(recurse=False), *one.buffers(recurse=False)))
    if not own and is_part_of(found.modules["net"], [one]):
        for key, child in one.named_children():
            add_module(found, f"{name}.{key}", child)
    else:
        found.modules[name] = one


def add_other(found: Components, name: str, one: object) -> None:
    """Add an object that is no module: an optimizer, a scheduler, or anything else."""
    if isinstance(one, torch.optim.Optimizer) or (
            is_stateful(one) and hasattr(one, "param_groups")):
        found.optimizers.update({name: one, **inner_optimizers(name, one)})
    elif is_stateful(one) and hasattr(one, "get_last_lr"):
        found.schedulers[name] = one
    elif is_stateful(one) or isinstance(one, GENERATORS):
        found.others[name] = one
    else:
        found.stateless.extend(unsaved_values(name, one))


def inner_optimizers(name: str, optimizer: object) -> dict[str, Any]:
    """Return the optimizers in an optimizer, such as the one that SAM or Lookahead steps with."""
    return {f"{name}.{key}": one for key, one in attributes_of(optimizer).items()
            if isinstance(one, torch.optim.Optimizer)}


def is_stateful(one: object) -> bool:
    """Tell whether an object has ``state_dict`` and ``load_state_dict``."""
    return not isinstance(one, type) and all(
        callable(getattr(one, method, None)) for method in ("state_dict", "load_state_dict"))


def has_state(module: nn.Module) -> bool:
    """Tell whether a module has weights, buffers or extra state."""
    return any(True for _ in (*module.parameters(), *module.buffers())) or bool(module.state_dict())


def is_part_of(module: nn.Module, others: Iterable[nn.Module]) -> bool:
    """Tell whether a module is one of others, or a submodule of one."""
    return any(module is part for other in others for part in other.modules())


def unsaved_values(name: str, one: object) -> Iterator[str]:
    """Yield the name of a value that may change and is in no state: an array, or its holder."""
    if isinstance(one, (Tensor, np.ndarray)):
        yield name
    elif isinstance(one, (list, tuple, dict, deque)):
        if any(True for item in (one.values() if isinstance(one, dict) else one)
               for _ in unsaved_values(name, item)):
            yield name
    elif not isinstance(one, PLAIN) and not isinstance(one, nn.Module):
        held = attributes_of(one)
        if any(isinstance(item, (Tensor, np.ndarray, nn.Module, list, dict, deque))
               for item in held.values()):
            yield name


def attributes_of(one: object) -> dict[str, Any]:
    """Return the attributes of an object, as the dict that holds them."""
    found: dict[str, Any] = getattr(one, "__dict__", {})
    return found


def unsaved_attributes(module: nn.Module, found: Components) -> Iterator[str]:
    """Yield the names of tensors, arrays and modules in a module that ``state_dict`` leaves out."""
    saved = {id(value) for value in (*module.parameters(), *module.buffers())}
    for path, part in module.named_modules():
        extra = type(part).get_extra_state is not nn.Module.get_extra_state
        for name, value in {} if extra else attributes_of(part).items():
            if name in MODULE_ATTRIBUTES or name.startswith("__") or id(value) in saved:
                continue
            if holds_tensors(value) and not any(is_part_of(one, found.modules.values())
                                                for one in modules_in(value)):
                yield f"{path}.{name}".lstrip(".")


def unsaved_in_optimizer(optimizer: Any) -> Iterator[str]:
    """Yield the names of tensors, and of optimizers within, that torch's ``state_dict`` leaves out.

    Lookahead's slow weights may be such tensors, and SAM's inner optimizer has a state of its own.
    """
    torchs = torch.optim.Optimizer
    if getattr(type(optimizer), "state_dict", None) is not torchs.state_dict:
        return  # the optimizer says itself what its state is
    weights = {id(one) for group in optimizer.param_groups for one in group["params"]}
    for name, value in attributes_of(optimizer).items():
        inner = isinstance(value, torchs) and value.state is not optimizer.state
        if name not in ("defaults", "state", "param_groups") and (inner or any(
                isinstance(one, Tensor) and id(one) not in weights for one in leaves(value))):
            yield name


def holds_tensors(value: object) -> bool:
    """Tell whether an attribute is, or contains, a tensor, an array or a module."""
    if isinstance(value, (list, tuple, dict, deque)):
        return any(map(holds_tensors, value.values() if isinstance(value, dict) else value))
    return isinstance(value, (Tensor, np.ndarray, nn.Module))


def modules_in(value: object) -> list[nn.Module]:
    """Return the modules in lists, tuples and dicts."""
    if isinstance(value, (list, tuple, dict, deque)):
        return [one for item in (value.values() if isinstance(value, dict) else value)
                for one in modules_in(item)]
    return [value] if isinstance(value, nn.Module) else []


def abbreviated(names: list[str]) -> str:
    """Join the first few names for a message, and count the rest."""
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return ", ".join(names[:MAX_NAMES]) + more
