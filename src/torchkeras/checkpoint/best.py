"""Keep the best weights of a run in memory and in ``ckpt_path``; a full disk ends no run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from torchkeras.checkpoint.best_file import BestFile, file_stamp, merge_learning
from torchkeras.checkpoint.known_files import remember
from torchkeras.checkpoint.replaced import load_and_follow
from torchkeras.checkpoint.tensor_file import Limits, limits_for
from torchkeras.checkpoint.weight_file import read_weights, short_error, write_weights
from torchkeras.checkpoint.weights_path import is_user_defined
from torchkeras.core.tracebacks import level_of_caller
from torchkeras.core.types import State, Value
from torchkeras.distributed.broadcast import same_weights
from torchkeras.engine.trainable import Trainable
from torchkeras.state.components import components_of
from torchkeras.state.optimizer_state import drop_non_finite
from torchkeras.state.weights import Weights

UNWRITTEN = "the best weights are not in"
WRITE_ERROR_WORDS = ("PytorchStreamWriter", "inline_container", "iostream error",
                     "cannot be opened", "os error", "I/O error")


def is_disk_error(error: BaseException) -> bool:
    """Return whether an error says that a file could not be written.

    Torch and safetensors raise errors of other types than OSError; their messages tell.
    """
    return isinstance(error, OSError) or isinstance(error.__cause__, OSError) or (
        isinstance(error, Exception) and any(word in str(error) for word in WRITE_ERROR_WORDS))


def describe_write_error(error: Exception) -> str:
    """Return why a file could not be written."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    if isinstance(found, OSError):
        return f"{type(found).__name__}: {found.strerror or found}"
    return f"{short_error(error)}; is the disk full?"


def file_holds(path: str, weights: Mapping[str, Value], limits: Limits) -> bool:
    """Return whether a file holds these weights, bit for bit."""
    try:
        found = read_weights(path, limits)
    except (ValueError, OSError):
        return False
    return found.keys() == weights.keys() and all(
        bitwise_equal(found[name], weights[name]) for name in found)


def bitwise_equal(one: object, other: object) -> bool:
    """Return whether two values are equal, tensors to the last bit, NaN included."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return type(one) is type(other) and repr(one) == repr(other)
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return torch.equal(one, other) or (one.layout == torch.strided and torch.equal(
        *(value.cpu().contiguous().reshape(-1).view(torch.uint8) for value in (one, other))))


class Best:
    """The best weights of a run, in memory and in ``ckpt_path``; at first, the initial weights.

    The copy in memory is restored at the end, so two models that share a path never load each
    other's weights. A model with its own ``load_ckpt`` (adapters, partial weights) is asked to load
    the file instead.

    If the file cannot be written, the run goes on: the weights stay in memory, and are written as
    soon as that is possible.
    """

    def __init__(self, model: Trainable, path: str | None, weights: Weights) -> None:
        self.model, self.path, self.weights = model, path, weights
        self.start = weights  # restored if the run fails before its first update
        self.kept = False  # whether an epoch of this run, or the earlier file, was the best
        self.from_earlier_run = False  # whether the best weights are those of the earlier file
        self.in_memory = True  # whether the copy is of the best weights; else only the file is
        self.unwritten: str | None = None  # why the file does not hold them
        self.epoch_start: Weights | None = None  # with restore_best=False: weights at epoch start
        self.lost: list[str] = []  # frozen weights that changed before there was a copy of them
        self.watching: Sequence[nn.Parameter] = []  # frozen parameters that have no copy
        self.moment: object = None  # the moment of the weights that these belong to
        self.file = None if path is None or self.saves_itself else BestFile(path)

    def begin_epoch(self) -> None:
        """Copy the weights at epoch start if the last ones are kept: restored if a loss is NaN."""
        if self.model.run.config.restore_best:
            return
        if self.epoch_start is None:
            self.epoch_start = Weights(*self.weights.modules)
        else:
            self.epoch_start.take()

    def hold(self) -> None:
        """Copy, at epoch start, frozen weights that become trainable; free the initial weights."""
        self.copy_thawed()
        if self.model.run.optimizer_steps and self.start is not self.weights:
            self.start.forget()

    def copy_thawed(self) -> None:
        """Copy frozen weights that become trainable, for the best and the epoch-start weights."""
        self.weights.hold()
        if self.epoch_start is not None:
            self.epoch_start.hold()

    def watch(self) -> None:
        """Copy, after a step, frozen weights that a callback made trainable, before they change."""
        if self.moment is not self.weights.moment:
            self.moment, self.watching = self.weights.moment, self.weights.without_copy()
        if self.watching and any(one.requires_grad for one in self.watching):
            self.copy_thawed()
            self.moment = None

    def begin_with(self, weights: Weights) -> None:
        """Start from the weights in the file as the best, so that only better ones replace them."""
        self.weights, self.in_memory, self.kept, self.from_earlier_run = weights, True, True, True

    def keep(self) -> None:
        """Copy the current weights as the best, and write them with the model's ``save_ckpt``."""
        if self.path is None and not self.model.run.config.restore_best:
            return  # nobody will ask for them
        self.from_earlier_run, self.lost = False, []
        self.in_memory = not self.loads_itself or self.model.run.config.keeps_state
        if self.in_memory:
            self.copy()
        communicator = self.model.run.communicator
        with communicator.raise_on_all_ranks():
            if self.path is not None and communicator.is_main_process:
                self.try_write(self.write)
        if self.unwritten is not None and not self.in_memory:
            self.copy()
            self.in_memory = True
        self.kept = True

    def copy(self) -> None:
        """Copy the current weights; reuse the memory of the previous copy once it is not needed."""
        if self.model.run.optimizer_steps:
            self.weights.take()
        else:
            self.weights = self.weights.twin()
            self.weights.take(fresh=True)

    def write(self) -> None:
        """Write the current weights with ``save_ckpt``, or only those that changed in the file."""
        if self.file is None or self.loads_itself:
            self.write_all()
        else:
            self.file.write(self.weights, self.write_all)

    def write_all(self) -> None:
        """Write all current weights with the model's ``save_ckpt``."""
        self.model.save_ckpt(self.path, accelerator=self.model.run.accelerator)

    def try_write(self, write: Callable[[], object]) -> None:
        """Write the file; if the disk does not take it, warn once and go on."""
        try:
            write()
        except Exception as error:
            if not is_disk_error(error):
                raise
            before, self.unwritten = self.unwritten, describe_write_error(error)
            if before is None:
                self.warn(f"the best weights could not be written to {self.path!r} "
                          f"({self.unwritten}); the run goes on with them in memory, and tries "
                          "again after each epoch")
        else:
            if self.unwritten is not None:
                self.model.run.notes.append(
                    f"ckpt_path: the best weights could be written to {self.path!r} again")
            self.unwritten = None
            self.remember_file()

    def remember_file(self) -> None:
        """Note that the model knows what is in the file now."""
        if self.path is not None:
            remember(self.model, self.path)

    def warn(self, text: str) -> None:
        """Warn, and add a note to the run."""
        self.model.run.notes.append(f"ckpt_path: {text}")
        warnings.warn(text, RuntimeWarning, stacklevel=level_of_caller())

    def retry(self) -> None:
        """Write the file again if it could not be written; other processes have nothing to do."""
        if self.unwritten is not None:
            self.try_write(self.write_copy)

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
            self.write_all()
        finally:
            now.restore()

    def finish(self, diverged: bool) -> None:
        """Restore the weights that the net is to end with, and try once more to write the file."""
        run = self.model.run
        if self.from_earlier_run and run.global_step:
            has = "has them again" if run.config.restore_best else "has its last ones"
            run.notes.append(
                f"ckpt_path: the weights in {self.path!r} ({run.monitor.name} "
                f"{run.monitor.best:.6g}) are better than every epoch of this run: the net {has}, "
                "and the file is as it was")
        if run.config.restore_best:
            if self.kept or diverged:
                self.restore()
        elif diverged and self.epoch_start is not None:
            self.epoch_start.restore()
            same_weights(run.communicator, *self.epoch_start.modules)
        if diverged:
            self.free_optimizers_of_nan()
        self.retry()
        if self.unwritten is not None:
            self.warn(f"{UNWRITTEN} {self.path!r} ({self.unwritten}). " + (
                "The net holds them: save them elsewhere, model.save_ckpt('another/place')."
                if run.config.restore_best
                else "With restore_best=False the net holds the last weights."))

    def free_optimizers_of_nan(self) -> None:
        """Drop optimizer state that is not finite; the weights have been restored."""
        run = self.model.run
        names = drop_non_finite(components_of(self.model).optimizers, run.communicator.all_gather)
        if names:
            run.notes.append(f"{', '.join(names)}: held NaN or infinity, as the loss was read only "
                             "after the update; begins anew where it did")

    def close(self) -> None:
        """Merge what lies beside the file into it, however the run ended."""
        if self.file is not None and self.file.beside and (
                self.model.run.communicator.is_main_process):
            self.file.close()
            self.remember_file()

    def restore(self) -> None:
        """Load the best weights into the net, on all ranks."""
        communicator = self.model.run.communicator
        if self.in_memory or not (self.kept and self.loads_itself):
            self.note_lost(lost := [*self.lost, *self.recover()])
            self.weights.restore()
            complete = self.kept and not lost and communicator.is_main_process
            if complete and self.file is not None and self.file.beside:
                self.file.close(self.write_all)  # the net holds them all: no need to read the file
                self.remember_file()
        elif communicator.is_main_process:  # the file may be on the disk of rank 0 only
            load_and_follow(self.model, self.path)
            self.remember_file()
        same_weights(communicator, *self.weights.modules)

    def recover(self) -> list[str]:
        """Look in the file for frozen weights that have changed; return the names not found."""
        lost: list[str] = []
        for number in range(len(self.weights.modules)):
            moved = self.weights.moved(number)
            on_disk = self.weights_on_disk() if moved and number == 0 else {}
            lost += [bare for name, bare in moved.items()
                     if bare not in on_disk or not self.weights.adopt(number, name, on_disk[bare])]
        return lost

    def weights_on_disk(self) -> dict[str, Value]:
        """Return the weights in the file, if this run wrote it."""
        if (self.file is None or not self.file.stamp or not self.kept
                or self.file.stamp != file_stamp(self.file.path)):
            return {}
        return read_weights(self.file.path, limits_for(*self.weights.modules), mapped=True)

    def note_lost(self, names: list[str]) -> None:
        """Note the names of restored weights that are not those of the best epoch."""
        if names:
            since = "the best weights were kept" if self.kept else "the run began"
            text = (f"weights: {', '.join(names[:5])}{' and others' if names[5:] else ''} did not "
                    f"learn and changed by other means after {since}; there is no copy of them, so "
                    "they stay as they are now")
            notes = self.model.run.notes
            notes += [text] if text not in notes else []

    def saved_parts(self) -> dict[str, list[Value]]:
        """Return the best weights and the non-persistent buffers, under their bare names."""
        numbers = range(len(self.weights.modules))
        return {"weights": [self.weights.state(number) for number in numbers],
                "hidden": [self.weights.hidden(number) for number in numbers], "lost": self.lost}

    def load_saved(self, saved: State | list[Value], kept: bool) -> None:
        """Load the best weights of a resumed run; write the file again if it has others."""
        if isinstance(saved, list):  # 5.0.0a1 left out non-persistent buffers
            saved = {"weights": saved, "hidden": [{} for _ in saved]}
        self.weights, self.lost = self.weights.twin(), list(saved.get("lost", ()))
        both = zip(saved["weights"], saved["hidden"], strict=True)
        for number, (weights, hidden) in enumerate(both):
            self.weights.set(number, weights, hidden)
        self.kept = kept
        self.in_memory = not (self.loads_itself and Path(self.path or "").exists())
        run = self.model.run
        if kept and self.path is not None and run.communicator.is_main_process and (
                text := self.repair_file(self.path)):
            run.notes.append(f"resume: {self.path!r} {text}")

    def repair_file(self, path: str) -> str:
        """Merge the file with what a killed run left, or write it again; return what was done."""
        merged, limits = "", limits_for(*self.weights.modules)
        if not Path(path).exists():
            why = "was gone"
        elif self.saves_itself:
            return ""  # only the model knows what the file holds
        else:
            try:
                merged, why = merge_learning(path, limits), ""
            except ValueError as error:  # the file beside it is damaged
                why = f"({error})"
            if not why and not self.lost and not file_holds(path, self.weights.state(0), limits):
                why = "held other weights than the best of the resumed state (damaged, or newer)"
        if why:
            self.try_write(self.write_copy)
            return f"{why}: it was written again" if self.unwritten is None else ""
        self.remember_file()
        return merged

    @property
    def loads_itself(self) -> bool:
        """Return whether the model has its own ``load_ckpt``."""
        return self.path is not None and is_user_defined(self.model.load_ckpt)

    @property
    def saves_itself(self) -> bool:
        """Return whether the model has its own ``save_ckpt``."""
        return is_user_defined(self.model.save_ckpt)
