"""The words of an error: which argument, what came, what was expected, how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, TypeVar

import numpy as np

SWITCHES = {  # what may have been meant
    "cpu": "cpu=True stays on the CPU; otherwise the best accelerator there is is taken.",
    "fsdp": "The number of processes is num_processes.",
    "quiet": "quiet=True shows nothing.",
    "shuffle": "shuffle=True draws a new order each epoch.",
    "resume": "The state is found by ckpt_path: give the one that the run was started with.",
    "with_labels": "with_labels=True gives (outputs, labels).",
}
Error = TypeVar("Error", bound=BaseException)


def mistake(error: Error) -> Error:
    """Return the error, marked as a mistake of the caller: public functions show it with a short traceback."""
    vars(error)["user_mistake"] = True
    return error


def message(argument: str, received: Any, expected: str, fix: str) -> str:
    """The text of an error in its four parts."""
    return f"{argument}: received {received}; expected {expected}. {fix}".rstrip()


def bad_value(argument: str, *, received: Any, expected: str, fix: str = "") -> ValueError:
    """A ``ValueError`` to raise: the type was right, the value was not."""
    return mistake(ValueError(message(argument, received, expected, fix)))


def bad_type(argument: str, *, received: Any, expected: str, fix: str = "") -> TypeError:
    """A ``TypeError`` to raise: another kind of object was expected."""
    return mistake(TypeError(message(argument, received, expected, fix)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"Did you mean 'val_loss'?"`` when one of the known words is close, else nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


def one_of(argument: str, value: Any, known: Iterable[str]) -> None:
    """Refuse a word that is not in the list, and name the nearest that is."""
    words = list(known)
    if value not in words:
        raise bad_value(argument, received=repr(value), expected="one of " + ", ".join(map(repr, words)),
                        fix=did_you_mean(str(value), words))


def kind_of(value: Any) -> str:
    """Return a value and its type as an error names them; of a long value, such as an array, the type alone."""
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape):
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    text = repr(value)
    return f"{text} ({type(value).__name__})" if len(text) <= 80 and "\n" not in text else f"a {type(value).__name__}"


def switch(argument: str, value: Any) -> None:
    """Refuse what is neither True nor False.

    numpy's bools pass, since comparing arrays gives them. 0 and 1 do not: beside ``cpu``, ``fsdp`` or ``quiet`` they
    are as likely a device's number, a count or a level of another library, and would be taken for something else.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise bad_type(argument, received=kind_of(value), expected="True or False", fix=SWITCHES.get(argument, ""))


def text(argument: str, value: Any, example: str) -> None:
    """Refuse what is no text."""
    if not isinstance(value, str):
        raise bad_type(argument, received=kind_of(value), expected="a text", fix=f"Such as {example!r}.")


def whole_number(argument: str, value: Any, *, least: int, most: int | None = None, optional: bool = False) -> None:
    """Refuse what is not an int in the range (bool is not a number here)."""
    if optional and value is None:
        return
    kind = f"an int of at least {least}" if most is None else f"an int from {least} to {most}"
    kind += " or None" if optional else ""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise bad_type(argument, received=kind_of(value), expected=kind)
    if int(value) < least or (most is not None and int(value) > most):
        raise bad_value(argument, received=value, expected=kind)


def positive_number(argument: str, value: Any) -> None:
    """Refuse what is neither None nor a finite number above zero."""
    if value is None:
        return
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise bad_type(argument, received=kind_of(value), expected="a number above 0, or None")
    if not 0 < float(value) < float("inf"):
        raise bad_value(argument, received=value, expected="a finite number above 0, or None")


def instance_not_class(argument: str, value: Any) -> None:
    """Refuse a class where one of its objects is meant."""
    if isinstance(value, type):
        raise bad_type(argument, received=f"the class {value.__name__}", expected="an object",
                       fix=f"Did you mean {value.__name__}()?")
