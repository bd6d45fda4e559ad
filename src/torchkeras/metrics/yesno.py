"""Counts of binary decisions by kind of label, so that the whole pass tells what -1 means.

Beside labels of 0 a label of -1 means "unknown" and is excluded; in data without a 0 it means
"negative", as in ``torch.nn.SoftMarginLoss``. One batch cannot tell which, so each kind of label
has its own counts, and these add up over batches and ranks.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.metrics.reading import Classes
from torchkeras.metrics.shapes import at_least_float32
from torchkeras.metrics.task import Task

EDGES = (1.5, 0.5, -0.5, -1.5)  # a label at or above: invalid, positive, 0, -1; below all: unknown
OTHER, POSITIVE, ZERO, MINUS = range(4)  # kinds of labels, in the order of the edges
YES, NO, ANY = range(3)  # kinds of decisions; NaN is neither YES nor NO
SMALL = 1 << 13  # larger masks are faster to count one by one


class Threshold:
    """A decision threshold: positive above a probability of ``threshold``, negative at it.

    A logit is compared with the logit of the threshold, log(t / (1 - t)), so nothing saturates.
    Integers and bools are taken as decisions already made. In Keras, torchmetrics and scikit-learn,
    0.5 is negative, too.
    """

    def __init__(self, threshold: float, from_logits: bool) -> None:
        if not 0 < threshold < 1:
            raise bad_value("threshold", received=threshold,
                            expected="a probability between 0 and 1")
        self.threshold, self.from_logits = threshold, from_logits
        self.score = math.log(threshold / (1 - threshold)) if from_logits else threshold

    def __call__(self, preds: Tensor) -> tuple[Tensor, Tensor]:
        """Return which predictions are positive, and which are negative; NaN is neither."""
        if not preds.is_floating_point():
            yes = preds > 0.5
            return yes, ~yes
        scores = at_least_float32(preds)
        return scores > self.score, scores <= self.score

    def of_two(self, found: Classes) -> tuple[Tensor, Tensor]:
        """Return the same for the scores of two classes, of which the second is positive."""
        no, yes = found.pair()
        if self.from_logits:
            return (yes - no) > self.score, (yes - no) <= self.score
        margin = (1 - self.threshold) * yes - self.threshold * no  # they may not add up to 1
        return margin > 0, margin <= 0


def count_answers(answers: tuple[Tensor, Tensor], labels: Tensor,
                  left_out: tuple[float, ...] = ()) -> Tensor:
    """Return counts of labels at or above each edge (rows) by decision: yes, no, any (columns).

    NaN, ``left_out`` and numbers below -1 reach no edge.
    """
    labels = as_floats(labels)
    found = torch.stack([labels >= edge for edge in EDGES])
    for mark in left_out:
        found &= labels != mark
    yes, no = answers
    masks = found[:, None] & torch.stack([yes, no, torch.ones_like(yes)])
    if labels.numel() <= SMALL:
        return masks.count_nonzero(-1)
    return torch.stack([mask.count_nonzero() for mask in masks.flatten(0, 1)]).view(masks.shape[:2])


def encode_labels(labels: Tensor, left_out: tuple[float, ...] = ()) -> Tensor:
    """Return labels as 1, 0 and -1 in int8; 2 marks an invalid label, -2 an unknown one."""
    labels = as_floats(labels)
    other, positive, zero, minus = ((labels >= edge).view(torch.int8) for edge in EDGES)
    codes = other + positive + zero + minus - 2
    for mark in left_out:
        codes = codes.masked_fill(labels == mark, -2)
    return codes


def as_floats(labels: Tensor) -> Tensor:
    """Return labels as floats: of an unsigned dtype, some would equal a negative number."""
    return labels if labels.is_floating_point() else labels.float()


def negative_kind(counts: Tensor, signed: bool) -> int:
    """Return which kind of label means negative in all that was counted.

    Args:
        counts: labels of each kind.
        signed: True when the loss takes -1 for negative, also beside 0.

    Raises:
        ValueError: some labels are neither positive nor negative.
    """
    if int(counts[OTHER]):
        raise bad_value(
            "labels",
            received=f"{int(counts[OTHER])} labels that are neither positive nor negative",
            expected="0 and 1, -1 and 1, or probabilities, one for each prediction",
            fix="Pass a value that means 'unknown' as the metric's ignore_index; class numbers "
            "need predictions with a score for each class.")
    minus = int(counts[MINUS]) > 0
    return MINUS if minus and (signed or not int(counts[ZERO])) else ZERO


def resolve_answers(answers: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Return the decisions at positive and at negative labels from :func:`count_answers`' table."""
    rows = answers.diff(dim=0, prepend=answers.new_zeros(1, 3))
    return rows[POSITIVE], rows[negative_kind(rows[:, ANY], task.minus_is_no)]
