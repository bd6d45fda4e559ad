"""Where output goes: a notebook, a terminal, or a stream that only takes lines."""

from __future__ import annotations

import io
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torchkeras.core.text import encodable


class Screen(Protocol):
    """What a display draws on."""

    live: bool  # whether a line can be redrawn in place
    colour: bool

    @property
    def width(self) -> int:
        """Characters of a line."""

    def line(self, text: str) -> None:
        """Write a line that stays."""

    def redraw(self, text: str) -> None:
        """Draw the live line anew."""

    def close(self, keep: bool = False) -> None:
        """End the live line: take it away, or keep it as it last was."""


class Plain:
    """Lines for log files: no carriage return, no escape, each line there at once."""

    live = colour = False
    width = 10_000

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self.write = write or say

    def line(self, text: str) -> None:
        """Write a line."""
        self.write(text)

    def redraw(self, text: str) -> None:
        """Nothing: a log has no line that moves."""

    def close(self, keep: bool = False) -> None:
        """Nothing to end."""


class Terminal:
    """A table that grows above one live line; what other code prints appears between them."""

    live = True

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(highlight=False)
        self.colour = self.console.color_system is not None and not self.console.no_color
        self.view: Any = None
        self.make_view = lambda: Live(console=self.console, auto_refresh=False, transient=True)

    @property
    def width(self) -> int:
        """Characters of a line; one is left free, since some terminals wrap when the last is used."""
        return shutil.get_terminal_size().columns - 1

    def line(self, text: str) -> None:
        """Write a line that stays, above the live one."""
        from rich.text import Text

        with unheard():
            self.console.print(Text.from_ansi(encodable(text, encoding())), soft_wrap=True)

    def redraw(self, text: str) -> None:
        """Draw the live line anew."""
        from rich.text import Text

        with unheard():
            if self.view is None:
                self.view = self.make_view()
                self.view.start()
            self.view.update(Text(encodable(text, encoding()), no_wrap=True, overflow="ellipsis"), refresh=True)

    def close(self, keep: bool = False) -> None:
        """Take the live line away or keep it, and give the cursor back."""
        if self.view is not None:
            self.view.transient = not keep
            with unheard():
                self.view.stop()
            self.view = None


def say(text: object) -> None:
    """Print a text as far as standard output can take it; what nobody hears is no reason to end a run."""
    with unheard():
        print(encodable(str(text), encoding()), flush=True)


@contextmanager
def unheard() -> Iterator[None]:
    """Go on where standard output is gone: a full disk under a log, a closed pipe or terminal."""
    try:
        yield
    except (OSError, ValueError) as error:
        warnings.warn(f"lines of the display could not be written to standard output ({type(error).__name__}: {error})",
                      stacklevel=4)


def encoding() -> str:
    """What standard output can write."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def detect(stream: Any = None) -> str:
    """``"notebook"``, ``"terminal"`` or ``"plain"``: what standard output is."""
    stream = stream or sys.stdout
    if in_notebook(stream):
        return "notebook"
    is_terminal = getattr(stream, "isatty", lambda: False)() and os.environ.get("TERM") != "dumb"
    return "terminal" if is_terminal else "plain"


def in_notebook(stream: Any) -> bool:
    """Whether what is shown reaches a notebook's page: there is a kernel, and output is not caught on its way."""
    if "IPython" not in sys.modules or isinstance(stream, (io.TextIOWrapper, io.StringIO)):
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def open_screen(write: Callable[[str], object] | None = None) -> Screen:
    """The screen that fits standard output; lines for ``write`` when one is given."""
    return Terminal() if write is None and detect() == "terminal" else Plain(write)
