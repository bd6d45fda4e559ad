"""Write output where it is read: in a notebook, a terminal, or a stream that only takes lines."""

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
    """Something that a display can write lines on."""

    live: bool  # whether a line can be redrawn in place
    colour: bool

    @property
    def width(self) -> int:
        """Return the number of characters in a line."""

    def line(self, text: str) -> None:
        """Write a line that stays."""

    def redraw(self, text: str) -> None:
        """Replace the live line."""

    def close(self, keep: bool = False) -> None:
        """End the live line: remove it, or keep it as it last was."""


class Plain:
    """Lines for log files: no carriage return, no escape, each line there at once."""

    live = colour = False
    width = 10_000

    def __init__(self, write: Callable[[str], object] | None = None) -> None:
        self.write = write or print_safely

    def line(self, text: str) -> None:
        """Write a line."""
        self.write(text)

    def redraw(self, text: str) -> None:
        """Do nothing: a log has no line that moves."""

    def close(self, keep: bool = False) -> None:
        """Do nothing: no line is open."""


class Terminal:
    """A table that grows above one live line; what other code prints appears between them."""

    live = True

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self.console = Console(highlight=False)
        self.colour = self.console.color_system is not None and not self.console.no_color
        self.view: Any = None
        self.make_view: Callable[[], Live] = lambda: Live(
            console=self.console, auto_refresh=False, transient=True)

    @property
    def width(self) -> int:
        """Return the characters in a line, less one: some terminals wrap when the last is used."""
        return shutil.get_terminal_size().columns - 1

    def line(self, text: str) -> None:
        """Write a line that stays above the live one."""
        from rich.text import Text

        with warn_if_closed():
            self.console.print(Text.from_ansi(encodable(text, encoding())), soft_wrap=True)

    def redraw(self, text: str) -> None:
        """Replace the live line."""
        from rich.text import Text

        with warn_if_closed():
            if self.view is None:
                self.view = self.make_view()
                self.view.start()
            line = Text(encodable(text, encoding()), no_wrap=True, overflow="ellipsis")
            self.view.update(line, refresh=True)

    def close(self, keep: bool = False) -> None:
        """Remove or keep the live line, and show the cursor again."""
        if self.view is not None:
            self.view.transient = not keep
            with warn_if_closed():
                self.view.stop()
            self.view = None


def print_safely(text: object) -> None:
    """Print a text as far as standard output can encode it; a closed stream does not end a run."""
    with warn_if_closed():
        print(encodable(str(text), encoding()), flush=True)


@contextmanager
def warn_if_closed() -> Iterator[None]:
    """Warn and go on where standard output fails: a full disk, a closed pipe or terminal."""
    try:
        yield
    except (OSError, ValueError) as error:
        warnings.warn("lines of the display could not be written to standard output "
                      f"({type(error).__name__}: {error})", stacklevel=4)


def encoding() -> str:
    """Return the encoding of standard output."""
    return getattr(sys.stdout, "encoding", None) or "utf-8"


def detect(stream: object = None) -> str:
    """Return what standard output is: ``"notebook"``, ``"terminal"`` or ``"plain"``."""
    stream = stream or sys.stdout
    if in_notebook(stream):
        return "notebook"
    is_terminal = getattr(stream, "isatty", lambda: False)() and os.environ.get("TERM") != "dumb"
    return "terminal" if is_terminal else "plain"


def in_notebook(stream: object) -> bool:
    """Return whether a stream is shown in a notebook: a kernel runs, and nothing redirects it."""
    if "IPython" not in sys.modules or isinstance(stream, (io.TextIOWrapper, io.StringIO)):
        return False
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None) is not None


def open_screen(write: Callable[[str], object] | None = None) -> Screen:
    """Return the screen that fits standard output, or one that writes lines with ``write``."""
    return Terminal() if write is None and detect() == "terminal" else Plain(write)
