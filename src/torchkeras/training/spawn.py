"""``fit`` and ``evaluate`` in several processes that this one starts, with everything back where it belongs."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch

from torchkeras.checkpoint.best import UNWRITTEN
from torchkeras.checkpoint.known_files import files_of
from torchkeras.checkpoint.run_state import put_parts, states_of
from torchkeras.core.tracebacks import level_of_caller
from torchkeras.data import Batches
from torchkeras.distributed import launcher
from torchkeras.distributed.communicator import Alone
from torchkeras.engine.config import FitConfig
from torchkeras.engine.run import Keeps, Tools
from torchkeras.state.components import components_of
from torchkeras.state.module_state import hidden_buffers, put_buffers, put_weights, weights_in
from torchkeras.state.rng import put_random_states, random_states
from torchkeras.training.arguments import warn_of_divergence

if TYPE_CHECKING:
    import pandas as pd

    from torchkeras.kerasmodel import KerasModel


def fit(model: KerasModel, num_processes: int, config: FitConfig, callbacks: list[Any], train: Batches,
        val: Batches | None) -> pd.DataFrame:
    """Train in processes of their own; weights, optimizer, schedule, history and callbacks come back into this one."""
    launcher.check_count(num_processes, config.cpu)
    result = start(num_processes, fitted, model, {"callbacks": callbacks, "train_data": train, "val_data": val},
                   {"config": config})
    parts = components_of(model)
    for module, weights, hidden in zip(parts.modules.values(), result["weights"], result["hidden"], strict=True):
        put_weights(module, weights)
        put_buffers(module, hidden)
    put_parts(parts, result["parts"], list(parts.modules.values()), {})
    for callback, state in zip(callbacks, result["callbacks"], strict=True):
        vars(callback).update(state)
    model.run, model.from_scratch = result["run"], True
    files_of(model).update(result["known_files"])
    put_random_states(result["random"])
    warn_of_divergence(result["run"], once=True)
    for note in result["run"].notes:  # what was warned of in the other process was not heard here
        if UNWRITTEN in note:
            warnings.warn(note.removeprefix("ckpt_path: "), RuntimeWarning, stacklevel=level_of_caller())
    return result["frame"]


def fitted(model: KerasModel, config: FitConfig, callbacks: list[Any], train_data: Batches,
           val_data: Batches | None) -> dict[str, Any]:
    """In each process: the run, and what is to be brought back of it."""
    frame = model.fit_run(config, callbacks, train_data, val_data)
    run: Any = model.run
    device: Any = SimpleNamespace(device=run.accelerator.device)
    bare: Any = dataclasses.replace(run, accelerator=device, tools=Tools({}), together=Alone(), keeper=Keeps(),
                                    running=dict, logs={})
    parts = components_of(model)
    modules = parts.modules.values()
    return {"frame": frame, "run": bare, "weights": [weights_in(module) for module in modules],
            "hidden": [hidden_buffers(module) for module in modules], "parts": states_of(parts),
            "callbacks": [kept(one) for one in callbacks], "known_files": files_of(model)}


def kept(callback: Any) -> dict[str, Any]:
    """What a callback remembers, without what only its own process can hold."""
    found = {}
    for name, value in getattr(callback, "__dict__", {}).items():
        try:
            launcher.check_sendable(name, value)
        except TypeError:
            continue
        found[name] = value
    return found


def evaluate(model: KerasModel, num_processes: int, data: Batches, **options: Any) -> dict[str, float]:
    """Measure in processes of their own."""
    launcher.check_count(num_processes, options["cpu"])
    return start(num_processes, measured, model, {"data": data}, {"options": options})["numbers"]


def measured(model: KerasModel, data: Batches, options: Mapping[str, Any]) -> dict[str, Any]:
    """In each process: the numbers of all."""
    return {"numbers": model.measure(data, **options)}


def start(num_processes: int, work: Any, model: KerasModel, given: Mapping[str, Any],
          options: Mapping[str, Any]) -> dict[str, Any]:
    """Send a model and data to several processes; what the first one brought back."""
    bare = copy.copy(model)
    bare.run = None
    parts = {"net": model.net, "loss_fn": model.loss_fn, "metrics_dict": model.metrics_dict,
             "optimizer": model.optimizer, "lr_scheduler": model.lr_scheduler, "step_objects": model.step_objects}
    return launcher.run(num_processes, {
        **parts, **given, "model": bare, "work": work, "arguments": {"model": bare, **given, **options},
        "dtype": torch.get_default_dtype(), "random": random_states()})
