"""The number that a run must beat before it may replace the weights in ``ckpt_path``: that of the weights in it.

It is measured where the file is one that this model loaded or saved: a second ``fit``, or ``load_ckpt`` and then
``fit``. The weights in the file count, whatever the net holds by now. The pass leaves no trace: the run is bit for bit
the one that it would have been.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from torchkeras.checkpoint import known_files
from torchkeras.checkpoint.best import Best
from torchkeras.checkpoint.tensor_file import limits_for
from torchkeras.checkpoint.weight_file import read_weights
from torchkeras.core.stop import PassEnded
from torchkeras.data import Batches
from torchkeras.data.start import Start
from torchkeras.diagnostics.rehearsal import untouched
from torchkeras.engine import device
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.run import Run
from torchkeras.state.memento import Memento
from torchkeras.state.peek import Unread
from torchkeras.state.weights import Weights, checksum

PLACE = ("stage", "epoch", "step", "steps", "logs", "running")  # of a run, that a pass changes


def begin_with_file(model: Any, run: Run, best: Best, val: Batches | None, make: Callable[[], Any],
                    measure: Callable[[Batches], Mapping[str, float]]) -> None:
    """Let the weights in ``ckpt_path`` compete as epoch 0, if this model loaded or saved them.

    Args:
        model: the model that is about to be trained.
        run: its run; one that goes on has its best weights already.
        best: the best weights of the run.
        val: what they are measured on.
        make: builds the step of a validation pass.
        measure: goes through data once, and gives the numbers.
    """
    path, monitor = run.config.ckpt_path, run.monitor
    if path is None or monitor.best is not None or (run.trained and not run.judged_anew):
        return
    file, why = run.together.from_main(asked(model, run, val, path))
    if file is None or val is None or why:
        run.notes += [f"ckpt_path: {why}"] if why else []
        return
    try:
        value, weights = measured(model, run, best, val, make, measure, file.options)
    except Unread as reason:
        run.notes.append(f"ckpt_path: {not_compared(path, str(reason))}")
        return
    except PassEnded:
        return  # the run was asked to stop
    if run.stop_reason is not None:
        return
    if not math.isfinite(value):
        run.notes.append(f"ckpt_path: {not_compared(path, f'their {monitor.name} is {value}')}")
        return
    monitor.begin_with(value)
    best.begin_with(weights)
    run.notes.append(f"ckpt_path: the weights in {path!r} have {monitor.name} {value:.6g}: only better ones replace "
                     "them")


def asked(model: Any, run: Run, val: Batches | None, path: str) -> tuple[known_files.Known | None, str]:
    """Return what the model knows of the file; and why its weights cannot be measured, or are not the model's."""
    file = known_files.known(model, path)
    if known_files.was_changed(model, path):
        return None, f"{path!r} is no longer the file that this model saved or loaded: it will be overwritten"
    if file is None or (file.identity is None and not model_saves_itself(model)):
        return None, ""
    if val is None:
        return file, not_compared(path, "there is no val_data to measure them on")
    if not run.monitor.name.startswith("val_"):
        return file, not_compared(path, f"{run.monitor.name} is a number of training")
    if run.config.fsdp and run.together.world > 1:
        return file, not_compared(path, "fsdp=True divides the net")
    return file, ""


def model_saves_itself(model: Any) -> bool:
    """Return whether the model brings its own ``load_ckpt``, whose files may have other names."""
    return not model.load_ckpt.__module__.startswith("torchkeras.")


def not_compared(path: str, why: str) -> str:
    """Return what is said where a file will be overwritten unseen."""
    return (f"{path!r} holds weights that this model saved or loaded; they could not be compared with this run's "
            f"({why}), which will overwrite them")


def measured(model: Any, run: Run, best: Best, val: Batches, make: Callable[[], Any],
             measure: Callable[[Batches], Mapping[str, float]], options: Mapping[str, Any]) -> tuple[float, Weights]:
    """Return the monitored number of the weights in the file, and these; all else is as it was before.

    Raises:
        Unread: that cannot be promised, or the file does not hold all weights of this net.
    """
    modules = best.weights.modules
    step, before, items = make(), Weights(*modules), model.batch_items
    if not same_frozen(before, str(run.config.ckpt_path), model):
        before = Weights(*modules, every=True)
    here = {name: getattr(run, name) for name in PLACE}
    try:
        with twin_of(val) as twin, untouched(step), unheard(model):
            with run.together.same_fate():
                if run.together.main:
                    load(model, str(run.config.ckpt_path), options)
            device.same_weights(run.together, *modules)
            weights = Weights(*modules, every=before.every)
            run.epoch = 0
            row = measure(twin)
    finally:
        before.restore()
        vars(run).update(here)
        run.step_runners.pop(("val", False), None)  # what it has counted is none of the run's
        model.batch_items = items
    if run.monitor.name not in row:
        raise Unread(f"no {run.monitor.name} is measured")
    return row[run.monitor.name], weights


def same_frozen(before: Weights, path: str, model: Any) -> bool:
    """Return whether what does not learn is the same in the file and in the net, so that no copy of it is needed."""
    frozen = before.frozen(0)
    if not frozen:
        return True
    if model_saves_itself(model):
        return False
    try:
        on_disk = read_weights(path, limits_for(model.net), mapped=True)
    except (ValueError, OSError):
        return False  # what is wrong with the file, loading it will tell
    return all(isinstance(on_disk.get(name), Tensor) and checksum(on_disk[name]) == mark
               for name, mark in frozen.items())


@contextmanager
def unheard(model: Any) -> Iterator[None]:
    """Let nobody hear of a pass: a dialect's own epoch runner tells Keras's callbacks of every batch."""
    own = vars(model).get("EpochRunner")
    if own is None or not own.__module__.startswith("torchkeras."):
        yield
        return
    model.EpochRunner = EpochRunner
    try:
        yield
    finally:
        model.EpochRunner = own


def load(model: Any, path: str, options: Mapping[str, Any]) -> None:
    """Put the weights of the file into the net as they were loaded before."""
    try:
        report = model.load_ckpt(path, **options)
    except Exception as error:
        raise Unread(f"{type(error).__name__}: {error}") from error
    if getattr(report, "missing", None) or getattr(report, "unlike", None):
        raise Unread("it holds a part of the net's weights")


@contextmanager
def twin_of(val: Batches) -> Iterator[Batches]:
    """Give a copy of the data that can be read once more, workers of its own too; afterwards the data is as it was.

    Raises:
        Unread: it can be read only once.
    """
    source = val.source
    if hasattr(source, "gradient_state"):
        raise Unread(f"a {type(source).__name__} of accelerate keeps account of who reads it")
    if isinstance(source, DataLoader):
        source = copy.copy(source)
        source.__dict__["_iterator"] = None  # workers that live on are the run's own
    memento = Memento(source)
    if memento.once or isinstance(source, Iterator) or isinstance(getattr(source, "dataset", None), Iterator):
        raise Unread("val_data can be read only once")
    val.settle()
    twin = copy.copy(val)
    twin.__dict__.update(source=source, current=source, start=Start(), sharing=None, between=None, begins=None)
    for name in ("memory", "near"):
        if (memory := getattr(val, name)) is not None:
            own = copy.copy(memory)
            own.loader, own.seeded = source, False
            setattr(twin, name, own)
    try:
        yield twin
    finally:
        memento.restore()
        if isinstance(source, DataLoader):
            source.__dict__["_iterator"] = None  # ends its workers
