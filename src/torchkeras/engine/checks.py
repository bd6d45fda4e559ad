"""The words of an error: which argument, what came, what was expected, how to fix it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from numbers import Integral
from typing import Any


def message(argument: str, received: Any, expected: str, fix: str) -> str:
    """The text of an error in its four parts."""
    return f"{argument}: received {received}; expected {expected}. {fix}".rstrip()


def bad_value(argument: str, *, received: Any, expected: str, fix: str = "") -> ValueError:
    """A ``ValueError`` to raise: the type was right, the value was not."""
    return ValueError(message(argument, received, expected, fix))


def bad_type(argument: str, *, received: Any, expected: str, fix: str = "") -> TypeError:
    """A ``TypeError`` to raise: another kind of object was expected."""
    return TypeError(message(argument, received, expected, fix))


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


def whole_number(argument: str, value: Any, *, least: int, most: int | None = None, optional: bool = False) -> None:
    """Refuse what is not an int in the range (bool is not a number here)."""
    if optional and value is None:
        return
    kind = f"an int of at least {least}" if most is None else f"an int from {least} to {most}"
    kind += " or None" if optional else ""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise bad_type(argument, received=f"{value!r} ({type(value).__name__})", expected=kind)
    if int(value) < least or (most is not None and int(value) > most):
        raise bad_value(argument, received=value, expected=kind)


def positive_number(argument: str, value: Any) -> None:
    """Refuse what is neither None nor a finite number above zero."""
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise bad_type(argument, received=f"{value!r} ({type(value).__name__})", expected="a number above 0, or None")
    if not 0 < value < float("inf"):
        raise bad_value(argument, received=value, expected="a finite number above 0, or None")


def instance_not_class(argument: str, value: Any) -> None:
    """Refuse a class where one of its objects is meant."""
    if isinstance(value, type):
        raise bad_type(argument, received=f"the class {value.__name__}", expected="an object",
                       fix=f"Did you mean {value.__name__}()?")
