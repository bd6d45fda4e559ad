"""The best weights of a run, in memory and in their file; a disk that does not take the file ends no run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from torchkeras.checkpoint.best_file import BestFile, merge, stamp_of
from torchkeras.checkpoint.known_files import remember
from torchkeras.checkpoint.tensor_file import Limits, limits_for
from torchkeras.checkpoint.weight_file import in_short, read_weights, write_weights
from torchkeras.checkpoint.weights_path import by_user
from torchkeras.core.tracebacks import level_of_caller
from torchkeras.engine import device
from torchkeras.state.weights import Weights

UNWRITTEN = "the best weights are not in"
WRITERS = ("PytorchStreamWriter", "inline_container", "iostream error", "cannot be opened", "os error", "I/O error")


def of_disk(error: BaseException) -> bool:
    """Return whether an error says that a disk did not take a file; torch and safetensors say it in words of theirs."""
    return isinstance(error, OSError) or isinstance(error.__cause__, OSError) or (
        isinstance(error, Exception) and any(word in str(error) for word in WRITERS))


def in_words(error: Exception) -> str:
    """Return why a file could not be written."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    if isinstance(found, OSError):
        return f"{type(found).__name__}: {found.strerror or found}"
    return f"{in_short(error)}; is the disk full?"


def holds(path: str, weights: dict[str, Any], limits: Limits) -> bool:
    """Return whether a file holds these weights, bit for bit."""
    try:
        found = read_weights(path, limits)
    except (ValueError, OSError):
        return False
    return found.keys() == weights.keys() and all(same_bits(found[name], weights[name]) for name in found)


def same_bits(one: Any, other: Any) -> bool:
    """Return whether two values are the same, tensors to the last bit, NaN too."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other) and repr(one) == repr(other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one, other) or (one.layout == torch.strided and torch.equal(
        *(value.cpu().contiguous().reshape(-1).view(torch.uint8) for value in (one, other))))


class Best:
    """The best weights of a run, in memory and in ``ckpt_path``; it begins with the weights the run began with.

    The copy in memory is what comes back at the end, so two models that share a path never load each other's
    weights. A model with its own ``load_ckpt`` (adapters, partial weights) is asked for them instead.

    A disk that does not take the file ends no run: the weights stay in memory, and are written as soon as there is
    room.
    """

    def __init__(self, model: Any, path: str | None, weights: Weights) -> None:
        self.model, self.path, self.weights = model, path, weights
        self.start = weights  # to which a run goes back that fails before its first update
        self.kept = self.of_before = False  # whether they are those of a file that was there before this run
        self.in_memory = True  # whether the copy is that of the best weights; else their file alone has them
        self.unwritten: str | None = None  # why the file does not hold them
        self.began: Weights | None = None  # the weights that this epoch began with, where the last ones are to stay
        self.lost: list[str] = []  # frozen weights that moved before there was a copy of them
        self.watching: list[Any] = []  # parameters without a copy, since they do not learn
        self.moment: Any = None  # of the weights that these belong to
        self.file = None if path is None or self.saves_itself else BestFile(path)

    def begin_epoch(self) -> None:
        """An epoch begins: where the net is to end with its last weights, these come back if a loss becomes NaN."""
        if self.model.run.config.restore_best:
            return
        if self.began is None:
            self.began = Weights(*self.weights.modules)
        else:
            self.began.take()

    def hold(self) -> None:
        """An epoch begins: copy frozen weights that are about to learn; those of the start are needed no more."""
        self.hold_both()
        if self.model.run.updates and self.start is not self.weights:
            self.start.forget()

    def hold_both(self) -> None:
        """Copy frozen weights that are about to learn: of the best, and of the beginning of this epoch."""
        self.weights.hold()
        if self.began is not None:
            self.began.hold()

    def watch(self) -> None:
        """After a step: copy frozen weights that a callback has thawed, before they learn."""
        if self.moment is not self.weights.moment:
            self.moment, self.watching = self.weights.moment, self.weights.without_copy()
        if any(one.requires_grad for one in self.watching):
            self.hold_both()
            self.moment = None

    def begin_with(self, weights: Weights) -> None:
        """Take the weights that the file holds for the best: what it holds stays until better ones are found."""
        self.weights, self.in_memory, self.kept, self.of_before = weights, True, True, True

    def keep(self) -> None:
        """The weights of this moment are the best: copy them, and write them through the model's ``save_ckpt``."""
        if self.path is None and not self.model.run.config.restore_best:
            return  # nobody will ask for them
        self.of_before, self.lost = False, []
        self.in_memory = not self.loads_itself or self.model.run.config.keeps_state
        if self.in_memory:
            self.copy()
        together = self.model.run.together
        with together.same_fate():
            if self.path is not None and together.main:
                self.attempt(self.write)
        if self.unwritten is not None and not self.in_memory:
            self.copy()
            self.in_memory = True
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

    def attempt(self, write: Callable[[], object]) -> None:
        """Write the file; if the disk does not take it, say so once and go on."""
        try:
            write()
        except Exception as error:
            if not of_disk(error):
                raise
            before, self.unwritten = self.unwritten, in_words(error)
            if before is None:
                self.say(f"the best weights could not be written to {self.path!r} ({self.unwritten}); the run goes on "
                         "with them in memory, and tries again after each epoch")
        else:
            if self.unwritten is not None:
                self.model.run.notes.append(f"ckpt_path: the best weights could be written to {self.path!r} again")
            self.unwritten = None
            remember(self.model, self.path)

    def say(self, text: str) -> None:
        """Tell by a warning and by a note of the run."""
        self.model.run.notes.append(f"ckpt_path: {text}")
        warnings.warn(text, RuntimeWarning, stacklevel=level_of_caller())

    def retry(self) -> None:
        """Write the file that could not be written; in the process that writes, and only there."""
        if self.unwritten is not None:
            self.attempt(self.write_copy)

    def write_copy(self) -> None:
        """Write the copy in memory: the net may hold other weights by now."""
        if self.path is None:
            return
        if not self.saves_itself:
            write_weights(self.weights.state(0), self.path)
            return
        now = Weights(*self.weights.modules)
        self.weights.restore()
        try:
            self.whole()
        finally:
            now.restore()

    def finish(self, diverged: bool) -> None:
        """The run is over: the net gets the weights that it is to end with, and the file is tried once more."""
        run = self.model.run
        if self.of_before and run.trained:
            has = "has them again" if run.config.restore_best else "has its last ones"
            run.notes.append(f"ckpt_path: the weights in {self.path!r} ({run.monitor.name} {run.monitor.best:.6g}) are "
                             f"better than every epoch of this run: the net {has}, and the file is as it was")
        if run.config.restore_best:
            if self.kept or diverged:
                self.restore()
        elif diverged and self.began is not None:
            self.began.restore()
            device.same_weights(run.together, *self.began.modules)
        self.retry()
        if self.unwritten is not None:
            self.say(f"{UNWRITTEN} {self.path!r} ({self.unwritten}). " + (
                "The net holds them: save them elsewhere, model.save_ckpt('another/place')."
                if run.config.restore_best else "With restore_best=False the net holds the last weights."))

    def close(self) -> None:
        """The run is over, however it ended: the file becomes whole."""
        if self.file is not None and self.file.beside and self.model.run.together.main:
            self.file.close()
            remember(self.model, self.path)

    def restore(self) -> None:
        """Put the best weights back into the net."""
        together = self.model.run.together
        if self.in_memory or not (self.kept and self.loads_itself):
            self.tell_lost(lost := [*self.lost, *self.recover()])
            self.weights.restore()
            if self.kept and not lost and together.main and self.file is not None and self.file.beside:
                self.file.close(self.whole)  # the net holds them all: no need to read the file
                remember(self.model, self.path)
        elif together.main:  # the file may be on the disk of process 0 only
            self.model.load_ckpt(self.path)
            remember(self.model, self.path)
        device.same_weights(together, *self.weights.modules)

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
        return read_weights(self.file.path, limits_for(*self.weights.modules), mapped=True)

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
                "hidden": [self.weights.hidden(number) for number in numbers], "lost": self.lost}

    def take(self, saved: Any, kept: bool) -> None:
        """Those of a run that goes on; their file is written again where it does not hold them."""
        if isinstance(saved, list):  # 5.0.0a1 left out buffers that state dicts leave out
            saved = {"weights": saved, "hidden": [{} for _ in saved]}
        self.weights, self.lost = self.weights.twin(), list(saved.get("lost", ()))
        for number, (weights, hidden) in enumerate(zip(saved["weights"], saved["hidden"], strict=True)):
            self.weights.set(number, weights, hidden)
        self.kept, self.in_memory = kept, not (self.loads_itself and Path(self.path or "").exists())
        if kept and self.path is not None and self.model.run.together.main and (text := self.file_again(self.path)):
            self.model.run.notes.append(f"resume: {self.path!r} {text}")

    def file_again(self, path: str) -> str:
        """Make the file whole, if the run was killed; write it where it does not hold the best; say what was done."""
        made_whole, limits = "", limits_for(*self.weights.modules)
        if not Path(path).exists():
            why = "was gone"
        elif self.saves_itself:
            return ""  # what it holds, the model alone knows
        else:
            try:
                made_whole, why = merge(path, limits), ""
            except ValueError as error:  # what lies beside it is damaged
                why = f"({error})"
            if not why and not self.lost and not holds(path, self.weights.state(0), limits):
                why = "held other weights than the best of the state that is gone on from (damaged, or newer)"
        if why:
            self.attempt(self.write_copy)
            return f"{why}: it was written again" if self.unwritten is None else ""
        remember(self.model, path)
        return made_whole

    @property
    def loads_itself(self) -> bool:
        """Whether the model brings its own ``load_ckpt``."""
        return self.path is not None and by_user(self.model.load_ckpt)

    @property
    def saves_itself(self) -> bool:
        """Whether the model brings its own ``save_ckpt``."""
        return by_user(self.model.save_ckpt)
