"""Build the passes over the data that Lightning drives and this library counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, distributed, nn

from torchkeras.core.communicator import Communicator
from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.types import LossFn, Row, Value
from torchkeras.distributed.reducible_metrics import reduced_row
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.step import StepRunner
from torchkeras.engine.strategy import SingleProcess

# Lightning handles precision and accumulation, so a step here has neither.
PLAIN: Any = SimpleNamespace(mixed_precision="no", gradient_accumulation_steps=1)

NAMES = {"train": "train_dataloaders", "val": "val_dataloaders"}  # the arguments of Trainer.fit


class LightStep(StepRunner):
    """Computes the loss of a batch; Lightning does the rest of a step."""

    measured = False  # whether the metrics were updated with any batch
    returned: Sequence[str] = ()  # the names that shared_step returned for the first batch


class LightningCommunicator(Communicator):
    """Communicates between the processes that Lightning started."""

    def __init__(self) -> None:
        if distributed.is_available() and distributed.is_initialized():
            self.rank, self.world_size = distributed.get_rank(), distributed.get_world_size()
            self.is_main_process = self.rank == 0

    def reduce_on_main(self, make: Callable[[list[Any]], Any], value: Value) -> Any:
        """Gather the values of all processes and return ``make`` of them, on every process."""
        values = [value] * self.world_size
        if len(values) > 1:
            distributed.all_gather_object(values, value)
        return make(values)


class LightningStrategy(SingleProcess):
    """Where Lightning computes: it shards the data, and the numbers of a pass are reduced here."""

    def __init__(self) -> None:
        super().__init__(LightningCommunicator())
        self.splits_batches = self.communicator.world_size > 1

    def reduce_row(self, runner: EpochRunner) -> Row:
        """Return the numbers of a pass, of all processes together."""
        if self.splits_batches:
            return reduced_row(runner, self.communicator)
        return runner.row_of_this_process()


def start_pass(net: nn.Module, loss_fn: LossFn | None, stage: str, metrics: dict[str, Any],
               device: torch.device, *,
               first: bool) -> EpochRunner:
    """Return the runner of a new pass; the first batch of the first one is validated."""
    for metric in metrics.values():
        metric.reset()
        if isinstance(metric, nn.Module):
            metric.to(device)
    step = LightStep(net, loss_fn, PLAIN, "train" if stage == "train" else "val", metrics)
    step.rehearsing = first and stage == "train"
    step.looking, step.argument = True, NAMES.get(stage, "dataloaders")
    step.process_strategy = LightningStrategy()
    runner = EpochRunner(step)
    runner.stage, runner.losses.alarm = stage, None  # NaN is left to Lightning
    return runner


def check_shared_step(numbers: object, step: LightStep) -> None:
    """Raise unless shared_step returned a loss, and the same names as for the first batch."""
    if not isinstance(numbers, Mapping) or not isinstance(numbers.get("loss"), Tensor):
        received = type(numbers).__name__
        if isinstance(numbers, Mapping):
            received = f"a dict of {', '.join(numbers) or 'nothing'}"
        raise bad_type("shared_step", received=received,
                       expected='a dict with a tensor under "loss"',
                       fix='Return such as {"loss": loss, "acc": accuracy}.')
    for name, value in numbers.items():
        check_number(name, value, step.metrics_dict)
    if step.metrics_dict and not step.measured:
        raise bad_value("metrics_dict", received="metrics, and a shared_step that does not feed "
                                                 "them",
                        expected="one that does", fix="Call self.measure(preds, labels) in it.")
    step.returned = step.returned or list(numbers)
    if set(step.returned) != set(numbers):
        raise bad_value("shared_step", received="the numbers " + ", ".join(numbers),
                        expected="those of the batches before: " + ", ".join(step.returned))


def check_number(name: str, value: Value, taken: Mapping[str, object]) -> None:
    """Raise if a value is not one number, or its name is that of another column."""
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
            raise bad_type(argument, received=type(value).__name__,
                           expected="one number") from error
