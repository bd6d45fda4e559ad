"""The base of metrics that read scores and labels as a task defines them."""

from __future__ import annotations

from torchkeras.metrics.base import Metric
from torchkeras.metrics.task import Task


class TaskMetric(Metric):
    """A metric with a task, which may leave out labels as the loss does."""

    task: Task

    def leave_out(self, marks: tuple[float, ...]) -> None:
        """Exclude the labels that the loss excludes, unless its ``ignore_index`` names them."""
        if self.follows_loss:
            self.task = self.task.with_marks(marks)
