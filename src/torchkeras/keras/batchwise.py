"""One batch at a time, for loops that users write themselves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from torchkeras.checks import preflight
from torchkeras.core import modes
from torchkeras.core.errors import bad_value
from torchkeras.core.stop import NonFiniteLoss
from torchkeras.core.types import Stage
from torchkeras.data import batch as batches
from torchkeras.data import outputs
from torchkeras.data.arrays import ArrayDataset, wide_dtype
from torchkeras.engine.config import FitConfig
from torchkeras.engine.device import device_of
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.lr_schedule import interval_of
from torchkeras.engine.monitor import Monitor
from torchkeras.engine.run import Run, Tools
from torchkeras.engine.step import StepRunner
from torchkeras.keras.data import features_only, together
from torchkeras.keras.epochs import keras_names
from torchkeras.kerasmodel import KerasModel
from torchkeras.state.components import modules_of
from torchkeras.training.predicting import Predictor
from torchkeras.weighting import examination


class Batchwise:
    """Steps outside of any run, and what they have added up to since the last reset.

    Args:
        model: whose net, loss, metrics and optimizer.
    """

    def __init__(self, model: KerasModel) -> None:
        self.model = model
        self.runners: dict[str, EpochRunner] = {}
        self.rehearsed = False

    def train(self, x: Any, y: Any, sample_weight: Any, class_weight: Mapping[int, float] | None) -> dict[str, float]:
        """One update; the numbers of training so far."""
        model = self.model
        if not self.rehearsed:
            preflight.check_learning(model)
        runner = self.runner("train")
        step = runner.step_runner
        step.config, step.rehearsing = FitConfig(class_weight=class_weight), not self.rehearsed
        model.optimizer.zero_grad()
        with modes.training(model.net), torch.enable_grad():
            row = self.counted(runner, together(x, y, sample_weight))
        self.rehearsed = True
        return row

    def test(self, x: Any, y: Any, sample_weight: Any) -> dict[str, float]:
        """One batch measured; the numbers of all that were."""
        with modes.evaluating(*modules_of(self.model)), torch.no_grad():
            return self.counted(self.runner("val"), together(x, y, sample_weight))

    def counted(self, runner: EpochRunner, data: Any) -> dict[str, float]:
        """The step of a batch, and the numbers so far."""
        batch, step = on_device_of(self.model.net, data), runner.step_runner
        if examination.needed(step, divided=False):
            examination.accept(step, examination.look(step, batch), divided=False)
        try:
            losses, runner.last = step(batch)
        except NonFiniteLoss as error:
            raise bad_value("x", received=f"a batch at which {error} ({error.why})", expected="a finite loss",
                            fix="Nothing was updated. Lower the learning rate, or look at the batch.") from error
        runner.losses.add(losses, step.weight(batch))
        return keras_names(runner.row(), runner.stage)

    def runner(self, stage: Stage) -> EpochRunner:
        """What adds up the numbers of a stage."""
        if stage not in self.runners:
            model, training = self.model, stage == "train"
            metrics = copy.deepcopy(model.metrics_dict)
            device = device_of(model.net)
            for part in (model.loss_fn, *metrics.values()):
                if device is not None and isinstance(part, nn.Module):
                    part.to(device)
            scheduler = model.lr_scheduler
            each_step = training and scheduler is not None and interval_of(scheduler, "auto") == "step"
            step = StepRunner(model.net, model.loss_fn, by_itself(device), stage, metrics,
                              model.optimizer if training else None, scheduler if each_step else None)
            step.looking, step.argument = True, "x"
            self.runners[stage] = EpochRunner(step)
        return self.runners[stage]

    def reset(self) -> None:
        """Begin to add up anew."""
        self.runners = {}


def predictions(model: KerasModel, x: Any) -> Any:
    """Return what ``predict`` gives for one batch, as numpy arrays."""
    batch = on_device_of(model.net, features_only(x))
    device: Any = by_itself(device_of(model.net))
    run = Run(config=FitConfig(), accelerator=device, monitor=Monitor("val_loss", "min"), tools=Tools({"val": {}}))
    return outputs.to_numpy(Predictor(model, run)(batch).preds)


def by_itself(device: torch.device | None) -> Any:
    """Return all that a step asks of an Accelerator in one process and without mixed precision."""
    return SimpleNamespace(mixed_precision="no", gradient_accumulation_steps=1, sync_gradients=True,
                           device=device or torch.device("cpu"))


def on_device_of(net: nn.Module, data: Any) -> Any:
    """A batch of arrays as tensors where the net is."""
    batch = ArrayDataset(data, name="x", dtype=wide_dtype(net)).tree
    device = device_of(net)
    return batch if device is None else batches.to_device(batch, device)
