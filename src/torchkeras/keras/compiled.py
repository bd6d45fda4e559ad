"""Turn the arguments of ``compile`` into the ``KerasModel`` that trains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from torchkeras.core.errors import bad_type, bad_value, did_you_mean, instance_not_class
from torchkeras.core.types import LossLike, MetricsLike, OptimizerLike, SchedulerLike, Value
from torchkeras.keras.batchwise import Batchwise
from torchkeras.keras.engine import Engine
from torchkeras.keras.losses import loss_of, metric_function, metrics_of, with_layer_penalties
from torchkeras.keras.multi_output import all_metrics, losses_of, outputs_of
from torchkeras.keras.optimizers.named import optimizer_of
from torchkeras.kerasmodel import KerasModel
from torchkeras.training.task import task_for

COMPILES = ("optimizer", "loss", "metrics", "loss_weights", "loss_func", "metrics_dict",
            "from_logits", "lr_scheduler", "device")


# options of Keras's compile: the values that ask for what is done here anyway, and the way out
KERAS_OPTIONS: dict[str, tuple[tuple[object, ...], str]] = {
    "run_eagerly": ((True, False, None), "Leave it out: steps are run eagerly."),
    "auto_scale_loss": ((True, False), "Leave it out: fit(mixed_precision='fp16') scales."),
    "jit_compile": (("auto", False, None), "fit(speed='fast') compiles where that pays."),
    "steps_per_execution": ((1, "auto"), "fit(speed='fast') computes several steps by one call "
                                         "where that pays."),
    "weighted_metrics": ((None,), "Metrics count all samples alike, the loss weighs them: give "
                                  "them as metrics=, or weigh in a metric of your own."),
}


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
    engine = engine_of(net, loss, metrics, **parts)
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
    return Compiled(engine_of(net, with_layer_penalties(loss_fn, net), found, **parts),
                    legacy=False, multi_output=listed is not None)


def engine_of(net: nn.Module, loss: Any, metrics: Any, optimizer: OptimizerLike,
              lr_scheduler: SchedulerLike) -> Engine:
    """Return the model that trains; an optimizer given by name has Keras's defaults."""
    by_name = isinstance(optimizer, str)
    engine = Engine(net, loss, metrics, None if by_name else optimizer, lr_scheduler)
    if isinstance(optimizer, str):
        engine.optimizer = optimizer_of(optimizer, net, engine.loss_fn)
    return engine


def check_compile(options: Mapping[str, object]) -> None:
    """Refuse options that cannot be followed; those of Keras may ask for what is done anyway."""
    for name, value in options.items():
        if name not in KERAS_OPTIONS:
            raise bad_type(
                f"compile({name}=...)", received="an argument that is unknown beside these",
                expected="some of " + ", ".join(COMPILES),
                fix=did_you_mean(name, COMPILES) or f"For torch's compiler, call "
                f"compile({name}=...) without a loss, metrics or an optimizer.")
        accepted, way_out = KERAS_OPTIONS[name]
        if value not in accepted and value != []:
            raise bad_value(f"compile({name}=...)", received=repr(value),
                            expected=" or ".join(map(repr, accepted)), fix=way_out)


def in_keras_order(row: Mapping[str, float], return_dict: bool) -> Any:
    """Return a dict, or a list of loss and metrics; the loss alone if there are no metrics."""
    if return_dict:
        return dict(row)
    values = [row["loss"], *(value for name, value in row.items() if name != "loss")]
    return values if len(values) > 1 else values[0]
