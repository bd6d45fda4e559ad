"""Turn the arguments that a user wrote into what the engine takes, and check them together."""

from __future__ import annotations

import inspect
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.optim import Adam
from torch.utils.data import IterableDataset

from torchkeras.checks import preflight
from torchkeras.core import keywords
from torchkeras.core.errors import bad_type, bad_value, check_bool, kind_of, mistake, whole_number
from torchkeras.core.optimizers import Optimizers, combine
from torchkeras.core.screen import print_safely
from torchkeras.core.tracebacks import level_of_caller
from torchkeras.core.types import Data, Metric
from torchkeras.data import Batches, batches, split_validation
from torchkeras.data.arrays import is_array, is_number_list
from torchkeras.data.fit_data import FitData
from torchkeras.data.kinds import array_tree, is_map_dataset
from torchkeras.distributed.accelerator import launched
from torchkeras.engine.callback import Callback, check_callbacks
from torchkeras.engine.config import FitConfig
from torchkeras.engine.monitor import check_monitor
from torchkeras.engine.run import Run
from torchkeras.engine.step import StepRunner
from torchkeras.engine.trainable import Trainable
from torchkeras.state.components import loss_modules
from torchkeras.training import names
from torchkeras.training.own_steps import idle_optimizer, is_own, updates_itself
from torchkeras.training.schedules import Span, schedule_notes
from torchkeras.training.task import task_of

FALLING = re.compile(r"loss|err|mae|mse|mape|perplexity|ppl|nll|distance|divergence")
RISING = re.compile(r"acc|auc|f1|precision|recall|iou|dice|ks$|r2|score|topk|top_?\d|map$|bleu|"
                    r"corr")
OneOrMany: TypeAlias = Any  # an optimizer, several as one (core.optimizers), or None
STEP_VERBS = ("__call__", "forward_and_loss", "forward", "loss")  # that decide how labels are read


def make_optimizer(optimizer: object, net: nn.Module, loss_fn: object = None) -> OneOrMany:
    """Return an optimizer object for net and loss, from a name, objects or None (Adam).

    Returns None for a net that has nothing to learn.
    """
    if optimizer is not None and not isinstance(optimizer, str):
        return combine(optimizer, Optimizers)
    learning = learning_weights(net, loss_fn)
    if not learning:
        return None
    return Adam(learning, lr=3e-4) if optimizer is None else names.optimizer(optimizer, learning)


def learning_weights(net: nn.Module, loss_fn: object = None) -> list[nn.Parameter]:
    """Return the weights of net and loss that learn; none where the net has nothing to learn."""
    if not any(weight.requires_grad for weight in net.parameters()):
        return []
    return list({id(weight): weight for part in (net, *loss_modules(loss_fn))
                 for weight in part.parameters() if weight.requires_grad}.values())


def named_metrics(metrics: object, loss_fn: object) -> dict[str, Metric]:
    """Return metric objects by name, from a dict or a list of names."""
    if metrics is None:
        return {}
    if isinstance(metrics, nn.ModuleDict):
        metrics = dict(metrics.items())
    if isinstance(metrics, (list, tuple)) and all(isinstance(one, str) for one in metrics):
        metrics = {name: name for name in metrics}
    if not isinstance(metrics, Mapping):
        raise bad_type(
            "metrics_dict", received=type(metrics).__name__,
            expected='a dict of name to metric, or a list of names',
            fix='Such as {"acc": "accuracy"}.')
    for name in metrics:
        preflight.check_metric_name(name)
    task = task_of(loss_fn)
    return {name: names.as_metric(name, value, task=task) for name, value in metrics.items()}


def is_unbatched(data: Data) -> bool:
    """Return whether data comes as samples, so that ``fit`` chooses the batch size."""
    return is_shufflable(data) or isinstance(data, IterableDataset)


def is_shufflable(data: Data) -> bool:
    """Return whether samples can be read in any order."""
    return array_tree(data) is not None or is_map_dataset(data)


def launches_processes(num_processes: int) -> bool:
    """Return whether processes are to be started: not in a process that was started itself."""
    whole_number("num_processes", num_processes, least=1)
    return num_processes > 1 and not launched()


def check_options(arguments: Mapping[str, Any]) -> None:
    """Refuse options of ``fit`` that have the wrong type and are not in its ``FitConfig``."""
    for name in ("batch_size", "steps_per_epoch", "validation_steps"):
        whole_number(name, arguments[name], least=1, optional=True)
    for name in ("plot", "quiet"):
        check_bool(name, arguments[name])
    if arguments["shuffle"] is not None:
        check_bool("shuffle", arguments["shuffle"])


def check_labelled(model: Trainable, train_data: Data, val_data: Data) -> None:
    """Refuse validation data that is one array without labels: often the ``y`` of ``fit(x, y)``."""
    ours = all(getattr(model.StepRunner, verb, None) is getattr(StepRunner, verb)
               for verb in STEP_VERBS)
    one_array = is_array(val_data) or is_number_list(val_data)
    if model.loss_fn is None or not ours or not one_array:
        return
    count, arrays = len(val_data), array_tree(train_data)
    features = arrays if is_array(arrays) or is_number_list(arrays) else None
    received = f"one {type(val_data).__name__} of {count} values"
    alike = features is not None and len(features) == count
    if alike or isinstance(arrays, Mapping) or (
            isinstance(arrays, (tuple, list)) and features is None
            and count == len(next(iter(arrays)))):
        given = "(x1, x2)" if not isinstance(arrays, Mapping) else "{'a': x1, ...}"
        given = "x" if features is not None else given
        raise bad_type(
            "val_data", received=f"{received}, as if it were fit(x, y)",
            expected="features and labels as one tuple",
            fix=f"fit(({given}, y)), and for validation data fit((x, y), (x_val, y_val)).")
    raise bad_type("val_data", received=f"{received}, which has no labels",
                   expected="(x, y), or other data with labels",
                   fix="fit((x, y), (x_val, y_val)).")


def check_constructor(step: Callable[..., object], objects: Mapping[str, object],
                      **parts: object) -> None:
    """Refuse a keyword that is another library's word for a part of a model or option of ``fit``.

    Other keywords are for a StepRunner, which may be set on the model later; they are checked when
    one is built.
    """
    taken = inspect.signature(step).parameters
    for name in objects:
        ours = keywords.our_names(name)
        left_out = any(parts.get(one) is None for one in ours if one in parts) or (
            name in ("lr", "learning_rate") and isinstance(parts["optimizer"], str))
        of_fit = not any(one in parts for one in ours) and any(
            one in keywords.RUN_WITH for one in ours)
        if name not in taken and (left_out or of_fit):
            raise mistake(TypeError(keywords.unknown_keyword("KerasModel", name, ("net", *parts))))


def fit_data(arguments: Mapping[str, Any],
             dtype: torch.dtype | None) -> FitData:
    """Return the batches to train and to validate on, from the arguments of ``fit``."""
    train, val = with_validation(arguments["train_data"], arguments["val_data"],
                                 arguments["validation_split"], dtype)
    size, shuffle = arguments["batch_size"], arguments["shuffle"]
    train = batches(train, name="train_data", batch_size=size, dtype=dtype,
                    shuffle=is_shufflable(train) if shuffle is None else shuffle,
                    steps=arguments["steps_per_epoch"])
    if val is not None:
        val = batches(val, name="val_data", batch_size=size if is_unbatched(val) else None,
                      steps=arguments["validation_steps"], dtype=dtype, draws=False)
    return FitData(train, val)


def with_validation(train_data: Data, val_data: Data, share: float | None,
                    dtype: torch.dtype | None = None) -> tuple[Data, Data]:
    """Return training and validation data, the latter split off the former if asked."""
    if share is None:
        return train_data, val_data
    if val_data is not None:
        raise bad_value("validation_split", received=f"{share} beside val_data",
                        expected="one of the two")
    return split_validation(train_data, share, dtype=dtype)


def check_run(config: FitConfig, model: Trainable,
              data: FitData) -> tuple[FitConfig, list[str]]:
    """Check config, model and data together; return the final config, and notes for the user."""
    train, val = data
    notes = check_learns(model)
    check_step_objects(model)
    check_class_weight(config, model)
    if val is None and config.monitor == "val_loss":
        config = replace(config, monitor="train_loss")
        notes.append("monitor: no val_data, watching train_loss")
    if val is None and config.monitor.startswith("val_"):
        raise bad_value("monitor", received=repr(config.monitor),
                        expected="a number of the training, without val_data",
                        fix="Pass val_data to measure on, or monitor='train_loss'.")
    check_known_monitor(config, model, val)
    notes += schedule_notes(model.lr_scheduler, config.lr_interval,
                            Span.of_run(config, train.length), updates_itself(model.StepRunner))
    accumulation = config.gradient_accumulation_steps
    if train.length is not None and accumulation > train.length:
        notes.append(f"gradient_accumulation_steps: {accumulation}, and an epoch has "
                     f"{train.length} batches: one update an epoch")
    return config, notes


def check_learns(model: Trainable) -> list[str]:
    """Raise if nothing would learn; return notes on what does not.

    A StepRunner with a ``__call__`` of its own may teach a net that needs no gradients, such as a
    table of values. Its optimizer then has nothing to move.
    """
    learns = any(weight.requires_grad for weight in model.net.parameters())
    if not learns and is_own(model.StepRunner):
        model.optimizer = model.optimizer or idle_optimizer()
        return []
    if model.optimizer is None:
        raise bad_value("net", received="a net without a parameter that requires grad",
                        expected="one that can learn",
                        fix="A net that learns in another way, such as a table of values, needs a "
                            "StepRunner with a __call__ of its own.")
    return preflight.check_learning(model)


def check_known_monitor(config: FitConfig, model: Trainable, val: Batches | None) -> None:
    """Refuse a monitor that no stage measures; a StepRunner of the user's may measure anything."""
    stages = ("train", "val") if val is not None else ("train",)
    known = [f"{stage}_{name}" for stage in stages for name in ("loss", *model.metrics_dict)]
    if model.StepRunner is StepRunner and not any(
            "_" + name in config.monitor for name in model.metrics_dict):
        check_monitor(config.monitor, known)


def print_numbers(row: Mapping[str, float]) -> None:
    """Print numbers by name, once in all processes."""
    if int(os.environ.get("RANK", "0")) == 0:
        print_safely("  ".join(f"{name}: {value:.6g}" for name, value in row.items()))


def warn_of_divergence(run: Run, once: bool = False) -> None:
    """Warn that a run ended because of a loss that was not finite, on the rank that had it.

    Args:
        run: the run that is over.
        once: True where this process speaks for all ranks.
    """
    if not run.diverged:
        return
    own, reason = run.communicator.request, str(run.stop_reason)
    has_it = own is not None and own.diverged and reason.startswith(own.reason)
    if once or has_it or (
            run.communicator.is_main_process and " in process " not in reason):
        warnings.warn(f"fit: {reason}", RuntimeWarning, stacklevel=level_of_caller())


def check_class_weight(config: FitConfig, model: Trainable) -> None:
    """Refuse class weights where nothing would use them."""
    if config.class_weight is None:
        return
    if model.loss_fn is None:
        raise bad_value(
            "class_weight", received="weights for a net that computes its own loss",
            expected="None there", fix="Pass a loss_fn, or weigh in the net's own loss.")
    kind: Any = model.StepRunner
    if not (isinstance(kind, type) and issubclass(kind, StepRunner)
            and kind.__call__ is StepRunner.__call__):
        raise bad_value(
            "class_weight", received="weights with a StepRunner that has a __call__ of its own",
            expected="None there", fix="Weigh in that StepRunner.")


def check_step_objects(model: Trainable) -> None:
    """Refuse keywords that the StepRunner does not take; suggest the one that was meant."""
    if not model.step_objects:
        return
    taken = inspect.signature(model.StepRunner).parameters
    if any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        return
    known = list(dict.fromkeys(
        ["net", "loss_fn", "metrics_dict", "optimizer", "lr_scheduler", *taken]))
    for name in model.step_objects:
        if name not in taken:
            raise bad_type(
                f"KerasModel({name}=...)", received="a keyword that the StepRunner does not take",
                expected="one of " + ", ".join(known),
                fix=keywords.advice("KerasModel", name, known))


def with_default_callbacks(callbacks: Iterable[Callback] | None, *, plot: bool,
                           wandb: bool | str, quiet: bool,
                           report: str | os.PathLike[str] | None = None,
                           val_data: Data = None) -> list[Callback]:
    """Return a stopwatch, the user's callbacks, then logger, report and display as requested."""
    from torchkeras.display.progress import Progress, one_display
    from torchkeras.display.stopwatch import Stopwatch

    listeners = one_display(check_callbacks(callbacks))
    if not isinstance(wandb, (bool, str)):
        raise bad_type("wandb", received=kind_of(wandb),
                       expected="True, False or the name of a project")
    if wandb:
        from torchkeras.callbacks.wandb import WandbCallback

        listeners.append(WandbCallback(project=wandb if isinstance(wandb, str) else None))
    if report is not None:
        from torchkeras.display.report import ReportWriter

        listeners.append(ReportWriter(report, val_data))
    if not quiet and not any(isinstance(one, Progress) for one in listeners):
        listeners.append(Progress(plot=plot))
    return [Stopwatch(), *listeners]


def direction(name: str, mode: str, higher_is_better: bool | None) -> tuple[str, str]:
    """Return ``("min" or "max", why)``: as given, by the metric, or by the name."""
    if mode != "auto":
        return mode, "as given"
    if higher_is_better is not None:
        return ("max" if higher_is_better else "min"), "as the metric says"
    if FALLING.search(name.lower()):
        return "min", "by its name"
    if RISING.search(name.lower()):
        return "max", "by its name"
    return "min", "its name tells nothing: pass mode='max' if higher is better"
