"""One pass over the data: a step for each batch, then the numbers of the epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from torchkeras.data import batch as batches
from torchkeras.engine import hardware
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.means import Means, number
from torchkeras.engine.run import PassEnded, Run
from torchkeras.engine.words import Logs, Metric, StepOutput


class EpochRunner:
    """Feeds a step with batches and adds up. Designed to be subclassed or replaced.

    Args:
        step_runner: what is called with each batch and gives ``(step_losses, step_metrics)``.
        quiet: for runners that draw their own bar; this one never draws.
    """

    def __init__(self, step_runner: Any, quiet: bool = False) -> None:
        self.step_runner, self.quiet = step_runner, quiet
        self.stage, self.accelerator, self.net = step_runner.stage, step_runner.accelerator, step_runner.net
        self.metrics_dict = step_runner.metrics_dict
        self.losses = Means(summed(step_runner), guarded=self.stage == "train")
        self.last: Logs = {}

    def __call__(self, loader: Iterable[Any]) -> dict[str, float]:
        """Go through the data once; the numbers of the epoch."""
        for metric in self.metrics_dict.values():
            metric.reset()
        for batch, count in self.windows(loader):
            step_losses, self.last = self.step_runner(batch)
            self.losses.add(step_losses, count)
        row = self.row()
        for metric in self.metrics_dict.values():
            metric.reset()
        return row

    def windows(self, loader: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Batches and their counts; in gradient accumulation, each marked as a part of its window.

        A window is read whole before its first step, because the share of each part depends on all of them.
        """
        size, training = self.accelerator.gradient_accumulation_steps, self.stage == "train"
        count = getattr(self.step_runner, "count", batches.size)
        if size == 1 or not training:
            yield from ((batch, count(batch)) for batch in loader)
            return
        source = iter(loader)
        while window := [(batch, count(batch)) for batch in islice(source, size)]:
            total = sum(parts for _, parts in window)
            for position, (batch, parts) in enumerate(window, start=1):
                # a batch of which no label counts is 0/0 by itself
                divisor = 1 if self.losses.summed or (isinstance(parts, (int, float)) and not parts) else total / parts
                hardware.micro_batch(self.accelerator, divisor, last=position == len(window))
                yield batch, parts
        hardware.micro_batch(self.accelerator, size, last=True)

    def row(self) -> dict[str, float]:
        """The numbers so far: mean losses, metrics, and what else the last step told."""
        row = {**self.losses.result(), **metric_values(self.metrics_dict, self.stage)}
        return row | {name: number(name, value) for name, value in self.last.items() if name not in row}

    def running(self) -> dict[str, float]:
        """The numbers to show while running, leaving out metrics that are dear to compute."""
        cheap = {name: one for name, one in self.metrics_dict.items() if getattr(one, "cheap", False)}
        row = {**self.losses.result(), **metric_values(cheap, self.stage)}
        return row | {name: number(name, value) for name, value in self.last.items() if name not in row}


def summed(step_runner: Any) -> bool:
    """Whether the loss adds up its samples; then an epoch's loss does too."""
    return getattr(getattr(step_runner, "loss_fn", None), "reduction", "mean") == "sum"


def metric_values(metrics: dict[str, Metric], stage: str) -> dict[str, float]:
    """Each metric's number under its stage; a metric that gives a dict fills several."""
    row: dict[str, float] = {}
    for name, metric in metrics.items():
        value = metric.compute()
        if isinstance(value, dict):
            row.update({f"{stage}_{name}_{key}": number(name, one) for key, one in value.items()})
        else:
            row[f"{stage}_{name}"] = number(name, value)
    return row


class Watched:
    """A step that reports: it counts, tells the listeners, and ends the pass when a stop was asked for.

    It wraps the step, not the loop, so every epoch runner reports, old ones too.
    """

    def __init__(self, step: Callable[[Any], Any], run: Run, callbacks: CallbackList) -> None:
        self.step, self.run, self.callbacks = step, run, callbacks
        hardware.place_in_pass(run.accelerator, 0)

    def __call__(self, batch: Any) -> StepOutput:
        """Run the step, count it, tell of it."""
        run = self.run
        if run.stage == "train" and run.step + 1 == run.steps:
            hardware.close_window(run.accelerator)
        losses, metrics = self.step(batch)
        run.step += 1
        run.trained += run.stage == "train"
        run.updates += run.stage == "train" and run.accelerator.sync_gradients
        run.logs = losses | metrics
        self.callbacks.announce("on_step_end")
        hardware.place_in_pass(run.accelerator, run.step)
        if run.stop_reason is not None and run.step != run.steps:
            raise PassEnded
        return StepOutput(losses, metrics)

    def __getattr__(self, name: str) -> Any:
        if name == "step" or name.startswith("__"):  # copying asks before there is a step
            raise AttributeError(name)
        return getattr(self.step, name)
