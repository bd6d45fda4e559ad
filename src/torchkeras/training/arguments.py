"""From what a user wrote to what the engine takes: parts by name, data of every kind, the checks that need both."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Adam
from torch.utils.data import IterableDataset

from torchkeras.checks import preflight
from torchkeras.core import keywords
from torchkeras.core.errors import bad_type, bad_value, kind_of, mistake, switch, whole_number
from torchkeras.core.optimizers import Optimizers, gathered
from torchkeras.core.tracebacks import level_of_caller
from torchkeras.data import Batches, split_validation
from torchkeras.data.arrays import is_array, is_number_list
from torchkeras.data.kinds import array_tree, is_map_dataset
from torchkeras.engine.callback import check_callbacks
from torchkeras.engine.config import FitConfig
from torchkeras.engine.device import launched
from torchkeras.engine.lr_schedule import Span, notes_of
from torchkeras.engine.monitor import check_monitor
from torchkeras.engine.step import StepRunner, updates_itself
from torchkeras.state.components import loss_modules
from torchkeras.training import names
from torchkeras.training.task import task_of


def make_optimizer(optimizer: Any, net: nn.Module, loss_fn: Any = None) -> Any:
    """An optimizer from a name, or the default one, for net and loss; None for a net that has nothing to learn."""
    if optimizer is not None and not isinstance(optimizer, str):
        return gathered(optimizer, Optimizers)
    if not any(weight.requires_grad for weight in net.parameters()):
        return None
    learning = list({id(weight): weight for part in (net, *loss_modules(loss_fn)) for weight in part.parameters()
                     if weight.requires_grad}.values())
    return Adam(learning, lr=3e-4) if optimizer is None else names.optimizer(optimizer, learning)


def named_metrics(metrics: Any, loss_fn: Any) -> dict[str, Any]:
    """Metric objects by name, from a dict or a list of names."""
    if metrics is None:
        return {}
    if isinstance(metrics, (list, tuple)) and all(isinstance(one, str) for one in metrics):
        metrics = {name: name for name in metrics}
    if not isinstance(metrics, Mapping):
        raise bad_type("metrics_dict", received=type(metrics).__name__,
                       expected='a dict of name to metric, or a list of names', fix='Such as {"acc": "accuracy"}.')
    for name in metrics:
        preflight.check_metric_name(name)
    task = task_of(loss_fn)
    return {name: names.as_metric(name, value, task=task) for name, value in metrics.items()}


def unbatched(data: Any) -> bool:
    """Whether data comes as samples, so that the batch size is ours to choose."""
    return shufflable(data) or isinstance(data, IterableDataset)


def shufflable(data: Any) -> bool:
    """Whether samples can be read in any order."""
    return array_tree(data) is not None or is_map_dataset(data)


def starts_others(num_processes: int) -> bool:
    """Whether processes are to be started; in one that was started itself, they are there already."""
    whole_number("num_processes", num_processes, least=1)
    return num_processes > 1 and not launched()


def check_options(batch_size: Any, steps_per_epoch: Any, validation_steps: Any, **switches: Any) -> None:
    """Refuse options of ``fit`` that are of the wrong kind, under the names that they have there."""
    whole_number("batch_size", batch_size, least=1, optional=True)
    whole_number("steps_per_epoch", steps_per_epoch, least=1, optional=True)
    whole_number("validation_steps", validation_steps, least=1, optional=True)
    for name, value in switches.items():
        if not (name == "shuffle" and value is None):
            switch(name, value)


def check_labelled(model: Any, train_data: Any, val_data: Any) -> None:
    """Refuse validation data that is one array: it has no labels, and mostly is the ``y`` of ``fit(x, y)``."""
    ours = all(getattr(model.StepRunner, verb, None) is getattr(StepRunner, verb)
               for verb in ("__call__", "try_out", "forward", "loss"))
    if model.loss_fn is None or not ours or not (is_array(val_data) or is_number_list(val_data)):
        return
    count, arrays = len(val_data), array_tree(train_data)
    features = arrays if is_array(arrays) or is_number_list(arrays) else None
    alike = features is not None and len(features) == count
    if alike or isinstance(arrays, Mapping) or (isinstance(arrays, (tuple, list)) and features is None
                                                and count == len(next(iter(arrays)))):
        given = "x" if features is not None else "(x1, x2)" if not isinstance(arrays, Mapping) else "{'a': x1, ...}"
        raise bad_type("val_data", received=f"one {type(val_data).__name__} of {count} values, as if it were fit(x, y)",
                       expected="features and labels as one tuple", fix=f"fit(({given}, y)), and for validation data "
                       "fit((x, y), (x_val, y_val)).")
    raise bad_type("val_data", received=f"one {type(val_data).__name__} of {count} values, which has no labels",
                   expected="(x, y), or other data with labels", fix="fit((x, y), (x_val, y_val)).")


def check_constructor(step: Any, objects: Mapping[str, Any], **parts: Any) -> None:
    """Refuse a further keyword that is another library's word for a part of a model, or for an option of ``fit``.

    Others are for a StepRunner, which may be set on the model later; they are looked at when one is built.
    """
    taken = inspect.signature(step).parameters
    for name in objects:
        ours = keywords.ours_for(name)
        left_out = any(parts.get(one) is None for one in ours if one in parts) or (
            name in ("lr", "learning_rate") and isinstance(parts["optimizer"], str))
        of_fit = not any(one in parts for one in ours) and any(one in keywords.RUN_WITH for one in ours)
        if name not in taken and (left_out or of_fit):
            raise mistake(TypeError(keywords.unknown("KerasModel", name, ("net", *parts))))


def with_validation(train_data: Any, val_data: Any, share: float | None,
                    dtype: torch.dtype | None = None) -> tuple[Any, Any]:
    """Training and validation data, the second split off the first when asked."""
    if share is None:
        return train_data, val_data
    if val_data is not None:
        raise bad_value("validation_split", received=f"{share} beside val_data", expected="one of the two")
    return split_validation(train_data, share, dtype=dtype)


def settle(config: FitConfig, model: Any, train: Batches, val: Batches | None) -> tuple[FitConfig, list[str]]:
    """What only config, model and data together can tell: the last checks, and what is worth saying."""
    if model.optimizer is None:
        raise bad_value("net", received="a net without a parameter that requires grad", expected="one that can learn")
    notes = preflight.check_learning(model)
    check_step_objects(model)
    check_class_weight(config, model)
    if val is None and config.monitor == "val_loss":
        config = replace(config, monitor="train_loss")
        notes.append("monitor: no val_data, watching train_loss")
    if val is None and config.monitor.startswith("val_"):
        raise bad_value("monitor", received=repr(config.monitor), expected="a number of the training, without val_data",
                        fix="Pass val_data to measure on, or monitor='train_loss'.")
    known = [f"{stage}_{name}" for stage in (("train", "val") if val is not None else ("train",))
             for name in ("loss", *model.metrics_dict)]
    if model.StepRunner is StepRunner and not any("_" + name in config.monitor for name in model.metrics_dict):
        check_monitor(config.monitor, known)
    notes += notes_of(model.lr_scheduler, config.lr_interval, Span.of_run(config, train.length),
                      updates_itself(model.StepRunner))
    if train.length is not None and config.gradient_accumulation_steps > train.length:
        notes.append(f"gradient_accumulation_steps: {config.gradient_accumulation_steps}, and an epoch has "
                     f"{train.length} batches: one update an epoch")
    return config, notes


def warn_of_divergence(run: Any, once: bool = False) -> None:
    """Warn that a run ended because a loss was not finite: of several processes, in the one that has it.

    Args:
        run: the run that is over.
        once: True where this process speaks for all.
    """
    if not run.diverged:
        return
    own = run.together.request
    has_it = own is not None and own.diverged and run.stop_reason.startswith(own.reason)
    if once or has_it or (run.together.main and " in process " not in run.stop_reason):
        warnings.warn(f"fit: {run.stop_reason}", RuntimeWarning, stacklevel=level_of_caller())


def check_class_weight(config: FitConfig, model: Any) -> None:
    """Refuse class weights that nothing would look at."""
    if config.class_weight is None:
        return
    if model.loss_fn is None:
        raise bad_value("class_weight", received="weights for a net that brings its own loss", expected="None there",
                        fix="Pass a loss_fn, or weigh in the net's own loss.")
    kind = model.StepRunner
    if not (isinstance(kind, type) and issubclass(kind, StepRunner) and kind.__call__ is StepRunner.__call__):
        raise bad_value("class_weight", received="weights with a StepRunner that has a __call__ of its own",
                        expected="None there", fix="Weigh in that StepRunner.")


def check_step_objects(model: Any) -> None:
    """Refuse keywords that the StepRunner does not take, with the name that may have been meant."""
    if not model.step_objects:
        return
    taken = inspect.signature(model.StepRunner).parameters
    if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        return
    known = list(dict.fromkeys(["net", "loss_fn", "metrics_dict", "optimizer", "lr_scheduler", *taken]))
    for name in model.step_objects:
        if name not in taken:
            raise bad_type(f"KerasModel({name}=...)", received="a keyword that the StepRunner does not take",
                           expected="one of " + ", ".join(known), fix=keywords.advice("KerasModel", name, known))


def listening(callbacks: Any, *, plot: bool, wandb: bool | str, quiet: bool, report: Any = None,
              val_data: Any = None) -> list[Any]:
    """A stopwatch, the user's callbacks, then the loggers, the report and the display that were asked for."""
    from torchkeras.display.progress import Progress, one_display
    from torchkeras.display.stopwatch import Stopwatch

    listeners = one_display(check_callbacks(callbacks))
    if not isinstance(wandb, (bool, str)):
        raise bad_type("wandb", received=kind_of(wandb), expected="True, False or the name of a project")
    if wandb:
        from torchkeras.callbacks.wandb import WandbCallback

        listeners.append(WandbCallback(project=wandb if isinstance(wandb, str) else None))
    if report is not None:
        from torchkeras.display.report import ReportWriter

        listeners.append(ReportWriter(report, val_data))
    if not quiet and not any(isinstance(one, Progress) for one in listeners):
        listeners.append(Progress(plot=plot))
    return [Stopwatch(), *listeners]
