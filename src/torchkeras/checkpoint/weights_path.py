"""Check before a run begins whether weights can be written to ``ckpt_path``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from torchkeras.checkpoint.weight_file import check_loadable
from torchkeras.checkpoint.weight_file import read_weights as read_weights
from torchkeras.checkpoint.weight_file import save_weights as save_weights
from torchkeras.checkpoint.weight_file import write_atomically as write_atomically
from torchkeras.core.errors import bad_type, bad_value
from torchkeras.engine.trainable import Trainable


def check_writable(path: object, folder_allowed: bool = False) -> str | None:
    """Return the path as text if a file can be written there, else raise; leave nothing behind.

    Args:
        path: as the user gave it; None is returned as it is.
        folder_allowed: whether it may be a folder: the model has its own ``save_ckpt``.
    """
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)):
        raise bad_type("ckpt_path", received=f"{path!r} ({type(path).__name__})",
                       expected="a path, or None")
    expected = "a file that can be written, or None to keep the best weights in memory only"
    if not str(path):
        raise bad_value("ckpt_path", received="an empty name", expected=expected)
    target = Path(path).expanduser()
    if target.is_dir() and not folder_allowed:
        raise bad_value("ckpt_path", received=f"the folder {str(path)!r}", expected=expected,
                        fix=f"Name a file in it: {str(target / 'best.pt')!r}.")
    folder = target if target.is_dir() else target.parent
    while not folder.exists():
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise bad_value(
            "ckpt_path", received=repr(str(path)), expected=expected,
            fix=f"The folder {str(folder)!r} cannot be written: {error.strerror}.") from error
    return str(target)


def for_best(model: Trainable, path: object) -> str | None:
    """Return the path for the best weights; with a ``save_ckpt`` of one's own, maybe a folder."""
    return check_writable(path, folder_allowed=is_user_defined(model.save_ckpt))


def or_last(model: Trainable, path: str | os.PathLike[str] | None) -> str | os.PathLike[str]:
    """Return a path; for None, that of the model's last ``fit``, else "checkpoint"."""
    if path is not None:
        return path
    return (None if model.run is None else model.run.config.ckpt_path) or "checkpoint"


def check_saveable(model: Trainable, path: str | None) -> None:
    """Refuse, before any work, a net whose state the weights file could not hold."""
    if path is not None and not is_user_defined(model.save_ckpt):
        check_loadable(model.net, path)


def is_user_defined(method: Callable[..., object]) -> bool:
    """Return whether a method of a model is defined outside this library."""
    return not (method.__module__ or "").startswith("torchkeras.")  # None: made by exec
