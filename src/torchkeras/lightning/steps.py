"""A pass over the data that Lightning drives and this library counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, distributed, nn

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.distributed.communicator import Alone
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.step import StepRunner

# Lightning keeps precision and accumulation to itself, so a step here is a plain one.
PLAIN: Any = SimpleNamespace(mixed_precision="no", gradient_accumulation_steps=1)

NAMES = {"train": "train_dataloaders", "val": "val_dataloaders"}  # what Trainer.fit calls the data


class LightStep(StepRunner):
    """Takes one batch through the net and the loss; the rest of a step is Lightning's."""

    measured = False  # whether any batch was counted by the metrics
    told: Sequence[str] = ()  # what shared_step gives for every batch


class Lightnings(Alone):
    """The processes that Lightning started."""

    def __init__(self) -> None:
        if distributed.is_available() and distributed.is_initialized():
            self.rank, self.world = distributed.get_rank(), distributed.get_world_size()
            self.main = self.rank == 0

    def decide(self, make: Callable[[list[Any]], Any], value: Any) -> Any:
        """What each process makes of the values of all."""
        values = [value] * self.world
        if self.world > 1:
            distributed.all_gather_object(values, value)
        return make(values)


def begun(net: nn.Module, loss_fn: Any, stage: str, metrics: dict[str, Any], device: torch.device, *,
          first: bool) -> EpochRunner:
    """A pass of which nothing is counted yet; the first batch of the first is looked at for mistakes."""
    for metric in metrics.values():
        metric.reset()
        if isinstance(metric, nn.Module):
            metric.to(device)
    step = LightStep(net, loss_fn, PLAIN, "train" if stage == "train" else "val", metrics)
    step.rehearsing = first and stage == "train"
    step.looking, step.argument = True, NAMES.get(stage, "dataloaders")
    runner = EpochRunner(step)
    runner.stage, runner.together, runner.losses.alarm = stage, Lightnings(), None  # what NaN ends is up to Lightning
    return runner


def check_told(told: Any, step: LightStep) -> None:
    """Look at what shared_step gave: a loss, and the same numbers for every batch."""
    if not isinstance(told, Mapping) or not isinstance(told.get("loss"), Tensor):
        received = f"a dict of {', '.join(told) or 'nothing'}" if isinstance(told, Mapping) else type(told).__name__
        raise bad_type("shared_step", received=received, expected='a dict with a tensor under "loss"',
                       fix='Return such as {"loss": loss, "acc": accuracy}.')
    for name, value in told.items():
        check_number(name, value, step.metrics_dict)
    if step.metrics_dict and not step.measured:
        raise bad_value("metrics_dict", received="metrics, and a shared_step that does not feed them",
                        expected="one that does", fix="Call self.measure(preds, labels) in it.")
    step.told = step.told or list(told)
    if set(step.told) != set(told):
        raise bad_value("shared_step", received="the numbers " + ", ".join(told),
                        expected="those of the batches before: " + ", ".join(step.told))


def check_number(name: str, value: Any, taken: Mapping[str, Any]) -> None:
    """Refuse what cannot be averaged, and a name that hides another column."""
    argument = f"shared_step()[{name!r}]"
    if name in taken or name in ("epoch", "lr"):
        raise bad_value(argument, received="a name that is taken", expected="another name")
    shape = tuple(getattr(value, "shape", ()))
    if math.prod(shape) != 1:
        raise bad_value(argument, received=f"shape {shape}", expected="one number",
                        fix="Reduce it, for example with .mean().")
    if not isinstance(value, Tensor):
        try:
            float(value)
        except (TypeError, ValueError) as error:
            raise bad_type(argument, received=type(value).__name__, expected="one number") from error
