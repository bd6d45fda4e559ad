"""Run ``fit`` and ``evaluate`` in several processes, and bring the results back into this one."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from torchkeras.checkpoint.best import UNWRITTEN
from torchkeras.checkpoint.known_files import known_files_of
from torchkeras.checkpoint.run_state import component_states, load_component_states
from torchkeras.core.rng import put_random_states, random_states
from torchkeras.core.tracebacks import level_of_caller
from torchkeras.core.types import State, Value
from torchkeras.data import Batches
from torchkeras.data.fit_data import FitData
from torchkeras.distributed import launcher
from torchkeras.engine.callback import Callback
from torchkeras.engine.checkpointing import NoCheckpoint
from torchkeras.engine.config import FitConfig
from torchkeras.engine.run import Run, TrainingObjects
from torchkeras.engine.strategy import SingleProcess
from torchkeras.state.components import components_of
from torchkeras.state.module_state import (
    bare_state_dict,
    load_bare_state_dict,
    non_persistent_buffers,
    set_buffers,
)
from torchkeras.training.arguments import warn_of_divergence
from torchkeras.training.run_view import read_only, whole

if TYPE_CHECKING:
    import pandas as pd

    from torchkeras.kerasmodel import KerasModel


def fit(model: KerasModel, num_processes: int, config: FitConfig, callbacks: list[Callback],
        data: FitData) -> pd.DataFrame:
    """Train in new processes; load the results into this process's model and callbacks."""
    launcher.check_count(num_processes, config.cpu)
    given = {"callbacks": callbacks, "train_data": data.train, "val_data": data.val}
    result = launch(num_processes, fit_in_worker, model, given, {"config": config})
    parts = components_of(model)
    modules = list(parts.modules.values())
    for module, weights, hidden in zip(modules, result["weights"], result["hidden"], strict=True):
        load_bare_state_dict(module, weights)
        set_buffers(module, hidden)
    load_component_states(parts, result["parts"], modules, {})
    for callback, state in zip(callbacks, result["callbacks"], strict=True):
        vars(callback).update(state)
    run: Run = result["run"]
    model.run, model.from_scratch = read_only(run), True
    known_files_of(model).update(result["known_files"])
    put_random_states(result["random"])
    warn_of_divergence(run, once=True)
    for note in run.notes:  # warnings of the other process were not seen in this one
        if UNWRITTEN in note:
            warnings.warn(note.removeprefix("ckpt_path: "), RuntimeWarning,
                          stacklevel=level_of_caller())
    frame: pd.DataFrame = result["frame"]
    return frame


def fit_in_worker(model: KerasModel, config: FitConfig, callbacks: list[Callback],
                  train_data: Batches, val_data: Batches | None) -> State:
    """Train in one of several processes; return what is to be brought back."""
    frame = model.fit_run(config, callbacks, FitData(train_data, val_data))
    run: Any = whole(model.run)
    device: Any = SimpleNamespace(device=run.accelerator.device)
    bare: Any = dataclasses.replace(
        run, accelerator=device, objects=TrainingObjects({}), strategy=SingleProcess(),
        checkpointer=NoCheckpoint(), executor=None, running_metrics=dict, logs={})
    parts = components_of(model)
    modules = parts.modules.values()
    return {"frame": frame, "run": bare, "weights": [bare_state_dict(module) for module in modules],
            "hidden": [non_persistent_buffers(module) for module in modules],
            "parts": component_states(parts),
            "callbacks": [sendable_attributes(one, model) for one in callbacks],
            "known_files": known_files_of(model)}


def sendable_attributes(callback: object, *models: object) -> dict[str, Value]:
    """Return the attributes of a callback that can be sent to another process.

    Args:
        callback: the callback.
        models: what the other process has one of already.
    """
    found = {}
    for name, value in getattr(callback, "__dict__", {}).items():
        if any(value is one for one in models):
            continue
        try:
            launcher.check_sendable(name, value)
        except TypeError:
            continue
        found[name] = value
    return found


def evaluate(model: KerasModel, num_processes: int, data: Batches,
             **options: Value) -> dict[str, float]:
    """Evaluate in new processes; return the metrics of all data."""
    launcher.check_count(num_processes, options["cpu"])
    result = launch(num_processes, evaluate_in_worker, model, {"data": data}, {"options": options})
    numbers: dict[str, float] = result["numbers"]
    return numbers


def evaluate_in_worker(model: KerasModel, data: Batches, options: Mapping[str, Value]) -> State:
    """Evaluate in one of several processes; return the metrics of all data."""
    return {"numbers": model.measure(data, **options)}


def launch(num_processes: int, work: Callable[..., State], model: KerasModel,
           given: Mapping[str, Value], options: Mapping[str, Value]) -> State:
    """Send a model and data to new processes that call ``work``; return rank 0's result."""
    bare = copy.copy(model)
    bare.run = None  # type: ignore[assignment]
    parts = {"net": model.net, "loss_fn": model.loss_fn, "metrics_dict": model.metrics_dict,
             "optimizer": model.optimizer, "lr_scheduler": model.lr_scheduler,
             "step_objects": model.step_objects}
    result: State = launcher.run(num_processes, {
        **parts, **given, "model": bare, "work": work,
        "arguments": {"model": bare, **given, **options},
        "dtype": torch.get_default_dtype(), "random": random_states()})
    return result
