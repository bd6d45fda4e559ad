"""Collect the state of a run at a boundary between two steps, compare it, and load it again."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from torchkeras.checkpoint.run_fingerprint import differences, run_fingerprint
from torchkeras.checkpoint.state_schema import check_options
from torchkeras.checkpoint.step_state import put_object, state_of_object, states_of_steps
from torchkeras.core.errors import bad_value
from torchkeras.core.types import State
from torchkeras.engine.run import Run
from torchkeras.engine.trainable import Trainable
from torchkeras.state.components import Components, components_of
from torchkeras.state.module_state import (
    bare_state_dict,
    load_bare_state_dict,
    non_persistent_buffers,
    set_buffers,
)
from torchkeras.state.optimizer_state import (
    add_saved_groups,
    group_parameter_names,
    load_loose_parameters,
    load_optimizer_state,
    optimizer_state,
    parameter_names,
)

if TYPE_CHECKING:
    from torchkeras.checkpoint.best import Best

RUN_ATTRIBUTES = {  # the keys in a saved state, which stay, and the attributes of a run
    "trained": "global_step", "updates": "optimizer_steps", "moved_by_step": "moved_by_step",
    "places": "places"}
MONITOR_ATTRIBUTES = {
    "best": "best", "best_epoch": "best_epoch", "reference": "reference",
    "misses": "num_bad_epochs", "improved": "improved"}


def requires_grad_flags(modules: list[nn.Module]) -> list[bool]:
    """Return whether each parameter requires grad, in order."""
    return [weight.requires_grad for module in modules for weight in module.parameters()]


def check_optimizer(optimizer: torch.optim.Optimizer, modules: list[nn.Module], saved: State,
                    argument: str = "optimizer", grows: bool = False) -> None:
    """Refuse a state whose parameters or groups are not those of the optimizer.

    Args:
        optimizer: as it is now.
        modules: the modules whose parameters it holds.
        saved: what :func:`optimizer_state` returned.
        argument: what an error calls it.
        grows: whether groups that were added after the optimizer was built may be missing now.
    """
    check_options(saved["groups"], optimizer.param_groups, saved["state"])
    now, before = group_parameter_names(optimizer, modules), saved["order"]
    known = set(parameter_names(modules).values())
    later = [name for order in before[len(now):] for name in order]
    fits = len(now) == len(before) or (
        grows and len(now) < len(before) and all(name in known for name in later))
    if fits and all(map(same_parameters, now, before)):
        return
    sizes = [[len(order) for order in one] for one in (before, now)]
    flat = [dict(enumerate(name for order in one for name in order)) for one in (before, now)]
    raise bad_value(
        argument, received=f"groups of {sizes[1]} parameters where the run had {sizes[0]}"
        if sizes[0] != sizes[1] else "its parameters in another order: " + differences(*flat),
        expected="the groups and the order of the stopped run",
        fix="Build the optimizer as it was.")


def same_parameters(now: list[str], before: list[str]) -> bool:
    """Tell whether two groups hold the same parameters; older states lack names of some."""
    return len(now) == len(before) and all(
        one == other or not other for one, other in zip(now, before, strict=True))


def check_components(model: Trainable, saved: State) -> list[str]:
    """Refuse a state whose optimizers are not those of the model; note parts that it lacks."""
    parts = components_of(model)
    modules = list(parts.modules.values())
    for name, optimizer in parts.optimizers.items():
        if name in saved["optimizers"]:
            check_optimizer(optimizer, modules, saved["optimizers"][name], name, grows=True)
    kinds = (("optimizers", parts.optimizers), ("schedulers", parts.schedulers),
             ("others", parts.others))
    new = [name for kind, own in kinds for name in own if name not in saved[kind]]
    new += list(parts.modules)[len(saved["net"]):]
    gone = [name for kind, own in kinds for name in saved[kind] if name not in own]
    if gone:
        raise bad_value(gone[0], received="nothing, where the stopped run had it",
                        expected="the same",
                        fix="Pass it as it was, or resume=False to begin anew.")
    return [f"resume: {', '.join(new)}: not in the saved state, and begin anew"] if new else []


def run_state_dict(model: Trainable, run: Run, best: Best, position: State,
                   ranks: list[State]) -> State:
    """Return the whole state of a run: plain values, and tensors that are not copied yet.

    Args:
        model: the model in training.
        run: its run.
        best: the best weights so far.
        position: where in the run this is: phase, epoch, step, and the row of the training pass.
        ranks: the part of each rank.
    """
    parts, monitor, (train, val) = components_of(model), run.monitor, run.data
    modules = list(parts.modules.values())
    epochs = run.history.get("epoch", [])
    rows = len(epochs)
    while rows and epochs[rows - 1] >= position["epoch"]:
        rows -= 1
    scaler = getattr(run.accelerator, "scaler", None)
    return {
        "position": position,
        "facts": run_fingerprint(model, run),
        "run": {name: getattr(run, attribute) for name, attribute in RUN_ATTRIBUTES.items()},
        "history": (run.history, rows),
        "monitor": {name: getattr(monitor, attribute)
                    for name, attribute in MONITOR_ATTRIBUTES.items()},
        "kept": best.kept, "best": best, "net": [bare_state_dict(module) for module in modules],
        "hidden": [non_persistent_buffers(module) for module in modules],  # not in any state_dict
        "learning": requires_grad_flags(modules), **component_states(parts),
        "steps": states_of_steps(run.step_runners, model, parts),
        "scaler": None if scaler is None else scaler.state_dict(),
        "data": {"train": train.position(), "val": None if val is None else val.position()},
        "ranks": ranks}


def component_states(parts: Components) -> State:
    """Return the states of optimizers, schedules and other objects: all that is not a module."""
    modules = list(parts.modules.values())
    return {"optimizers": {name: optimizer_state(one, modules)
                           for name, one in parts.optimizers.items()},
            "schedulers": {name: one.state_dict() for name, one in parts.schedulers.items()},
            "others": {name: state_of_object(one, modules) for name, one in parts.others.items()}}


def load_run_state_dict(model: Trainable, run: Run, best: Best, saved: State, history: bool = True,
                        groups: Mapping[str, int] | None = None) -> None:
    """Load all of a state that belongs neither to one rank nor to the data.

    Args:
        model: the model whose parts get their states.
        run: the run that is resumed.
        best: the best weights so far.
        saved: what :func:`run_state_dict` returned.
        history: whether to load history, best weights and patience too.
        groups: how many parameter groups each optimizer is to have. Default: all that were saved.
    """
    parts = components_of(model)
    modules = list(parts.modules.values())
    hidden = saved.get("hidden", [{} for _ in modules])
    for module, weights, buffers in zip(modules, saved["net"], hidden, strict=False):
        load_bare_state_dict(module, weights)
        set_buffers(module, buffers)
    every = (one for module in modules[:len(saved["net"])] for one in module.parameters())
    for weight, learns in zip(every, saved["learning"], strict=True):
        weight.requires_grad_(learns)
    load_component_states(parts, saved, modules, groups or {})
    scaler = getattr(run.accelerator, "scaler", None)
    if scaler is not None and saved["scaler"] is not None:
        scaler.load_state_dict(copy.deepcopy(saved["scaler"]))
    for name in RUN_ATTRIBUTES.keys() & saved["run"].keys():
        setattr(run, RUN_ATTRIBUTES[name], saved["run"][name])
    if history:
        load_history(run, best, saved)


def load_history(run: Run, best: Best, saved: State) -> None:
    """Load the history, the monitor, the best weights, and states of steps that are built later."""
    run.step_states = dict(saved["steps"])
    run.judged_anew = bool(saved.get("judged_anew"))
    if not run.judged_anew:
        for name, value in {"reference": saved["monitor"]["best"], **saved["monitor"]}.items():
            setattr(run.monitor, MONITOR_ATTRIBUTES[name], value)
    run.history.clear()
    run.history.update({name: column.tolist() for name, column in saved["history"].items()})
    run.history["epoch"] = [int(epoch) for epoch in run.history.get("epoch", ())]
    best.load_saved(saved["best"], saved["kept"])


def load_component_states(parts: Components, saved: State, modules: list[nn.Module],
                          groups: Mapping[str, int]) -> None:
    """Load optimizers, with the parameter groups that they had, schedules and other objects."""
    for name, state in saved["optimizers"].items():
        optimizer = parts.optimizers[name]
        count = max(groups.get(name, len(state["order"])), 1)
        count = max(count, len(optimizer.param_groups))
        add_saved_groups(optimizer, state, modules, count)
        load_optimizer_state(optimizer, state, count)
        load_loose_parameters(optimizer, state, modules)
    for name, state in saved["schedulers"].items():
        parts.schedulers[name].load_state_dict(copy.deepcopy(state))
    for name, state in saved["others"].items():
        put_object(parts.others[name], copy.deepcopy(state))


def upgrade_state(state: State) -> State:
    """Return a state of version 5.0.0a1 in today's form: it had one optimizer and one schedule."""
    if "optimizers" in state:
        return state
    scheduler = state.pop("lr_scheduler")
    schedulers = {} if scheduler is None else {"lr_scheduler": scheduler}
    return {**state, "optimizers": {"optimizer": state.pop("optimizer")}, "others": {},
            "steps": {}, "schedulers": schedulers, "groups": {}}
