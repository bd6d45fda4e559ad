"""The steps of a run: one for each stage, built once, so that what a step keeps for itself lives as long as the run."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.checkpoint.serialization import Packer
from torchkeras.core.errors import bad_value
from torchkeras.core.types import Stage
from torchkeras.distributed.ddp import Replica
from torchkeras.engine.device import InAStep
from torchkeras.engine.run import Run
from torchkeras.engine.step import StepRunner
from torchkeras.state.components import PLAIN, Components, add, components_of
from torchkeras.state.generators import put_state, state_of
from torchkeras.state.module_state import put_weights, weights_in
from torchkeras.state.optimizer_state import optimizer_state, put_optimizer
from torchkeras.state.rng import put_random_states, random_states

BARE: Any = SimpleNamespace(mixed_precision="no")
OURS = frozenset({*vars(StepRunner), *StepRunner.__annotations__, *vars(StepRunner(nn.Identity(), None, BARE)),
                  "learning_rate"})  # attributes that are not the user's


def step_of(model: Any, run: Run, stage: Stage, learning: bool, argument: str) -> Any:
    """Return the step of a stage; it is built for the first pass, and made ready for a new pass after that."""
    step = run.step_runners.get((stage, learning))
    if step is None or type(step) is not model.StepRunner:
        states = random_states() if run.trained else None
        step = run.step_runners[stage, learning] = build_step(model, run, stage, learning, argument)
        if states is not None:
            put_random_states(states)  # in a run that goes on it is built once more
        run.notes += nets_for_each_stage(model, run.step_runners)
        if (saved := run.step_states.pop(stage, None)) is not None:
            put_own_state(step, model, saved)
        return step
    parts = parts_of_step(model, run, learning)
    for name, part in parts.items():
        if name in vars(step) or name in ("net", "loss_fn"):
            setattr(step, name, part)
    step.replicas = [one for one in parts.values() if isinstance(one, Replica)]
    make_ready(step, run, stage, learning, argument)
    return step


def parts_of_step(model: Any, run: Run, learning: bool) -> dict[str, Any]:
    """Return net, loss and step objects as a step computes with them: replicas where several processes learn."""
    shared = run.tools.replicas() if learning or run.config.fsdp else {}
    return {"net": model.net, "loss_fn": model.loss_fn, **model.step_objects, **shared}


def build_step(model: Any, run: Run, stage: Stage, learning: bool, argument: str) -> Any:
    """A step for one pass, ours or the user's: the keywords are a contract with steps that users have written."""
    tools, parts = run.tools, parts_of_step(model, run, learning)
    accelerator = run.accelerator if run.together.world == 1 else InAStep(run.accelerator)
    step = model.StepRunner(accelerator=accelerator, stage=stage, metrics_dict=tools.metrics[stage],
                            optimizer=tools.optimizer if learning else None,
                            lr_scheduler=tools.given_scheduler if learning else None,
                            **parts)
    step.replicas = [one for one in parts.values() if isinstance(one, Replica)]
    check_names(step)
    make_ready(step, run, stage, learning, argument)
    return step


def check_names(step: Any) -> None:
    """Refuse a step whose attributes have names that this library's steps need for something else."""
    if not isinstance(step, StepRunner):
        return
    taken = [name for name, value in UNSET.items() if vars(step).get(name, value) != value]
    taken += [name for name in ("known", "waiting", "terms", "measured_by", "learning_rate") if name in vars(step)]
    if taken:
        raise bad_value("StepRunner", received=f"one that keeps something of its own as {', '.join(taken)}",
                        expected="other names: StepRunner needs these for itself", fix="Rename it in your class.")


GIVEN = {"net", "loss_fn", "accelerator", "stage", "metrics_dict", "optimizer", "lr_scheduler", "whole_numbers",
         "replicas"}
UNSET: dict[str, Any] = {"number": 0, "seen": None, "parts": {}}  # attributes before the first batch


def make_ready(step: Any, run: Run, stage: Stage, learning: bool, argument: str) -> None:
    """Let a step of ours begin a pass."""
    if not isinstance(step, StepRunner):
        return
    for name in PER_PASS:
        vars(step).pop(name, None)
    step.number, step.seen, step.parts = 0, None, {}
    step.config, step.together, step.facts, step.notes = run.config, run.together, run.facts[stage], run.notes
    step.moving = run.tools.step_scheduler if learning else None
    step.rehearsing = learning and run.trained == 0
    step.looking, step.argument = True, argument
    step.trouble = run.trouble if step.rehearsing else None


PER_PASS = ("bound", "grown", "gradient_norm", "known", "weighed", "labelled", "waiting", "terms", "whole_numbers",
            "measured_by")


def own_attributes(step: Any, model: Any, parts: Components, others: Any = ()) -> Iterator[tuple[str, Any]]:
    """Yield what a step keeps beside the parts that it was given, and beside what other steps keep too."""
    given = {id(one) for one in (model.net, model.loss_fn, model.optimizer, *model.step_objects.values())}
    given |= {id(value) for other in others for value in vars(other).values()} | tensors_of(parts)
    named = GIVEN | (OURS if isinstance(step, StepRunner) else set())
    yield from ((name, value) for name, value in vars(step).items()
                if name not in named and name not in model.step_objects and id(value) not in given)


def tensors_of(parts: Components) -> set[int]:
    """Return the parameters and buffers of a model, which are saved with its modules."""
    return {id(value) for module in parts.modules.values()
            for value in (*module.parameters(), *module.buffers())}


def nets_for_each_stage(model: Any, steps: Mapping[Any, Any]) -> list[str]:
    """Say which nets the steps of training and validation each make: what one of them learns, the other lacks."""
    both = [steps.get(key) for key in (("train", True), ("val", False))]
    if None in both:
        return []
    parts = components_of(model)
    train, val = ({name: one for name, one in own_attributes(step, model, parts) if isinstance(one, nn.Module)
                   and not hasattr(one, "compute") and any(True for _ in one.parameters())} for step in both)
    names = [f"StepRunner.{name}" for name, one in train.items() if val.get(name, one) is not one]
    return [f"{', '.join(names)}: made by each step for itself, so the step of the validation has another than that of "
            "the training; give it to KerasModel as a step object if it learns or changes"] if names else []


def states_of_steps(steps: Mapping[tuple[Stage, bool], Any], model: Any, parts: Components) -> dict[str, Any]:
    """Return what the steps of a run keep, by stage; what two of them share is that of the training's."""
    train, val = steps.get(("train", True)), steps.get(("val", False))
    found = {} if train is None else {"train": own_state(train, model, parts)}
    return found if val is None else {**found, "val": own_state(val, model, parts, [] if train is None else [train])}


def sorted_out(step: Any, model: Any, parts: Components,
               others: Any = ()) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return what a step keeps: objects that have a state, by name; plain values; names of what cannot be saved."""
    found = Components(dict(parts.modules), dict(parts.optimizers), dict(parts.schedulers), dict(parts.others), [])
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
        Packer(copy=False).pack(value, "value")
    except (TypeError, ValueError):
        return False
    return True


def own_state(step: Any, model: Any, parts: Components, others: Any = ()) -> dict[str, Any]:
    """Return what a step keeps for itself: what its ``state_dict`` says, else its attributes."""
    if callable(getattr(step, "state_dict", None)) and callable(getattr(step, "load_state_dict", None)):
        return {"own": step.state_dict()}
    objects, values, _ = sorted_out(step, model, parts, others)
    modules = [*parts.modules.values(), *(one for one in objects.values() if isinstance(one, nn.Module))]
    return {"objects": {name: state_of_object(one, modules) for name, one in objects.items()}, "values": values}


def put_own_state(step: Any, model: Any, saved: Mapping[str, Any]) -> None:
    """Put back what a step kept for itself."""
    if "own" in saved:
        step.load_state_dict(saved["own"])
        return
    parts = components_of(model)
    objects, _, _ = sorted_out(step, model, parts)
    if missing := [name for name in saved["objects"] if name not in objects]:
        raise bad_value("StepRunner", received=f"one without {', '.join(missing)}, which the stopped run's step had",
                        expected="a step that makes them in __init__",
                        fix="Make them there, or pass them to KerasModel as step objects.")
    for name, state in saved["objects"].items():
        put_object(objects[name], state)
    known = tensors_of(parts)
    for name, value in saved["values"].items():
        ours = OURS if isinstance(step, StepRunner) else set()
        if name in GIVEN | ours or name in model.step_objects or hasattr(type(step), name):
            raise bad_value("StepRunner", received=f"a state with a {name}, which is not kept as a value of a step",
                            expected="what the stopped run's step kept", fix="Is it the state of this run?")
        setattr(step, name, put_into(getattr(step, name, None), value, known, step.accelerator.device))


def state_of_object(one: Any, modules: list[nn.Module]) -> Any:
    """Return the state of an object of any kind that has one."""
    if isinstance(one, torch.optim.Optimizer):
        return optimizer_state(one, modules)
    if isinstance(one, nn.Module):
        return weights_in(one)
    return one.state_dict() if hasattr(one, "state_dict") else state_of(one)


def put_object(one: Any, state: Any) -> None:
    """Put the state of an object back."""
    if isinstance(one, torch.optim.Optimizer):
        put_optimizer(one, state)
    elif isinstance(one, nn.Module):
        put_weights(one, state)
    elif hasattr(one, "load_state_dict"):
        one.load_state_dict(state)
    else:
        put_state(one, state)


def put_into(now: Any, value: Any, known: set[int], device: Any) -> Any:
    """Put a plain value back where it was: into the tensors and containers that are there, which others may know.

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


def in_dict(now: dict[Any, Any], value: Mapping[Any, Any], known: set[int], device: Any) -> dict[Any, Any]:
    """Put the items of a dict back into the one that is there, which may be of another kind, as defaultdict is."""
    items = {key: put_into(now.get(key), one, known, device) for key, one in value.items()}
    now.clear()
    now.update(items)
    return now
