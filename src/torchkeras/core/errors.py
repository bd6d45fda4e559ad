"""Messages in four parts: which argument, what was received, what was expected, how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TypeVar

import numpy as np

SWITCHES = {  # hints for arguments that are True or False
    "cpu": "cpu=True stays on the CPU; otherwise the best accelerator there is is taken.",
    "fsdp": "The number of processes is num_processes.",
    "quiet": "quiet=True shows nothing.",
    "shuffle": "shuffle=True draws a new order each epoch.",
    "resume": "The state is found by ckpt_path: give the one that the run was started with.",
    "with_labels": "with_labels=True gives (outputs, labels).",
}
Error = TypeVar("Error", bound=BaseException)


def mistake(error: Error) -> Error:
    """Return the error, marked as a mistake of the caller: it is shown with a short traceback."""
    vars(error)["user_mistake"] = True
    return error


def message(argument: str, received: object, expected: str, fix: str) -> str:
    """Return the text of an error in its four parts."""
    return f"{argument}: received {received}; expected {expected}. {fix}".rstrip()


def bad_value(argument: str, *, received: object, expected: str, fix: str = "") -> ValueError:
    """Return a ``ValueError`` to raise: the type was right, the value was not."""
    return mistake(ValueError(message(argument, received, expected, fix)))


def bad_type(argument: str, *, received: object, expected: str, fix: str = "") -> TypeError:
    """Return a ``TypeError`` to raise: another kind of object was expected."""
    return mistake(TypeError(message(argument, received, expected, fix)))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"Did you mean 'val_loss'?"`` when a known word is close to this one, else ``""``."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"Did you mean {close[0]!r}?" if close else ""


def one_of(argument: str, value: object, known: Iterable[str]) -> None:
    """Raise for a word that is not in the list, and suggest the closest one."""
    words = list(known)
    if value not in words:
        raise bad_value(argument, received=repr(value),
                        expected="one of " + ", ".join(map(repr, words)),
                        fix=did_you_mean(str(value), words))


def kind_of(value: object) -> str:
    """Return a value and its type for an error; for a long value, such as an array, its type."""
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape):
        return f"a {type(value).__name__} of shape {tuple(shape)}"
    text = repr(value)
    if len(text) <= 80 and "\n" not in text:
        return f"{text} ({type(value).__name__})"
    return f"a {type(value).__name__}"


def check_bool(argument: str, value: object) -> None:
    """Raise for a value that is neither True nor False.

    numpy's bools pass, since comparing arrays gives them. 0 and 1 do not: given for ``cpu``,
    ``fsdp`` or ``quiet`` they may be meant as a device number, a count or a verbosity level.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise bad_type(argument, received=kind_of(value), expected="True or False",
                       fix=SWITCHES.get(argument, ""))

def check_str(argument: str, value: object, example: str) -> None:
    """Raise for a value that is not a str."""
    if not isinstance(value, str):
        raise bad_type(argument, received=kind_of(value), expected="a text",
                       fix=f"Such as {example!r}.")


def whole_number(argument: str, value: object, *, least: int, most: int | None = None,
                 optional: bool = False) -> None:
    """Raise for a value that is not an int in the range (a bool is not accepted)."""
    if optional and value is None:
        return
    kind = f"an int of at least {least}" if most is None else f"an int from {least} to {most}"
    kind += " or None" if optional else ""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise bad_type(argument, received=kind_of(value), expected=kind)
    if int(value) < least or (most is not None and int(value) > most):
        raise bad_value(argument, received=value, expected=kind)


def positive_number(argument: str, value: object) -> None:
    """Raise for a value that is neither None nor a finite number above zero."""
    if value is None:
        return
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise bad_type(argument, received=kind_of(value), expected="a number above 0, or None")
    if not 0 < float(value) < float("inf"):
        raise bad_value(argument, received=value, expected="a finite number above 0, or None")


def instance_not_class(argument: str, value: object) -> None:
    """Raise for a class where an object of it is expected."""
    if isinstance(value, type):
        raise bad_type(argument, received=f"the class {value.__name__}", expected="an object",
                       fix=f"Did you mean {value.__name__}()?")


def is_real(value: object) -> bool:
    """Tell whether a value is one number: Python's, numpy's, or a 0-d tensor or array."""
    if isinstance(value, Real):
        return not isinstance(value, bool)
    return getattr(value, "shape", None) == () and hasattr(value, "item") and (
        isinstance(value.item(), Real))


def check_min_delta(value: object) -> None:
    """Raise unless a value is a finite number of at least 0."""
    expected = "a finite number of at least 0"
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, Real):
        raise bad_type("min_delta", received=kind_of(value), expected=expected)
    if not 0 <= float(value) < float("inf"):
        fix = "It is a size; mode says which direction is better." if float(value) < 0 else ""
        raise bad_value("min_delta", received=value, expected=expected, fix=fix)
