"""Write the best weights where most of them are frozen: all once, then only the trainable ones.

``<ckpt_path>.learning`` holds the trainable weights, with the checksum of the weights file that it
belongs to. When the run ends it is merged into that file. A run that was killed leaves both files,
and whatever reads the weights file merges them.
"""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from torchkeras.checkpoint.tensor_file import Limits, limits_for
from torchkeras.checkpoint.weight_file import (
    DEFAULT_LIMITS,
    FilePath,
    check_loadable,
    learning_file,
    read_torch,
    read_weights,
    write_atomically,
    write_torch,
    write_weights,
)
from torchkeras.core import files, internals
from torchkeras.core.errors import bad_value
from torchkeras.state.module_state import bare_state_dict, metadata_of
from torchkeras.state.weights import Weights

FORMAT = "torchkeras-learning 1"


class BestFile:
    """Writes the best weights of a run: all of them, or only those that the file does not have.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()
        self.written: dict[str, str] = {}  # checksums of the frozen weights in the file, by name
        self.digest = ""
        self.stamp: tuple[int, ...] = ()
        self.beside = False  # whether the trainable weights are in a file of their own
        self.limits = DEFAULT_LIMITS

    def close(self, whole: Callable[[], object] | None = None) -> None:
        """Merge the file beside it, or remove that if somebody else has replaced the file.

        Args:
            whole: writes all best weights, if the net holds them; otherwise both files are read.
        """
        beside, self.beside = self.beside, False
        if beside and self.stamp == file_stamp(self.path):
            try:
                merge_learning(self.path, self.limits) if whole is None else whole()
            except OSError as error:  # a full disk: both files are sound, and are read together
                warnings.warn(
                    f"{learning_file(self.path)} could not be merged into {self.path.name} "
                    f"({error}): keep both, load_ckpt reads them together",
                    RuntimeWarning, stacklevel=2)
        elif beside:
            with suppress(OSError):  # readers see by its checksum that it belongs to no file
                files.remove(learning_file(self.path))

    def write(self, weights: Weights, whole: Callable[[], object]) -> None:
        """Write the net's current weights, which ``weights`` has copied; ``whole`` writes all."""
        state, frozen = bare_state_dict(weights.modules[0]), weights.frozen(0)
        same = {name for name, mark in frozen.items() if self.written.get(name) == mark}
        if is_most_of(state, same) and self.stamp == file_stamp(self.path):
            check_loadable(weights.modules[0], self.path)
            self.limits = limits_for(weights.modules[0])
            content = {
                "format": FORMAT, "of": self.digest, "names": list(state),
                "versions": dict(metadata_of(state)),
                "weights": {name: value for name, value in state.items() if name not in same}}
            write_atomically(learning_file(self.path),
                             lambda temporary: write_torch(temporary, content))
            self.beside = True
            return
        whole()
        self.beside = False
        self.written, self.stamp = {}, ()
        if is_most_of(state, set(frozen)):
            self.written, self.digest = frozen, digest_of(self.path)
            self.stamp = file_stamp(self.path)


def is_most_of(state: Mapping[str, object], names: set[str]) -> bool:
    """Return whether tensors with these names have most of the bytes of a state dict."""
    sizes = {name: value.numel() * value.element_size()
             for name, value in state.items() if isinstance(value, Tensor)}
    return 2 * sum(size for name, size in sizes.items() if name in names) > sum(sizes.values())


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with files.retry_while_held(path, lambda: path.open("rb")) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_stamp(path: Path) -> tuple[int, ...]:
    """Return numbers that change when a file is written again."""
    try:
        found = path.stat()
    except OSError:
        return (0,)
    return found.st_ino, found.st_size, found.st_mtime_ns


def read_best(path: FilePath, limits: Limits = DEFAULT_LIMITS,
              mapped: bool = False) -> tuple[dict[str, Any], str]:
    """Read a weights file and newer weights of a killed run beside it; return a note on them."""
    weights, beside = read_weights(path, limits, mapped), learning_file(Path(path).expanduser())
    if beside.is_symlink():
        return weights, f"{beside.name} is left aside: it is a link, which no run writes"
    if not beside.is_file():
        return weights, ""
    learning = read_learning(beside, limits)
    if learning["of"] != digest_of(Path(path).expanduser()):
        return weights, (f"{beside.name} is left aside: it belongs to another file than the one "
                         "that is there")
    newer = learning["weights"]
    if lost := [name for name in learning["names"] if name not in weights and name not in newer]:
        raise unreadable_error(beside, f"{len(lost)} names without weights")
    found = OrderedDict((name, newer.get(name, weights.get(name))) for name in learning["names"])
    internals.set_module_versions(found, learning["versions"])
    return found, (f"with the trainable weights of {beside.name}, "
                   "which a run that was killed wrote last")


def read_learning(beside: Path, limits: Limits) -> dict[str, Any]:
    """Read the trainable weights beside a weights file; refuse anything else that lies there."""
    try:
        limits.check(beside)
        found: dict[str, Any] = read_torch(beside)
        sound = is_learning(found)
    except OSError:
        raise
    except Exception as error:  # readers fail on foreign files in many ways
        raise unreadable_error(beside, type(error).__name__) from None
    if not sound:
        raise unreadable_error(beside, "it holds something else")
    return found


def is_learning(found: object) -> bool:
    """Return whether content has the form that :class:`BestFile` writes beside a weights file."""
    kinds = {"format": str, "of": str, "names": list, "versions": dict, "weights": dict}
    if not isinstance(found, dict) or not all(
            isinstance(found.get(name), kind) for name, kind in kinds.items()):
        return False
    names, versions, weights = found["names"], found["versions"], found["weights"]
    return (found["format"] == FORMAT
            and all(isinstance(name, str) for name in (*names, *versions, *weights))
            and len(set(names)) == len(names) and weights.keys() <= set(names)
            and all(isinstance(one, dict) for one in versions.values()))


def unreadable_error(beside: Path, why: str) -> ValueError:
    """Return the error for a file beside a weights file that no run of ours has written."""
    return bad_value("ckpt_path", received=f"{str(beside)!r}, which cannot be read ({why})",
                     expected="what a killed run left beside its weights file",
                     fix="Remove it to use the earlier best weights in the file itself.")


def merge_learning(path: FilePath, limits: Limits) -> str:
    """Merge the trainable weights beside a weights file into it; return a note on that."""
    target = Path(path).expanduser()
    if not learning_file(target).is_file() or not target.is_file():
        return ""
    # Windows cannot replace a file that is memory-mapped
    weights, text = read_best(target, limits, mapped=os.name != "nt")
    if text.startswith("with"):
        write_weights(weights, target)
    return text
