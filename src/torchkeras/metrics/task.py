"""What a loss says about its labels and predictions, in words that metrics understand."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torchkeras.core.errors import bad_type, one_of, whole_number

KINDS = ("classes", "binary", "numbers")


@dataclass(frozen=True)
class Task:
    """Tell metrics how to read labels and predictions; :func:`torchkeras.training.task.task_of` derives it from a loss.

    Attributes:
        kind: "classes" (scores of C classes), "binary" (each prediction is a yes or a no), "numbers" (regression), or
            None where nothing is known.
        from_logits: True when predictions are logits (or log-probabilities), False when they are probabilities; None
            where it is not known: then the whole pass decides, see :mod:`torchkeras.metrics.answers`.
        one_hot: what labels of the shape of the predictions mean where there are several columns: True: a one-hot or
            mixed label a row; False: a yes or a no each; None: it is not known, and such labels are refused.
        axis: the dimension of the classes; None: the shapes tell.
        likely_axis: the dimension of the classes where shapes fit two of them; None: such shapes are refused.
        ignore_index: a label that means "not known" beside negative ones; 255, for example.
        marks: labels that a loss of unknown make was found to leave out, as 0 or -999.
        signed: True when the loss takes -1 for "no", and 0 for nothing.

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
        """Return the labels that are no classes, beside negative ones."""
        return self.marks if self.ignore_index is None else (self.ignore_index,)

    @property
    def no_answers(self) -> tuple[float, ...]:
        """Return the labels that are neither a yes nor a no; a mark of 0 is a no where there is no label of -1."""
        if self.ignore_index is not None:
            return (self.ignore_index,)
        return tuple(one for one in self.marks if one and one >= -1.5)  # those below are no answers anyway

    @property
    def minus_is_no(self) -> bool:
        """Return whether -1 means no beside labels of 0, which then mean nothing."""
        return self.signed or (self.ignore_index is None and 0 in self.marks)

    def told(self, marks: tuple[float, ...]) -> Task:
        """Return the task with labels that its loss was found to leave out, where it has no ``ignore_index``."""
        if self.ignore_index is not None:
            return self
        numbers = (int(one) if float(one).is_integer() else one for one in marks if one == one)
        return replace(self, marks=tuple(numbers))


def asked(task: Task | None, from_logits: bool, axis: int | None, ignore_index: int | None,
          one_hot: bool | None = False) -> Task:
    """Return the task that was given, or else one made of a metric's arguments."""
    return Task(from_logits=bool(from_logits), one_hot=one_hot, axis=axis, ignore_index=ignore_index) if (
        task is None) else task
