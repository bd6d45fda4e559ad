"""Answers of yes and no, counted by what the labels are, so that the whole pass can tell what -1 means.

Beside labels of 0 a label of -1 means "not known" and is left out; in data without a 0 it means "no", as in
``torch.nn.SoftMarginLoss``. One batch cannot tell which, so each kind of label has its own counts, and these add up
over batches and processes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.metrics.reading import Classes
from torchkeras.metrics.shapes import precise
from torchkeras.metrics.task import Task

EDGES = (1.5, 0.5, -0.5, -1.5)  # from these on a label is: no answer, a yes, 0, -1; below all: not known
OTHER, POSITIVE, ZERO, MINUS = range(4)  # kinds of labels, in the order of the edges
YES, NO, ANY = range(3)  # kinds of answers; NaN is neither a yes nor a no
SMALL = 1 << 13  # masks of more values are faster counted one by one


class Cut:
    """Where a score becomes a yes: above a probability of ``threshold``, which itself is a no.

    A logit is compared with the logit of the threshold, log(t / (1 - t)), so nothing saturates. Whole numbers and
    bools are taken as decisions already made. Keras, torchmetrics and scikit-learn say no at 0.5, too.
    """

    def __init__(self, threshold: float, from_logits: bool) -> None:
        if not 0 < threshold < 1:
            raise bad_value("threshold", received=threshold, expected="a probability between 0 and 1")
        self.threshold, self.from_logits = threshold, from_logits
        self.score = math.log(threshold / (1 - threshold)) if from_logits else threshold

    def __call__(self, preds: Tensor) -> tuple[Tensor, Tensor]:
        """Return which predictions say yes, and which say no; NaN says neither."""
        if not preds.is_floating_point():
            yes = preds > 0.5
            return yes, ~yes
        scores = precise(preds)
        return scores > self.score, scores <= self.score

    def of_two(self, found: Classes) -> tuple[Tensor, Tensor]:
        """Return the same for the scores of two classes, of which the second is yes."""
        no, yes = found.pair()
        if self.from_logits:
            return (yes - no) > self.score, (yes - no) <= self.score
        margin = (1 - self.threshold) * yes - self.threshold * no  # they may not add up to 1
        return margin > 0, margin <= 0


def table(answers: tuple[Tensor, Tensor], labels: Tensor, left_out: tuple[float, ...] = ()) -> Tensor:
    """Return how many labels from each edge on (row) met a yes, a no, and any answer (columns).

    NaN, ``left_out`` and numbers below -1 reach no edge.
    """
    labels = floats(labels)
    found = torch.stack([labels >= edge for edge in EDGES])
    for mark in left_out:
        found &= labels != mark
    yes, no = answers
    masks = found[:, None] & torch.stack([yes, no, torch.ones_like(yes)])
    if labels.numel() <= SMALL:
        return masks.count_nonzero(-1)
    return torch.stack([mask.count_nonzero() for mask in masks.flatten(0, 1)]).view(masks.shape[:2])


def coded(labels: Tensor, left_out: tuple[float, ...] = ()) -> Tensor:
    """Return labels as 1 (yes), 0 and -1 in int8; 2 is no answer, -2 is not known."""
    labels = floats(labels)
    other, positive, zero, minus = ((labels >= edge).view(torch.int8) for edge in EDGES)
    codes = other + positive + zero + minus - 2
    for mark in left_out:
        codes = codes.masked_fill(labels == mark, -2)
    return codes


def floats(labels: Tensor) -> Tensor:
    """Return labels as floats: of an unsigned type, some would equal a negative number."""
    return labels if labels.is_floating_point() else labels.float()


def negatives(counts: Tensor, signed: bool) -> int:
    """Return which kind of label means no in all that was counted.

    Args:
        counts: labels of each kind.
        signed: True when the loss takes -1 for no, also beside 0.

    Raises:
        ValueError: some labels are neither a yes nor a no.
    """
    if int(counts[OTHER]):
        raise bad_value("labels", received=f"{int(counts[OTHER])} labels that are neither a yes nor a no",
                        expected="0 and 1, -1 and 1, or probabilities, one for each prediction",
                        fix="A value that means 'not known' goes into the metric's ignore_index; class numbers need "
                            "predictions with a score for each class.")
    minus = int(counts[MINUS]) > 0
    return MINUS if minus and (signed or not int(counts[ZERO])) else ZERO


def settled(answers: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Return the answers to labels of yes, and to labels of no, from what :func:`table` counted."""
    rows = answers.diff(dim=0, prepend=answers.new_zeros(1, 3))
    return rows[POSITIVE], rows[negatives(rows[:, ANY], task.minus_is_no)]
