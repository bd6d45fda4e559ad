"""Binary decisions, also where it is unknown whether predictions are logits or probabilities.

A custom loss does not say. One batch cannot decide it either: a few logits may all lie between 0
and 1. So both readings are counted, and with them how many predictions are no probabilities. All of
these add up over batches and ranks: if every prediction of the whole pass lies between 0 and 1, all
are probabilities. Where the loss says which they are, only that reading is counted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.metrics.base import MetricState
from torchkeras.metrics.reading import Classes
from torchkeras.metrics.shapes import at_least_float32
from torchkeras.metrics.task import Task
from torchkeras.metrics.task_metric import TaskMetric
from torchkeras.metrics.yesno import Threshold, count_answers, resolve_answers

CLOSE = 1e-3  # how far the probabilities of a row may be from adding up to 1


class BinaryCounts(TaskMetric):
    """The base of metrics that count binary decisions by label."""

    def set_up(self, threshold: float, task: Task) -> None:
        """Declare the counts."""
        self.task = task
        self.cut = Threshold(threshold, task.from_logits is not False)
        self.add_sum("answers", (4, 3))
        if task.from_logits is None:
            self.cut_of_probabilities = Threshold(threshold, from_logits=False)
            self.add_sum("answers_by_probability", (4, 3))
            self.add_sum("outside")

    def count_single(self, scores: Tensor, truth: Tensor) -> dict[str, Tensor | int]:
        """Return decision counts for one score per label."""
        left_out = self.task.no_answers
        added: dict[str, Tensor | int] = {
            "answers": count_answers(self.cut(scores), truth, left_out)}
        if self.task.from_logits is None:
            added["answers_by_probability"] = count_answers(
                self.cut_of_probabilities(scores), truth, left_out)
            added["outside"] = count_outside(scores)
        return added

    def count_two(self, found: Classes) -> dict[str, Tensor | int]:
        """Return decision counts for scores of two classes, of which the second is positive."""
        truth = found.numbers()
        added: dict[str, Tensor | int] = {"answers": count_answers(self.cut.of_two(found), truth)}
        if self.task.from_logits is None:
            added["answers_by_probability"] = count_answers(
                self.cut_of_probabilities.of_two(found), truth)
            added["outside"] = count_outside_rows(found)
        return added

    def resolve(self, state: MetricState) -> tuple[Tensor, Tensor]:
        """Return the decisions at positive and at negative labels, read as fits the whole pass."""
        unknown = self.task.from_logits is None
        by_probability = unknown and are_probabilities(state, self.task)
        reading = "answers_by_probability" if by_probability else "answers"
        return resolve_answers(state[reading], self.task)


def are_probabilities(state: MetricState, task: Task) -> bool:
    """Return whether predictions are probabilities: by the task, else if all lie in 0 to 1."""
    return task.from_logits is False if task.from_logits is not None else not int(state["outside"])


def count_outside(scores: Tensor) -> Tensor:
    """Return how many single scores are no probabilities; NaN does not count."""
    return ((scores < 0) | (scores > 1)).count_nonzero()


def count_outside_rows(found: Classes) -> Tensor:
    """Return how many rows of scores are no class probabilities; rows with NaN do not count."""
    scores, axis = found.scores, found.axis
    # each of a row is rounded by at most half an eps of it, which for bfloat16 is more
    close = max(CLOSE, torch.finfo(scores.dtype).eps) if scores.is_floating_point() else CLOSE
    beyond = ((scores < 0) | (scores > 1)).any(axis)
    return (beyond | ((at_least_float32(scores).sum(axis) - 1).abs() > close)).count_nonzero()
