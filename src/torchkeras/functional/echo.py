"""Drawing after :func:`build`, when module calls are not recorded: values appear inside a forward.

The module is recorded at that moment, from the arguments of its call. Its forward, which is already
running, runs to its end, and what it returns is replaced by what was recorded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch import nn

from torchkeras.core.errors import bad_value
from torchkeras.core.types import Leaf, Tree
from torchkeras.functional.symbol import GraphStep, Symbol, drawn_at, leaves, map_values

MODULE_CALL_CODE: Any = getattr(nn.Module.__call__, "__code__", None)
active_calls: list[LateCall] = []  # at most one


class LateCall:
    """A module call noticed while its forward runs, and the outputs recorded for it."""

    def __init__(self, frame: FrameType) -> None:
        self.frame = frame
        self.recorded: Tree = None

    @property
    def step(self) -> GraphStep:
        """Return the step that values computed inside this forward refer to."""
        return GraphStep("echo", self)


def find_late_call(args: Tree, kwargs: Tree, watched: bool) -> tuple[LateCall | None, bool]:
    """Return the late call whose forward is running, if any, and whether it was just found."""
    if active_calls and any(frame is active_calls[0].frame for frame in frames()):
        return active_calls[0], False
    active_calls.clear()
    if MODULE_CALL_CODE is None and not watched:
        raise bad_value(
            "drawing",
            received="a value after build, on a torch whose calls of modules leave no frame",
            expected="all values drawn before build", fix=f"Draw everything first. {drawn_at()}")
    inside = None if watched else outermost_call()
    if inside is None:
        return None, False
    active_calls.append(LateCall(inside))
    return active_calls[0], True


def outermost_call() -> FrameType | None:
    """Return the frame of the outermost running module call on symbolic values, or None."""
    found = None
    for frame in frames():
        if frame.f_code is MODULE_CALL_CODE and any(
                isinstance(leaf, Symbol) for leaf in leaves(call_of_frame(frame)[1:])):
            found = frame
    return found


def call_of_frame(frame: FrameType) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
    """Return module, args and kwargs of a frame of ``nn.Module.__call__``."""
    module, args, kwargs = (frame.f_locals[name] for name in MODULE_CALL_CODE.co_varnames[:3])
    return module, args, kwargs


def frames(frame: FrameType | None = None) -> Iterator[FrameType]:
    """Yield the running frames, innermost first, from the caller or a given frame on."""
    frame = frame or sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back


def resolve_late(tree: Tree) -> Tree:
    """Replace values that a late call's forward returned by those recorded for it."""
    return map_values(_resolved, tree)


def _resolved(value: Leaf) -> Leaf:
    if not (isinstance(value, Symbol) and value.step.kind == "echo"):
        return value
    given = [leaf for leaf in leaves(value.step.target.recorded) if isinstance(leaf, Symbol)]
    alike = [
        one for one in given
        if (one.value.shape, one.value.dtype) == (value.value.shape, value.value.dtype)]
    if len(alike) == 1:
        return alike[0]
    raise bad_value("drawing",
                    received=f"one of {len(alike)} like values from a module called after build",
                    expected="modules with several like outputs called before build",
                    fix=f"Draw everything first, then build each net. {drawn_at()}")
