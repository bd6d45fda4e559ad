"""Short tracebacks: an error in a call is shown at the call, without this library's frames."""

from __future__ import annotations

import functools
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from types import GeneratorType, TracebackType
from typing import Any, ParamSpec, TypeVar, cast

from torchkeras.core import keywords

P = ParamSpec("P")
R = TypeVar("R")
VARIABLE = "TORCHKERAS_FULL_TRACEBACK"
LIBRARY = os.path.join(str(Path(__file__).parents[1]), "")
STANDARD = tuple(os.path.join(path, "")
                 for path in {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")})
# packages that call users' code back, or that this library calls
BETWEEN = {"torch", "accelerate", "numpy", "pandas", "safetensors", "torchmetrics",
           "pytorch_lightning", "lightning", "lightning_fabric", "cloudpickle"}


class FullTraceback:
    """The full traceback of an error that was shown shortened: ``print(error.full_traceback)``.

    Attributes:
        tb: the traceback object, for ``error.with_traceback(...)`` or a debugger's post-mortem.
    """

    def __init__(self, tb: TracebackType | None, shown: list[TracebackType]) -> None:
        self.tb, self.shown = tb, shown

    def ends(self, links: list[TracebackType]) -> bool:
        """Return whether a traceback ends with the frames that were shown of this one."""
        tail = links[max(len(links) - len(self.shown), 0):]
        return len(tail) == len(self.shown) and all(
            one is other for one, other in zip(tail, self.shown, strict=True))

    def __str__(self) -> str:
        frames = "".join(traceback.format_tb(self.tb)).rstrip()
        return "Traceback (most recent call last):\n" + frames

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Pickle as text: tracebacks cannot be sent to another process."""
        return str, (str(self),)


def short_traceback(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public function: errors marked as the caller's mistake get a short traceback.

    What stays are the frames of the caller and of the caller's code in between, such as a callback.
    The whole traceback is in ``error.full_traceback``; nothing is shortened under the environment
    variable ``TORCHKERAS_FULL_TRACEBACK=1`` or a debugger that is tracing. Causes and contexts are
    not touched, nor are errors of any other kind. A call whose arguments do not fit the signature
    raises a TypeError that names those probably meant.
    """
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            found = function(*args, **kwargs)
        except Exception as error:
            if isinstance(error, TypeError):
                keywords.explain(error, function, args, kwargs)
            shorten(error)
            raise  # with the traceback as it was set, and without a frame of this function
        return cast(R, shorten_errors_of(found)) if isinstance(found, GeneratorType) else found

    return call


def shorten_errors_of(items: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Yield the items of a generator; shorten its errors like those of a function."""
    try:
        yield from items
    except Exception as error:
        shorten(error)
        raise


def shorten(error: BaseException) -> None:
    """Remove this library's frames from the traceback of a mistake; keep the full one beside it."""
    full = os.environ.get(VARIABLE, "0") not in ("", "0")
    if not getattr(error, "user_mistake", False) or full or sys.gettrace():
        return
    links, below, shown = chain(error.__traceback__), list[TracebackType](), list[TracebackType]()
    before = getattr(error, "full_traceback", None)
    if isinstance(before, FullTraceback) and before.ends(links):  # shortened by an inner call
        links, below, shown = links[:len(links) - len(before.shown)], chain(before.tb), before.shown
    short = rebuild_links([*filter(is_callers, links), *shown])
    vars(error)["full_traceback"] = FullTraceback(rebuild_links([*links, *below]), chain(short))
    error.__traceback__ = short


def chain(tb: TracebackType | None) -> list[TracebackType]:
    """Return the links of a traceback, the outermost first."""
    found = []
    while tb is not None:
        found.append(tb)
        tb = tb.tb_next
    return found


def rebuild_links(links: Iterable[TracebackType]) -> TracebackType | None:
    """Return a traceback made of copies of the links; those given stay as they are."""
    following: TracebackType | None = None
    for one in reversed(list(links)):
        following = TracebackType(following, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return following


def is_callers(link: TracebackType) -> bool:
    """Return whether a frame is the caller's code: not of this library, nor in between."""
    # by module too: code that a dataclass generates has no file
    module = str(link.tb_frame.f_globals.get("__name__", ""))
    file = link.tb_frame.f_code.co_filename
    return not (is_internal_file(file) or module.split(".")[0] == "torchkeras")


@functools.lru_cache(maxsize=1024)
def is_internal_file(file: str) -> bool:
    """Return whether a file is of this library, of Python, or of a package called in between."""
    if file.startswith((LIBRARY, "<frozen ")):
        return True
    parts = Path(file).parts
    for folder in ("site-packages", "dist-packages"):
        if folder in parts:
            place = len(parts) - parts[::-1].index(folder)
            return place < len(parts) and parts[place] in BETWEEN
    return file.startswith(STANDARD)


def of_library(tb: TracebackType | None) -> bool:
    """Return whether the innermost frame of a traceback is this library's own."""
    links = chain(tb)
    return bool(links) and links[-1].tb_frame.f_code.co_filename.startswith(LIBRARY)


def level_of_caller() -> int:
    """Return the ``stacklevel`` by which a warning points at the line that called this library."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and is_internal_file(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    return level
