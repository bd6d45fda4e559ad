"""The best weights of a run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from torchkeras.engine import hardware
from torchkeras.engine.bestfile import BestFile, merge, stamp_of
from torchkeras.engine.checks import bad_type, bad_value
from torchkeras.engine.weightfile import check_loadable
from torchkeras.engine.weightfile import flush_to_disk as flush_to_disk
from torchkeras.engine.weightfile import read_weights as read_weights
from torchkeras.engine.weightfile import save_weights as save_weights
from torchkeras.engine.weightfile import write_weights as write_weights
from torchkeras.engine.weightfile import write_whole as write_whole
from torchkeras.engine.weights import Weights
from torchkeras.engine.wrappers import plain as plain


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


class Best:
    """The best weights of a run, in memory and in ``ckpt_path``; it begins with the weights the run began with.

    The copy in memory is what comes back at the end, so two models that share a path never load each other's
    weights. A model with its own ``load_ckpt`` (adapters, partial weights) is asked for them instead.
    """

    def __init__(self, model: Any, path: str | None, weights: Weights) -> None:
        self.model, self.path, self.weights = model, path, weights
        self.kept = False
        self.start = weights  # to which a run goes back that fails before its first update
        self.file = None if path is None or by_user(model.save_ckpt) else BestFile(path)

    def keep(self) -> None:
        """The weights of this moment are the best: copy them, and write them through the model's ``save_ckpt``."""
        if not self.loads_itself:
            self.copy()
        together = self.model.run.together
        with together.same_fate():
            if self.path is not None and together.main:
                self.write()
        self.kept = True

    def copy(self) -> None:
        """Take the weights of this moment down; over the copies of the best before, once nobody needs these."""
        if self.model.run.updates:
            self.weights.take()
        else:
            self.weights = self.weights.twin()
            self.weights.take(fresh=True)

    def write(self) -> None:
        """Write the weights of this moment through the model's ``save_ckpt``, or only those that are no longer so."""
        if self.file is None or self.loads_itself:
            self.whole()
        else:
            self.file.write(self.weights, self.whole)

    def whole(self) -> None:
        """Write all weights of this moment."""
        self.model.save_ckpt(self.path, accelerator=self.model.accelerator)

    def hold(self) -> None:
        """An epoch begins: copy frozen weights that are about to learn; those of the start are needed no more."""
        self.weights.hold()
        if self.model.run.updates and self.start is not self.weights:
            self.start.forget()

    def close(self) -> None:
        """The run is over, however it ended: the file becomes whole."""
        if self.file is not None and self.model.run.together.main:
            self.file.close()

    def restore(self) -> None:
        """Put the best weights back into the net."""
        together = self.model.run.together
        if not (self.kept and self.loads_itself):
            self.tell_lost(lost := self.recover())
            self.weights.restore()
            if self.kept and not lost and together.main and self.file is not None:
                self.file.close(self.whole)  # the net holds them all: no need to read the file
        elif together.main:  # the file may be on the disk of process 0 only
            self.model.load_ckpt(self.path)
        hardware.same_weights(together, *self.weights.modules)

    def recover(self) -> list[str]:
        """Find frozen weights that were changed by other means in the file; return the names of those that are lost."""
        lost: list[str] = []
        for number in range(len(self.weights.modules)):
            moved = self.weights.moved(number)
            on_disk = self.on_disk() if moved and number == 0 else {}
            lost += [bare for name, bare in moved.items()
                     if bare not in on_disk or not self.weights.adopt(number, name, on_disk[bare])]
        return lost

    def on_disk(self) -> dict[str, Any]:
        """Return the weights in the file, if this run wrote it."""
        if self.file is None or not self.file.stamp or not self.kept or self.file.stamp != stamp_of(self.file.path):
            return {}
        return read_weights(self.file.path, mapped=True)

    def tell_lost(self, names: list[str]) -> None:
        """Say which weights are not those of the best moment."""
        if names:
            since = "the best weights were kept" if self.kept else "the run began"
            text = (f"weights: {', '.join(names[:5])}{' and others' if names[5:] else ''} did not learn and changed by "
                    f"other means after {since}; there is no copy of them, so they stay as they are now")
            notes = self.model.run.notes
            notes += [text] if text not in notes else []

    def named(self) -> dict[str, list[Any]]:
        """The best weights under the names that they have in bare modules, and buffers that state dicts leave out."""
        numbers = range(len(self.weights.modules))
        return {"weights": [self.weights.state(number) for number in numbers],
                "hidden": [self.weights.hidden(number) for number in numbers]}

    def take(self, saved: Any, kept: bool) -> None:
        """Those of a run that goes on; their file is written again if it is gone."""
        if isinstance(saved, list):  # 5.0.0a1 left out buffers that state dicts leave out
            saved = {"weights": saved, "hidden": [{} for _ in saved]}
        self.weights = self.weights.twin()
        for number, (weights, hidden) in enumerate(zip(saved["weights"], saved["hidden"], strict=True)):
            self.weights.set(number, weights, hidden)
        self.kept = kept
        if kept and self.path is not None and self.model.run.together.main:
            self.file_again(self.path, saved["weights"][0])

    def file_again(self, path: str, weights: Any) -> None:
        """Make the file whole, if the run was killed; write it if it is gone."""
        if not Path(path).exists():
            write_weights(weights, path)
            return
        try:
            text = merge(path)
        except ValueError as error:  # what lies beside it is damaged
            write_weights(weights, path)
            text = f"written again ({error})"
        if text:
            self.model.run.notes.append(f"resume: {path}: {text}")

    @property
    def loads_itself(self) -> bool:
        """Whether the model brings its own ``load_ckpt``."""
        return self.path is not None and by_user(self.model.load_ckpt)
