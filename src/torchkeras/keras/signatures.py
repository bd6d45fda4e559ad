"""Check the methods of callbacks in Keras's words before training."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from torchkeras.core.errors import bad_type


def check_signatures(callbacks: Iterable[object], moments: Iterable[str]) -> None:
    """Raise for a method that cannot be called as Keras calls it.

    Raises:
        TypeError: it takes other arguments, or is async or a generator.
    """
    for one in callbacks:
        for moment in moments:
            hook = getattr(one, moment, None)
            if callable(hook):
                check_signature(type(one).__name__, moment, hook)


def check_signature(kind: str, moment: str, hook: Any) -> None:
    """Raise for one such method."""
    place = "epoch" if "epoch" in moment else "batch" if "batch" in moment else None
    names = ("logs",) if place is None else (place, "logs")
    where = f"{kind}.{moment}"
    if inspect.iscoroutinefunction(hook) or inspect.isgeneratorfunction(hook):
        raise bad_type("callbacks", received=f"{where}, which is async or yields: calling it runs "
                       "nothing", expected="an ordinary method")
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):  # compiled code can hide its signature
        return
    try:
        signature.bind(*names)
    except TypeError:
        raise bad_type("callbacks", received=f"{where}{signature}", expected="a method of "
                       + " and ".join(names),
                       fix=f"def {moment}(self, {', '.join(names)}=None)") from None
