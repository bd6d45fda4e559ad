"""Whether weights can be kept in a file: looked at before a run begins."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from torchkeras.checkpoint.weight_file import check_loadable
from torchkeras.checkpoint.weight_file import flush_to_disk as flush_to_disk
from torchkeras.checkpoint.weight_file import read_weights as read_weights
from torchkeras.checkpoint.weight_file import save_weights as save_weights
from torchkeras.checkpoint.weight_file import write_weights as write_weights
from torchkeras.checkpoint.weight_file import write_whole as write_whole
from torchkeras.core.errors import bad_type, bad_value
from torchkeras.state.wrappers import plain as plain


def check_writable(path: Any) -> str | None:
    """Find out before any work whether the weights can be written; leaves nothing behind."""
    if path is None:
        return None
    if not isinstance(path, (str, os.PathLike)):
        raise bad_type("ckpt_path", received=f"{path!r} ({type(path).__name__})", expected="a path, or None")
    expected = "a file that can be written, or None to keep the best weights in memory only"
    if not str(path):
        raise bad_value("ckpt_path", received="an empty name", expected=expected)
    target = Path(path).expanduser()
    if target.is_dir():
        raise bad_value("ckpt_path", received=f"the folder {str(path)!r}", expected=expected,
                        fix=f"Name a file in it: {str(target / 'best.pt')!r}.")
    folder = target.parent
    while not folder.exists():
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise bad_value("ckpt_path", received=repr(str(path)), expected=expected,
                        fix=f"The folder {str(folder)!r} cannot be written: {error.strerror}.") from error
    return str(target)


def check_held(model: Any, path: str | None) -> None:
    """Refuse before any work a net of which something could not be kept in the file."""
    if path is not None and not by_user(model.save_ckpt):
        check_loadable(model.net, path)


def by_user(method: Any) -> bool:
    """Return whether a method of a model is not this library's."""
    return not method.__module__.startswith("torchkeras.")
