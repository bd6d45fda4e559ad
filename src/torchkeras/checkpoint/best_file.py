"""The file of the best weights, where most of them are frozen: it is written once, then only what learns, beside it.

``<ckpt_path>.learning`` holds what learns, with the checksum of the file that it belongs to. When the run ends it is
taken into that file. A run that was killed leaves both, and whatever reads the file takes it in.
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
    ANY,
    check_loadable,
    learning_beside,
    read_torch,
    read_weights,
    write_torch,
    write_weights,
    write_whole,
)
from torchkeras.core import files
from torchkeras.core.errors import bad_value
from torchkeras.state.module_state import metadata_of, weights_in
from torchkeras.state.weights import Weights

FORMAT = "torchkeras-learning 1"


class BestFile:
    """Writes the best weights of a run: all of them, or only those that are not in the file already.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path).expanduser()
        self.written: dict[str, str] = {}  # frozen weights that are in the file, and their checksums
        self.digest = ""
        self.stamp: tuple[int, ...] = ()
        self.beside = False  # whether what learns is in a file of its own
        self.limits = ANY

    def close(self, whole: Callable[[], object] | None = None) -> None:
        """Make the file whole; where somebody else wrote it meanwhile, what lies beside it belongs to nothing.

        Args:
            whole: writes all of the best weights, where the net holds them again; else both files are read.
        """
        beside, self.beside = self.beside, False
        if beside and self.stamp == stamp_of(self.path):
            try:
                merge(self.path, self.limits) if whole is None else whole()
            except OSError as error:  # a full disk: both files are sound, and are read together
                warnings.warn(f"{learning_beside(self.path)} could not be taken into {self.path.name} ({error}): keep "
                              "both, load_ckpt reads them together", RuntimeWarning, stacklevel=2)
        elif beside:
            with suppress(OSError):  # readers see by its checksum that it belongs to no file
                files.remove(learning_beside(self.path))

    def write(self, weights: Weights, whole: Callable[[], object]) -> None:
        """Write the net's weights of this moment, which were just taken down; ``whole`` writes all of them."""
        state, frozen = weights_in(weights.modules[0]), weights.frozen(0)
        same = {name for name, mark in frozen.items() if self.written.get(name) == mark}
        if mostly(state, same) and self.stamp == stamp_of(self.path):
            check_loadable(weights.modules[0], self.path)
            self.limits = limits_for(weights.modules[0])
            content = {"format": FORMAT, "of": self.digest, "names": list(state), "versions": dict(metadata_of(state)),
                       "weights": {name: value for name, value in state.items() if name not in same}}
            write_whole(learning_beside(self.path), lambda temporary: write_torch(temporary, content))
            self.beside = True
            return
        whole()
        self.beside = False
        self.written, self.stamp = {}, ()
        if mostly(state, set(frozen)):
            self.written, self.digest, self.stamp = frozen, digest_of(self.path), stamp_of(self.path)


def mostly(state: Mapping[str, Any], names: set[str]) -> bool:
    """Return whether most bytes of a state have one of these names."""
    sizes = {name: value.numel() * value.element_size() for name, value in state.items() if isinstance(value, Tensor)}
    return 2 * sum(size for name, size in sizes.items() if name in names) > sum(sizes.values())


def digest_of(path: Path) -> str:
    """Return the checksum of a file."""
    with files.patiently(path, lambda: path.open("rb")) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp_of(path: Path) -> tuple[int, ...]:
    """Return what changes when a file is written again."""
    try:
        found = path.stat()
    except OSError:
        return (0,)
    return found.st_ino, found.st_size, found.st_mtime_ns


def read_best(path: str | os.PathLike[str], limits: Limits = ANY,
              mapped: bool = False) -> tuple[dict[str, Any], str]:
    """Read a weights file with what a killed run left beside it, and say so."""
    weights, beside = read_weights(path, limits, mapped), learning_beside(Path(path).expanduser())
    if beside.is_symlink():
        return weights, f"{beside.name} is left aside: it is a link, which no run writes"
    if not beside.is_file():
        return weights, ""
    learning = read_learning(beside, limits)
    if learning["of"] != digest_of(Path(path).expanduser()):
        return weights, f"{beside.name} is left aside: it belongs to another file than the one that is there"
    if lost := [name for name in learning["names"] if name not in weights and name not in learning["weights"]]:
        raise unreadable(beside, f"{len(lost)} names without weights")
    found = OrderedDict((name, learning["weights"].get(name, weights.get(name))) for name in learning["names"])
    found._metadata = learning["versions"]  # type: ignore[attr-defined]
    return found, f"with what learns from {beside.name}, which a run that was killed wrote last"


def read_learning(beside: Path, limits: Limits) -> Any:
    """Read what lies beside a weights file."""
    try:
        limits.check(beside)
        found = read_torch(beside)
        sound = is_learning(found)
    except OSError:
        raise
    except Exception as error:  # readers meet a file that is none of theirs in many ways
        raise unreadable(beside, type(error).__name__) from None
    if not sound:
        raise unreadable(beside, "it holds something else")
    return found


def is_learning(found: Any) -> bool:
    """Return whether what was read is what :class:`BestFile` writes beside a weights file."""
    if not isinstance(found, dict) or not all(
            isinstance(found.get(name), kind) for name, kind in (("format", str), ("of", str), ("names", list),
                                                                 ("versions", dict), ("weights", dict))):
        return False
    names, versions = found["names"], found["versions"]
    return (found["format"] == FORMAT and all(isinstance(name, str) for name in (*names, *versions, *found["weights"]))
            and len(set(names)) == len(names) and found["weights"].keys() <= set(names)
            and all(isinstance(one, dict) for one in versions.values()))


def unreadable(beside: Path, why: str) -> ValueError:
    """Return the error for what lies beside a weights file and is not what a run left there."""
    return bad_value("ckpt_path", received=f"{str(beside)!r}, which cannot be read ({why})",
                     expected="what a killed run left beside its weights file",
                     fix="Remove it to go on from the earlier best weights in the file itself.")


def merge(path: str | os.PathLike[str], limits: Limits) -> str:
    """Take what lies beside a weights file into it; say what was done."""
    target = Path(path).expanduser()
    if not learning_beside(target).is_file() or not target.is_file():
        return ""
    weights, text = read_best(target, limits, mapped=os.name != "nt")  # Windows replaces no file that is mapped
    if text.startswith("with"):
        write_weights(weights, target)
    return text
