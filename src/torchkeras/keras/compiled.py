"""Turn the arguments of ``compile`` into a ``KerasModel``, and run ``fit`` with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import nn

from torchkeras.core.errors import bad_type, bad_value, did_you_mean, instance_not_class
from torchkeras.core.types import Data, LossLike, MetricsLike, Value
from torchkeras.display.epochlines import EpochLines
from torchkeras.engine.callback import CheckedCallbacks
from torchkeras.keras.batchwise import Batchwise
from torchkeras.keras.callbacks import (
    KerasMoments,
    check_rate,
    split_callbacks,
    with_batch_events,
)
from torchkeras.keras.epochs import FitHistory
from torchkeras.keras.losses import loss_of, metric_function, metrics_of, with_layer_penalties
from torchkeras.keras.multi_output import all_metrics, losses_of, outputs_of
from torchkeras.kerasmodel import KerasModel
from torchkeras.training.task import task_for

if TYPE_CHECKING:
    from torchkeras.keras.model import Model

OPTIONS = ("ckpt_path", "patience", "min_delta", "restore_best", "monitor", "mode", "plot", "wandb",
           "report", "mixed_precision", "cpu", "gradient_accumulation_steps", "clip_grad_norm",
           "clip_grad_value", "lr_interval", "speed", "seed")
COMPILES = ("optimizer", "loss", "metrics", "loss_weights", "loss_func", "metrics_dict",
            "from_logits", "lr_scheduler", "device")


@dataclass
class Compiled:
    """A compiled model: the engine, and how it was compiled."""

    engine: KerasModel
    legacy: bool  # compiled with loss_func and metrics_dict
    multi_output: bool
    cpu: bool = False  # compiled with device="cpu"

    def __post_init__(self) -> None:
        self.batchwise = Batchwise(self.engine)


def compile_legacy(net: nn.Module, loss_func: LossLike, metrics_dict: MetricsLike,
                   **parts: Value) -> Compiled:
    """Compile with the arguments of the first versions: a loss, and metrics by name."""
    metrics = metrics_dict
    if isinstance(metrics_dict, Mapping):
        metrics = {name: metric_function(one) for name, one in metrics_dict.items()}
    loss = loss_func if isinstance(loss_func, str) else loss_of(loss_func)
    engine = KerasModel(net, loss, metrics, **parts)
    engine.loss_fn = with_layer_penalties(engine.loss_fn, net)
    return Compiled(engine, legacy=True, multi_output=False)


def compile_keras(net: nn.Module, loss: object, metrics: object, loss_weights: object,
                  from_logits: bool, **parts: Value) -> Compiled:
    """Compile with Keras's arguments: names, lists and dicts, for one output or several."""
    instance_not_class("optimizer", parts["optimizer"])
    listed = None if loss is None else outputs_of(net, loss)
    if listed is None:
        if loss_weights is not None:
            raise bad_value("loss_weights", received=repr(loss_weights),
                            expected="None: there is one loss")
        loss_fn = loss_of(loss, from_logits)
        found = metrics_of(metrics, task_for(loss_fn, from_logits))
    else:
        loss_fn = losses_of(loss, listed, loss_weights, from_logits)
        found = all_metrics(metrics, loss_fn, listed, from_logits)
    return Compiled(KerasModel(net, with_layer_penalties(loss_fn, net), found, **parts),
                    legacy=False, multi_output=listed is not None)


def check_compile(options: Mapping[str, object]) -> None:
    """Raise if options of ``nn.Module.compile`` come with a loss, metrics or an optimizer."""
    for name in options:
        raise bad_type(f"compile({name}=...)", received="an argument that is unknown beside these",
                       expected="some of " + ", ".join(COMPILES),
                       fix=did_you_mean(name, COMPILES)
                       or f"For torch's compiler, call compile({name}=...) without a "
                                                           "loss, metrics or an optimizer.")


def check_options(options: Mapping[str, object]) -> None:
    """Raise for keyword arguments that ``fit`` does not have."""
    known = ("x", "y", "batch_size", "epochs", "verbose", "callbacks", "validation_split",
             "validation_data", "shuffle", "class_weight", "sample_weight", "initial_epoch",
             "steps_per_epoch", "validation_steps", "validation_freq", "dl_train", "dl_val",
             "log_step_freq", *OPTIONS)
    for name in options:
        if name not in OPTIONS:
            raise bad_type(f"fit({name}=...)", received="an unknown argument", expected="one of "
                           + ", ".join(known), fix=did_you_mean(name, known))


def verbosity(verbose: int | str) -> int:
    """Return 0, 1 or 2; "auto" is 1."""
    if verbose == "auto" or verbose is True or verbose is False:
        return 0 if verbose is False else 1
    if verbose not in (0, 1, 2):
        raise bad_value("verbose", received=repr(verbose),
                        expected="0 (nothing), 1 (the live view), 2 (a line an "
                        "epoch) or 'auto'")
    return int(verbose)


def train(model: Model, compiled: Compiled, data: Data, val_data: Data, *, epochs: int,
          verbose: int, callbacks: Sequence[object] | None, shown: list[Any],
          options: dict[str, Any], **arguments: Value) -> FitHistory:
    """Run ``KerasModel.fit`` with Keras's callbacks; by default the last weights stay."""
    engine: KerasModel = compiled.engine
    if compiled.multi_output and arguments.get("class_weight") is not None:
        raise bad_value("class_weight", received="one for a net with several outputs",
                        expected="None there",
                        fix="Give sample_weight, or a loss with class weights for that output.")
    own, keras = split_callbacks(callbacks)
    keras += [EpochLines()] if verbose == 2 else shown
    check_rate(model.optimizer)
    validates = val_data is not None or arguments.get("validation_split") is not None
    history = FitHistory({"epochs": epochs, "steps": arguments.get("steps_per_epoch"),
                          "verbose": verbose})
    moments = KerasMoments(model, keras, history)
    history.columns = [name.removeprefix("train_") for name in engine.columns(validates)
                       if name != "lr"]
    best = any(options.get(name) is not None for name in ("ckpt_path", "patience", "monitor"))
    model.history = history
    if keras:
        engine.EpochRunner = with_batch_events(moments)
    try:
        engine.fit(data, val_data, epochs=epochs, quiet=verbose != 1,
                   callbacks=CheckedCallbacks([*own, moments]),
                   **{"ckpt_path": None, "patience": None, "restore_best": best,
                      "cpu": compiled.cpu}
                   | column_names(options), **arguments)
    finally:
        engine.__dict__.pop("EpochRunner", None)
    return history


def column_names(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options with the engine's column names: "loss" becomes "train_loss"."""
    monitor = options.get("monitor")
    if isinstance(monitor, str) and not monitor.startswith(("val_", "train_")):
        return options | {"monitor": f"train_{monitor}"}
    return {name: one for name, one in options.items() if name != "monitor" or one is not None}


def in_keras_order(row: Mapping[str, float], return_dict: bool) -> Any:
    """Return a dict, or a list of loss and metrics; the loss alone if there are no metrics."""
    if return_dict:
        return dict(row)
    values = [row["loss"], *(value for name, value in row.items() if name != "loss")]
    return values if len(values) > 1 else values[0]
