"""Weights to a file, whole or not at all; the best weights of a run."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.engine import hardware, leftover
from torchkeras.engine.checks import bad_type, bad_value, mistake
from torchkeras.engine.known import remember
from torchkeras.engine.state import Weights
from torchkeras.engine.tracebacks import level_of_caller

WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel, DDP and torch.compile put before a name


def plain(net: nn.Module) -> nn.Module:
    """The net itself, without the wrappers of DataParallel, DDP or torch.compile."""
    wrapped = getattr(net, "_orig_mod", None)
    if wrapped is None and isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        wrapped = net.module
    return net if wrapped is None else plain(wrapped)


def save_weights(net: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a net's weights to one file that plain torch can load; safetensors when the name ends so."""
    write_weights({name: value for name, value in plain(net).state_dict().items() if isinstance(value, Tensor)}, path)


def write_weights(weights: dict[str, Tensor], path: str | os.PathLike[str]) -> None:
    """Write named weights to such a file."""
    target = Path(path).expanduser()
    if target.suffix == ".safetensors":
        from safetensors.torch import save

        aliases, unique = split_shared(weights)
        write_whole(target, lambda temporary: temporary.write_bytes(save(unique, metadata=aliases)))
    else:
        write_whole(target, lambda temporary: write_torch(temporary, weights))


def write_torch(path: Path, weights: dict[str, Tensor]) -> None:
    """Write a file of torch's; through Python's file, so that the disk's own error is known."""
    with path.open("wb") as file:
        torch.save(weights, file)


def split_shared(weights: dict[str, Tensor]) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Tied weights once, and which name stands for which: safetensors refuses two names for one memory."""
    aliases: dict[str, str] = {}
    unique: dict[str, Tensor] = {}
    owners: dict[tuple[Any, ...], str] = {}
    for name, value in weights.items():
        owner = owners.setdefault((value.data_ptr(), value.shape, value.stride(), value.dtype), name)
        if owner == name or not value.numel():
            unique[name] = value.contiguous()
        else:
            aliases[name] = owner
    return aliases, unique


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a weights file, torch's or safetensors'; tensors only, so that loading cannot run code."""
    source = existing_file(path, "ckpt_path", "a weights file")
    try:
        weights = read_safetensors(source) if source.suffix == ".safetensors" else read_torch(source)
    except OSError:
        raise  # the disk, not the file: Python names both
    except Exception as error:  # readers meet a file that is none of theirs in many ways
        raise bad_value("ckpt_path", received=f"{str(path)!r}, which cannot be read ({in_short(error)})",
                        expected="a file of weights, as save_ckpt or torch.save(net.state_dict(), path) writes it",
                        fix=guess(source)) from None  # what the reader said fills a screen; it is in __context__
    if not isinstance(weights, dict) or not all(isinstance(name, str) for name in weights):
        kind = f"a {type(weights).__name__}" + (" whose keys are no names" if isinstance(weights, dict) else "")
        raise bad_value("ckpt_path", received=f"{str(path)!r}, a file that holds {kind}",
                        expected="a state dict: names and tensors")
    return weights


def read_safetensors(source: Path) -> dict[str, Tensor]:
    """Read a file of safetensors; tied weights are in it once."""
    from safetensors import safe_open

    with safe_open(source, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        return weights | {name: weights[owner] for name, owner in (file.metadata() or {}).items() if owner in weights}


def read_torch(source: Path) -> Any:
    """Read a file of torch's; what torch warns of in a file that is none does not matter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(source, map_location="cpu", weights_only=True)


def existing_file(path: Any, argument: str, expected: str) -> Path:
    """Return the path of a file that is there; refuse a folder, and a name without a file."""
    source = Path(path).expanduser()
    if source.is_dir():
        raise bad_value(argument, received=f"the folder {str(path)!r}", expected=f"{expected} in it",
                        fix=beside(source / "file"))
    if not source.is_file():
        raise mistake(FileNotFoundError(
            f"{argument}: received {str(path)!r}; expected {expected}. {beside(source)}"))
    return source


def in_short(error: Exception) -> str:
    """Return the kind of an error, and what it says where that is one line."""
    text = str(error).strip()
    return type(error).__name__ + (f": {text}" if text and len(text) <= 120 and "\n" not in text else "")


def guess(source: Path) -> str:
    """Return what a file that cannot be read may be, judged by its size and its first bytes."""
    with source.open("rb") as file:
        start = file.read(512)
    if not start:
        return "The file is empty: was it cut short while it was written or copied?"
    if start.startswith(b"PK") and source.suffix == ".safetensors":
        return "It begins like one of torch's: name it .pt to read it."
    if start.startswith(b"PK"):
        return "It is a torch or zip file that was cut short or damaged, or holds objects other than weights: only " \
               "names and tensors are read, so that no code can run."
    if start.startswith(b"version https://git-lfs"):
        return "It is a pointer of Git LFS: fetch the file itself with git lfs pull."
    if start.lstrip()[:1] == b"<":
        return "It is a web page: the download gave an error page in place of the file."
    if source.suffix != ".safetensors" and start[8:9] == b"{":
        return "It begins like one of safetensors: name it .safetensors to read it."
    if start.startswith(b"\x80"):
        return "It is a pickle: only names and tensors are read, so that no code can run."
    return "It is damaged, or of another kind."


def beside(missing: Path) -> str:
    """What is in the folder where a file was expected."""
    if not missing.parent.is_dir():
        return f"The folder {str(missing.parent)!r} does not exist."
    names = sorted(child.name for child in missing.parent.iterdir())[:8]
    return f"The folder holds: {', '.join(names) or 'nothing'}."


def shape_of(value: Any) -> Any:
    """A tensor's shape; "missing" for a name that is not there."""
    return "missing" if value is None else tuple(getattr(value, "shape", ()))


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file so that it is there whole or not at all: beside it, flushed to disk, then renamed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    leftover.clear(target.parent, f".{target.name}.", ".tmp", aged=True)
    temporary = target.with_name(f".{target.name}.{leftover.owned()}.tmp")
    try:
        write(temporary)
        flush_to_disk(temporary)
        os.replace(temporary, target)
        flush_to_disk(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):  # the error is what counts; the next writer clears away what stays
            temporary.unlink()
        raise


def flush_to_disk(path: str | os.PathLike[str]) -> None:
    """Wait until a file, or a folder's list of names, is on the disk."""
    if os.name == "nt" and os.path.isdir(path):
        return  # Windows does not open folders
    descriptor = os.open(path, os.O_RDWR if os.path.isfile(path) else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def holds(path: str, weights: dict[str, Any]) -> bool:
    """Return whether a file holds these weights, bit for bit."""
    try:
        found = read_weights(path)
    except (ValueError, OSError):
        return False
    return found.keys() == weights.keys() and all(same_bits(found[name], weights[name]) for name in found)


def same_bits(one: Any, other: Any) -> bool:
    """Return whether two tensors are the same to the last bit, NaN too."""
    if not isinstance(one, Tensor) or one.dtype != other.dtype or one.shape != other.shape:
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
        self.kept = self.of_before = False  # whether they are those of a file that was there before this run
        self.in_memory = True  # whether the copy is that of the best weights; else their file alone has them
        self.unwritten: str | None = None  # why the file does not hold them
        self.began: Weights | None = None  # the weights that this epoch began with, where the last ones are to stay

    def begin_epoch(self) -> None:
        """An epoch begins: where the net is to end with its last weights, these come back if a loss becomes NaN."""
        if not self.model.run.config.restore_best:
            self.began = Weights(*self.weights.modules)

    def begin_with(self, weights: Weights) -> None:
        """Take the weights that the file holds for the best: what it holds stays until better ones are found."""
        self.weights, self.in_memory, self.kept, self.of_before = weights, True, True, True

    def keep(self) -> None:
        """The weights of this moment are the best: copy them, and write them through the model's ``save_ckpt``."""
        if self.path is None and not self.model.run.config.restore_best:
            return  # nobody will ask for them
        self.of_before = False
        self.in_memory = not self.loads_itself or self.model.run.config.keeps_state
        if self.in_memory:
            self.weights = Weights(*self.weights.modules)
        together = self.model.run.together
        with together.same_fate():
            if self.path is not None and together.main:
                self.attempt(lambda: self.model.save_ckpt(self.path, accelerator=self.model.accelerator))
        if self.unwritten is not None and not self.in_memory:
            self.weights, self.in_memory = Weights(*self.weights.modules), True
        self.kept = True

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
            write_weights({name: one for name, one in self.named()[0].items() if isinstance(one, Tensor)}, self.path)
            return
        now = Weights(*self.weights.modules)
        self.weights.restore()
        try:
            self.model.save_ckpt(self.path, accelerator=self.model.accelerator)
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
            hardware.same_weights(run.together, *self.began.modules)
        self.retry()
        if self.unwritten is not None:
            self.say(f"{UNWRITTEN} {self.path!r} ({self.unwritten}). " + (
                "The net holds them: save them elsewhere, model.save_ckpt('another/place')."
                if run.config.restore_best else "With restore_best=False the net holds the last weights."))

    def restore(self) -> None:
        """Put the best weights back into the net."""
        together = self.model.run.together
        if self.in_memory or not (self.kept and self.loads_itself):
            self.weights.restore()
        elif together.main:  # the file may be on the disk of process 0 only
            self.model.load_ckpt(self.path)
            remember(self.model, self.path)
        hardware.same_weights(together, *self.weights.modules)

    def named(self) -> list[dict[str, Any]]:
        """The best weights under the names that they have in bare modules."""
        return [dict(zip(plain(module).state_dict(), copies.values(), strict=True))
                for module, copies in zip(self.weights.modules, self.weights.copies, strict=True)]

    def take(self, saved: list[dict[str, Any]], kept: bool) -> None:
        """Those of a run that goes on; their file is written again where it does not hold them."""
        for number, (module, weights) in enumerate(zip(self.weights.modules, saved, strict=True)):
            bare = zip(module.state_dict(), plain(module).state_dict(), strict=True)
            self.weights.copies[number] = {name: copy.deepcopy(weights[own]) for name, own in bare}
        self.kept, self.in_memory = kept, not (self.loads_itself and Path(self.path or "").exists())
        if kept and self.path is not None and self.model.run.together.main and (why := self.spoiled(saved[0])):
            self.model.run.notes.append(f"resume: {self.path!r} {why}: it was written again")
            self.attempt(self.write_copy)

    def spoiled(self, weights: dict[str, Any]) -> str:
        """Return what is wrong with the file of the best weights; nothing where it holds them."""
        if not Path(self.path or "").exists():
            return "was gone"
        if self.saves_itself:
            return ""  # what it holds, the model alone knows
        sound = holds(self.path or "", {name: one for name, one in weights.items() if isinstance(one, Tensor)})
        return "" if sound else "was damaged, or held other weights than the best of the run that goes on"

    @property
    def loads_itself(self) -> bool:
        """Whether the model brings its own ``load_ckpt``."""
        return self.path is not None and not self.model.load_ckpt.__module__.startswith("torchkeras.")

    @property
    def saves_itself(self) -> bool:
        """Whether the model brings its own ``save_ckpt``."""
        return not self.model.save_ckpt.__module__.startswith("torchkeras.")
