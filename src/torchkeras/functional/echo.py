"""Drawing on after :func:`build`, when calls of modules are not seen: a value then finds itself inside a forward.

The module is recorded there and then, from the arguments of its call. Its forward, which is already running, goes on to
its end, and what it returns stands for what was recorded.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from torchkeras.engine.checks import bad_value
from torchkeras.functional.symbol import Step, Symbol, drawn_at, leaves, map_values

CALL: Any = nn.Module._call_impl.__code__
going: list[Echo] = []  # at most one


class Echo:
    """A forward that runs to its end for nothing, and what its module was recorded to give."""

    def __init__(self, frame: Any) -> None:
        self.frame, self.given = frame, None

    @property
    def step(self) -> Step:
        """What its values say they come from."""
        return Step("echo", self)


def look(args: Any, kwargs: Any, watched: bool) -> tuple[Echo | None, bool]:
    """The forward that we are in, if it runs for nothing, and whether that was not known before."""
    if going and any(frame is going[0].frame for frame in stack()):
        return going[0], False
    going.clear()
    inside = None if watched else outermost()
    if inside is None:
        return None, False
    going.append(Echo(inside))
    return going[0], True


def outermost() -> Any:
    """The outermost call of a module on symbolic values, if we are in one."""
    found = None
    for frame in stack():
        if frame.f_code is CALL:
            given = (frame.f_locals["args"], frame.f_locals["kwargs"])
            found = frame if any(isinstance(leaf, Symbol) for leaf in leaves(given)) else found
    return found


def stack() -> Any:
    """The frames that are running, innermost first."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def resolved(tree: Any) -> Any:
    """What was recorded, for what a forward that ran for nothing has returned."""
    return map_values(_resolved, tree)


def _resolved(value: Any) -> Any:
    if not (isinstance(value, Symbol) and value.step.kind == "echo"):
        return value
    given = [leaf for leaf in leaves(value.step.target.given) if isinstance(leaf, Symbol)]
    alike = [one for one in given if (one.value.shape, one.value.dtype) == (value.value.shape, value.value.dtype)]
    if len(alike) == 1:
        return alike[0]
    raise bad_value("drawing", received=f"one of {len(alike)} like values from a module called after build",
                    expected="modules with several like outputs called before build",
                    fix=f"Draw everything first, then build each net. {drawn_at()}")
