"""Delete the files of a backup whose run is over, and no others: its folder is the user's."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from torchkeras.checkpoint.weight_file import learning_file
from torchkeras.core.errors import bad_value

if TYPE_CHECKING:
    from torchkeras.engine.run import Run

MARK = ".backup"  # in the folder of states: whose weights file it is, and whose folder
OWN = re.compile(r"\d{8}|\.tmp-.*|\.lock|\.owner|\.backup")  # what a run writes among its states
STOPPED = "stop_training was set"
WHOLE = "its folder too"


def states_of(path: Path) -> Path:
    """Return the folder of the states that belong to a weights file."""
    return Path(f"{path}.state")


def check_backup(path: Path) -> None:
    """Raise, before training, where a weights file is in the way that no saved run wrote.

    Raises:
        ValueError: there is such a file, or a link in the place of a file of the backup.
    """
    states = states_of(path)
    for one in (path, states, learning_file(path)):
        if one.is_symlink():
            raise bad_value("backup_dir", received=f"{str(path.parent)!r}, in which {one.name!r} "
                            "is a link", expected="a folder in which it is not",
                            fix="Give a folder of its own.")
    if path.exists() and not (states / ".owner").is_file():
        raise bad_value("backup_dir", received=f"{str(path.parent)!r}, whose {path.name!r} is not "
                        "of a backup", expected="a folder without such a file: the backup would "
                        "replace it", fix="Give a folder of its own, or move the file away.")


def mark(path: Path, owns_folder: bool) -> None:
    """Note that a backup begins here, unless a weights file or a mark is there already."""
    note = states_of(path) / MARK
    if note.parent.is_dir() and not note.exists() and not path.exists():
        note.write_text(WHOLE if owns_folder else "", encoding="utf-8")


def is_over(run: Run) -> bool:
    """Tell whether a run came to its end, by itself or by a callback of Keras, as Keras counts it.

    One that Ctrl-C, a signal, an error or ``run.stop`` has ended is to be gone on with.
    """
    return not run.to_be_resumed or run.diverged or str(run.stop_reason).startswith(STOPPED)


def delete(path: Path) -> None:
    """Delete what a run has saved there; the folder only if it was made for that and is empty.

    A weights file that was there before the first backup stays.
    """
    states, note = states_of(path), states_of(path) / MARK
    with contextlib.suppress(OSError):
        marked = note.is_file()
        owns_folder = marked and note.read_text(encoding="utf-8") == WHOLE
        for one in list(states.iterdir()):
            if OWN.fullmatch(one.name):
                remove(one)
        for one in (path, learning_file(path)) if marked else ():
            one.unlink(missing_ok=True)
        remove_empty(states)
        if owns_folder:
            remove_empty(path.parent)


def remove(path: Path) -> None:
    """Delete a file, a link, or a folder with what is in it."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_empty(folder: Path) -> None:
    """Delete a folder unless something is in it."""
    with contextlib.suppress(OSError):
        folder.rmdir()
