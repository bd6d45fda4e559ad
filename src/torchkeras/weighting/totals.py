"""Add up what the steps of a pass give."""

from __future__ import annotations

from typing import Any

from torchkeras.core.types import Batch, Count, Logs, Row
from torchkeras.weighting.averages import AverageMeter, number, samples_of
from torchkeras.weighting.rows import averaged, cheap_ones, counted_anew, metric_values, with_others


class PassTotals:
    """The part of an epoch runner that adds up losses, other numbers and metrics of a pass.

    Args:
        step_runner: what is called with each batch and gives ``(step_losses, step_metrics)``.
        counting: says what its batches count; for our own steps the step itself.
    """

    def __init__(self, step_runner: Any, counting: Any) -> None:
        self.step_runner, self.counting = step_runner, counting
        self.stage, self.net = step_runner.stage, step_runner.net
        self.accelerator, self.metrics_dict = step_runner.accelerator, step_runner.metrics_dict
        alarm = counting.raise_non_finite_loss if self.stage == "train" else None
        self.losses = AverageMeter(counting.loss_adds_up, alarm)
        self.parts = AverageMeter()  # of other numbers that steps give
        self.counted: list[int] = []  # with several processes: numbers of the batches counted here
        self.last: Logs = {}  # what the last step gave beside its losses
        self.uncounted: list[tuple[Logs, Batch, Count]] = []  # until it is known how they count

    def reset_metrics(self) -> None:
        """Let the metrics forget what they counted."""
        for metric in self.metrics_dict.values():
            metric.reset()

    def take_batch_numbers(self, step_losses: Logs, batch: Batch) -> None:
        """Add up the numbers of a finished batch, once it is known how its loss counts."""
        counting = self.counting
        count = counting.current_microbatch.count
        if counting.count_undecided:
            self.uncounted.append((step_losses, batch, counting.weight(batch)))
            return
        if self.uncounted:
            self.decide()
        self.add(step_losses, counting.weight(batch) if count is None else count)

    def decide(self) -> None:
        """Add up the batches that came before it was known which labels the loss leaves out."""
        waiting, self.uncounted = self.uncounted, []
        for step_losses, batch, before in waiting:
            self.add(step_losses, counted_anew(self.counting.weight(batch), before))

    def add(self, step_losses: Logs, count: Count) -> None:
        """Add up the numbers of a step: losses, and all others except rates."""
        self.losses.add(step_losses, count)
        if len(self.last) > 1 or (self.last and "lr" not in self.last):
            others = averaged(self.last, self.metrics_dict, self.stage)
            if others:
                self.parts.add(others, samples_of(count))

    def row(self) -> Row:
        """Return the numbers of all processes so far: mean losses, metrics, and others of steps."""
        self.decide()
        self.losses.summed = self.counting.loss_adds_up  # a later batch may have shown otherwise
        row: Row = self.counting.process_strategy.reduce_row(self)
        return row

    def row_of_this_process(self) -> Row:
        """Return the numbers that this process counted."""
        row = {**self.losses.result(), **metric_values(self.metrics_dict, self.stage)}
        return with_others(row, self.last, self.parts.result())

    def running(self) -> Row:
        """Return current averages for display, skipping metrics that are expensive to compute."""
        self.losses.summed = self.counting.loss_adds_up
        row = {**self.losses.result(), **metric_values(cheap_ones(self.metrics_dict), self.stage)}
        return row | {name: value for name, value in self.last_numbers().items() if name not in row}

    def last_numbers(self) -> Row:
        """Return the numbers that the last step gave beside its losses."""
        return {name: number(name, value) for name, value in self.last.items()}
