"""Answers of yes and no where it is not known whether predictions are logits or probabilities.

A loss of unknown make does not tell. One batch cannot tell either: a few logits may all lie between 0 and 1. So both
readings are counted, with how many predictions are no probabilities, and these add up over batches and processes: if
there are none in the whole pass, all of them are probabilities. Where the loss tells, only its reading is counted.
"""

from __future__ import annotations

import torch
from torch import Tensor

from torchkeras.metrics.base import Metric, State
from torchkeras.metrics.reading import Classes
from torchkeras.metrics.shapes import precise
from torchkeras.metrics.task import Task
from torchkeras.metrics.yesno import Cut, settled, table

CLOSE = 1e-3  # how far the probabilities of a row may be from adding up to 1


class Answers(Metric):
    """Counts answers of yes and no by label."""

    task: Task

    def set_up(self, threshold: float, task: Task) -> None:
        """Declare what is counted."""
        self.task = task
        self.cut = Cut(threshold, task.from_logits is not False)
        self.add_sum("answers", (4, 3))
        if task.from_logits is None:
            self.cut_of_probabilities = Cut(threshold, from_logits=False)
            self.add_sum("answers_by_probability", (4, 3))
            self.add_sum("outside")

    def leave_out(self, marks: tuple[float, ...]) -> None:
        """Leave out the labels that the loss leaves out, if it did not say itself which these are."""
        if self.follows_loss:
            self.task = self.task.told(marks)

    def count_single(self, scores: Tensor, truth: Tensor) -> dict[str, Tensor | int]:
        """Return answers of one score a label."""
        left_out = self.task.no_answers
        added: dict[str, Tensor | int] = {"answers": table(self.cut(scores), truth, left_out)}
        if self.task.from_logits is None:
            added["answers_by_probability"] = table(self.cut_of_probabilities(scores), truth, left_out)
            added["outside"] = outside(scores)
        return added

    def count_two(self, found: Classes) -> dict[str, Tensor | int]:
        """Return answers of the scores of two classes, of which the second is yes."""
        truth = found.numbers()
        added: dict[str, Tensor | int] = {"answers": table(self.cut.of_two(found), truth)}
        if self.task.from_logits is None:
            added["answers_by_probability"] = table(self.cut_of_probabilities.of_two(found), truth)
            added["outside"] = outside_rows(found)
        return added

    def settled(self, state: State) -> tuple[Tensor, Tensor]:
        """Return the answers to labels of yes, and to labels of no, in the reading that fits the whole pass."""
        unknown = self.task.from_logits is None
        reading = "answers_by_probability" if unknown and are_probabilities(state, self.task) else "answers"
        return settled(state[reading], self.task)


def are_probabilities(state: State, task: Task) -> bool:
    """Return whether predictions are probabilities: as the task says, or since no prediction is anything else."""
    return task.from_logits is False if task.from_logits is not None else not int(state["outside"])


def outside(scores: Tensor) -> Tensor:
    """Return how many single scores are no probabilities; NaN is nothing."""
    return ((scores < 0) | (scores > 1)).count_nonzero()


def outside_rows(found: Classes) -> Tensor:
    """Return how many rows of scores are no probabilities of classes; a row with NaN is nothing."""
    scores, axis = found.scores, found.axis
    # each of a row is rounded by at most half an eps of it, which for bfloat16 is more
    close = max(CLOSE, torch.finfo(scores.dtype).eps) if scores.is_floating_point() else CLOSE
    beyond = ((scores < 0) | (scores > 1)).any(axis)
    return (beyond | ((precise(scores).sum(axis) - 1).abs() > close)).count_nonzero()
