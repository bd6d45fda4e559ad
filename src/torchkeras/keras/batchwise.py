"""Run single batches, for loops that users write themselves."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from torchkeras.checks import preflight
from torchkeras.core import modes
from torchkeras.core.device import device_of
from torchkeras.core.errors import bad_value
from torchkeras.core.stop import NonFiniteLoss
from torchkeras.core.types import Batch, Data, Stage
from torchkeras.data import batch as batches
from torchkeras.data import outputs
from torchkeras.data.arrays import ArrayDataset, wide_dtype
from torchkeras.engine.config import FitConfig
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.monitor import Monitor
from torchkeras.engine.run import Run, TrainingObjects
from torchkeras.engine.step import StepRunner
from torchkeras.keras.data import combined, features_only
from torchkeras.keras.epochs import keras_names
from torchkeras.kerasmodel import KerasModel
from torchkeras.state.components import modules_of
from torchkeras.training.predicting import Predictor
from torchkeras.training.schedules import interval_of
from torchkeras.weighting import examination

PARTS = {2: "(x, y)", 3: "(x, y, sample_weight)"}  # how errors call a batch


class Batchwise:
    """Runs steps outside of any run; their numbers are those of a batch, or of all since a reset.

    Args:
        model: gives net, loss, metrics and optimizer.
    """

    def __init__(self, model: KerasModel) -> None:
        self.model = model
        self.runners: dict[str, EpochRunner] = {}
        self.rehearsed = False

    def train(self, x: Data, y: Data, sample_weight: Data,
              class_weight: Mapping[int, float] | None, alone: bool) -> dict[str, float]:
        """Train on a batch; return its numbers ``alone``, or those since the last reset."""
        model = self.model
        if not self.rehearsed:
            preflight.check_learning(model)
        runner = self.runner("train")
        step = runner.step_runner
        step.config, step.rehearsing = FitConfig(class_weight=class_weight), not self.rehearsed
        model.optimizer.zero_grad()
        with modes.train_mode(model.net), torch.enable_grad():
            row = self.run_step(runner, combined(x, y, sample_weight, model.loss_fn), alone)
        self.rehearsed = True
        return row

    def test(self, x: Data, y: Data, sample_weight: Data, alone: bool) -> dict[str, float]:
        """Measure a batch; return its numbers ``alone``, or those since the last reset."""
        with modes.eval_mode(*modules_of(self.model)), torch.no_grad():
            return self.run_step(
                self.runner("val"), combined(x, y, sample_weight, self.model.loss_fn), alone)

    def run_step(self, runner: EpochRunner, data: Data, alone: bool) -> dict[str, float]:
        """Run the step on a batch; return its numbers ``alone``, or those since the last reset."""
        if alone:
            runner = self.begin_anew(runner)
        try:
            return self.counted(runner, data)
        finally:
            if alone:  # what is added up later begins after this batch
                self.begin_anew(runner)

    def begin_anew(self, runner: EpochRunner) -> EpochRunner:
        """Return a runner on the same step that has counted nothing."""
        runner.reset_metrics()
        step = runner.step_runner
        fresh = self.runners[runner.stage] = EpochRunner(step)
        return fresh

    def counted(self, runner: EpochRunner, data: Data) -> dict[str, float]:
        """Run the step on a batch; return the numbers of all that the runner has counted."""
        name = PARTS.get(len(data), "x") if isinstance(data, tuple) else "x"
        batch, step = on_device_of(self.model.net, data, name), runner.step_runner
        if examination.needs_examination(step, divided=False):
            examination.record_denominator(
                step, examination.find_denominator(step, batch), divided=False)
        try:
            losses, runner.last = step(batch)
        except NonFiniteLoss as error:
            raise bad_value("x", received=f"a batch at which {error} ({error.why})",
                            expected="a finite loss",
                            fix="Nothing was updated. Lower the learning rate, "
                            "or check the batch.") from error
        runner.losses.add(losses, step.weight(batch))
        return keras_names(runner.row(), runner.stage)

    def runner(self, stage: Stage) -> EpochRunner:
        """Return the epoch runner that adds up the numbers of a stage."""
        if stage not in self.runners:
            model, training = self.model, stage == "train"
            metrics = copy.deepcopy(model.metrics_dict)
            device = device_of(model.net)
            for part in (model.loss_fn, *metrics.values()):
                if device is not None and isinstance(part, nn.Module):
                    part.to(device)
            scheduler = model.lr_scheduler
            each_step = (training and scheduler is not None
                         and interval_of(scheduler, "auto") == "step")
            step = StepRunner(model.net, model.loss_fn, local_accelerator(device), stage, metrics,
                              model.optimizer if training else None,
                              scheduler if each_step else None)
            step.looking, step.argument = True, "x"
            self.runners[stage] = EpochRunner(step)
        return self.runners[stage]

    def reset(self) -> None:
        """Forget the numbers so far."""
        self.runners = {}


def predictions(model: KerasModel, x: Data) -> Any:
    """Return the predictions for one batch, as numpy arrays."""
    batch = on_device_of(model.net, features_only(x))
    device: Any = local_accelerator(device_of(model.net))
    run = Run(config=FitConfig(), accelerator=device, monitor=Monitor("val_loss", "min"),
              objects=TrainingObjects({"val": {}}))
    return outputs.to_numpy(Predictor(model, run)(batch).preds)


def local_accelerator(device: torch.device | None) -> Any:
    """Return an Accelerator for a step, for one process without mixed precision."""
    return SimpleNamespace(mixed_precision="no", gradient_accumulation_steps=1, sync_gradients=True,
                           device=device or torch.device("cpu"))


def on_device_of(net: nn.Module, data: Data, name: str = "x") -> Batch:
    """Convert a batch of arrays to tensors on the net's device."""
    batch = ArrayDataset(data, name=name, dtype=wide_dtype(net)).tree
    device = device_of(net)
    return batch if device is None else batches.to_device(batch, device)
