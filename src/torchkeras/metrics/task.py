"""What metrics must know about labels and predictions, as the loss defines it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torchkeras.core.errors import bad_type, one_of, whole_number

KINDS = ("classes", "binary", "numbers")


@dataclass(frozen=True)
class Task:
    """Tell metrics how to read labels and predictions; ``training.task.task_of`` makes it.

    Attributes:
        kind: "classes" (scores of C classes), "binary" (each prediction is a binary decision),
            "numbers" (regression), or None where it is unknown.
        from_logits: True when predictions are logits (or log-probabilities), False when they are
            probabilities; None where it is unknown: then the whole pass decides, see
            :mod:`torchkeras.metrics.answers`.
        one_hot: what labels of the shape of the predictions mean where there are several columns:
            True: a one-hot or mixed label per row; False: one binary label each; None: it is
            unknown, and such labels are refused.
        axis: the class dimension; None: the shapes determine it.
        likely_axis: the class dimension where shapes fit two of them; None: such shapes are
            refused.
        ignore_index: a label to exclude, beside negative ones; 255, for example.
        marks: labels that a custom loss was found to exclude, as 0 or -999.
        signed: True when the loss takes -1 for "negative", and excludes 0.

    Raises:
        TypeError, ValueError: a field is of the wrong type, or unknown.

    Example:
        >>> Task(kind="classes", one_hot=True, likely_axis=1).from_logits
        True
    """

    kind: str | None = None
    from_logits: bool | None = True
    one_hot: bool | None = None
    axis: int | None = None
    likely_axis: int | None = None
    ignore_index: int | None = None
    signed: bool = False
    marks: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind is not None:
            one_of("kind", self.kind, KINDS)
        whole_number("axis", self.axis, least=-10, most=10, optional=True)
        whole_number("ignore_index", self.ignore_index, least=-2**63, most=2**63 - 1, optional=True)
        if self.one_hot not in (None, True, False):
            raise bad_type("one_hot", received=repr(self.one_hot), expected="True, False or None")

    @property
    def left_out(self) -> tuple[float, ...]:
        """Return the excluded class labels, beside negative ones."""
        return self.marks if self.ignore_index is None else (self.ignore_index,)

    @property
    def no_answers(self) -> tuple[float, ...]:
        """Return the excluded binary labels; 0 stays: it is a negative where no label is -1."""
        if self.ignore_index is not None:
            return (self.ignore_index,)
        # those below are excluded anyway
        return tuple(one for one in self.marks if one and one >= -1.5)

    @property
    def minus_is_no(self) -> bool:
        """Tell whether -1 means negative also beside labels of 0, which are then excluded."""
        return self.signed or (self.ignore_index is None and 0 in self.marks)

    def with_marks(self, marks: tuple[float, ...]) -> Task:
        """Return the task with labels that the loss excludes, unless it has an ``ignore_index``."""
        if self.ignore_index is not None:
            return self
        numbers = (int(one) if float(one).is_integer() else one for one in marks if one == one)
        return replace(self, marks=tuple(numbers))


def task_from_arguments(task: Task | None, from_logits: bool, axis: int | None,
                        ignore_index: int | None, one_hot: bool | None = False) -> Task:
    """Return the given task, or one made from a metric's arguments."""
    if task is not None:
        return task
    return Task(from_logits=bool(from_logits), one_hot=one_hot, axis=axis,
                ignore_index=ignore_index)
