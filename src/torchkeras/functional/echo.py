"""Drawing on after :func:`build`, when calls of modules are not seen: a value then finds itself inside a forward.

The module is recorded there and then, from the arguments of its call. Its forward, which is already running, goes on to
its end, and what it returns stands for what was recorded.
"""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from torchkeras.core.errors import bad_value
from torchkeras.functional.symbol import Step, Symbol, drawn_at, leaves, map_values

CALL: Any = getattr(nn.Module.__call__, "__code__", None)
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
    if CALL is None and not watched:
        raise bad_value("drawing", received="a value after build, on a torch whose calls of modules leave no frame",
                        expected="all values drawn before build", fix=f"Draw everything first. {drawn_at()}")
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
            found = frame if any(isinstance(leaf, Symbol) for leaf in leaves(call_in(frame)[1:])) else found
    return found


def call_in(frame: Any) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """The module that a frame of ``nn.Module.__call__`` calls, and what it gives it: by place and by name."""
    module, args, kwargs = (frame.f_locals[name] for name in CALL.co_varnames[:3])
    return module, args, kwargs


def stack(frame: Any = None) -> Any:
    """The frames that are running, innermost first: all, or from one of them on."""
    frame = frame or sys._getframe(1)
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
