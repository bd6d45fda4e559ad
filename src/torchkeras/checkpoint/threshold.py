"""Measure the weights in ``ckpt_path``, which a run must beat before it may replace them.

They are measured if this model loaded or saved the file: at a second ``fit``, or at ``load_ckpt``
followed by ``fit``. The weights in the file count, whatever the net holds now. The validation pass
leaves no trace: the run is bit for bit the one that it would have been without it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext

from torch import Tensor
from torch.utils.data import DataLoader

from torchkeras.checkpoint import known_files
from torchkeras.checkpoint.best import Best
from torchkeras.checkpoint.replaced import replaced_parameters
from torchkeras.checkpoint.tensor_file import limits_for
from torchkeras.checkpoint.weight_file import read_weights
from torchkeras.checkpoint.weights_path import is_user_defined
from torchkeras.core import internals
from torchkeras.core.restored import restored_state
from torchkeras.core.stop import PassEnded
from torchkeras.core.types import Value
from torchkeras.data import Batches
from torchkeras.data.start import ResumePoint
from torchkeras.diagnostics.rehearsal import untouched
from torchkeras.distributed.broadcast import same_weights
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.run import Run
from torchkeras.engine.step import StepRunner
from torchkeras.engine.trainable import Trainable
from torchkeras.state.memento import Memento
from torchkeras.state.peek import CannotPeek
from torchkeras.state.weights import Weights, checksum

# attributes of a run that a pass changes
PASS_ATTRIBUTES = ("stage", "epoch", "step", "steps", "logs", "running_metrics")


def begin_with_file(model: Trainable, run: Run, best: Best,
                    make: Callable[[], StepRunner],
                    measure: Callable[[Batches], Mapping[str, float]]) -> None:
    """Let the weights in ``ckpt_path`` compete as epoch 0, if this model loaded or saved them.

    Args:
        model: the model that is about to be trained.
        run: its run; a resumed one has its best weights already.
        best: the best weights of the run.
        make: builds the step of a validation pass.
        measure: makes one pass over data, and returns its numbers.
    """
    path, monitor, val = run.config.ckpt_path, run.monitor, run.data.val
    if path is None or monitor.best is not None or (run.global_step and not run.judged_anew):
        return
    file, why = run.communicator.broadcast(file_to_compare(model, run, path))
    if file is None or val is None or why:
        run.notes += [f"ckpt_path: {why}"] if why else []
        return
    try:
        value, weights = measure_file(model, run, best, val, make, measure, file.options)
    except CannotPeek as reason:
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
    run.notes.append(f"ckpt_path: the weights in {path!r} have {monitor.name} {value:.6g}: "
                     "only better ones replace them")


def file_to_compare(model: Trainable, run: Run,
                    path: str) -> tuple[known_files.KnownFile | None, str]:
    """Return the model's record of the file, and why its weights cannot be measured."""
    file = known_files.known_file(model, path)
    if known_files.was_changed(model, path):
        return None, (f"{path!r} is no longer the file that this model saved or loaded: "
                      "it will be overwritten")
    if file is None or (file.identity is None and not model_saves_itself(model)):
        return None, ""
    if run.data.val is None:
        return file, not_compared(path, "there is no val_data to measure them on")
    if not run.monitor.name.startswith("val_"):
        return file, not_compared(path, f"{run.monitor.name} is a number of training")
    if run.strategy.shards_parameters:
        return file, not_compared(path, "fsdp=True shards the net")
    return file, ""


def model_saves_itself(model: Trainable) -> bool:
    """Return whether the model has its own ``load_ckpt``, whose files may have other names."""
    return is_user_defined(model.load_ckpt)


def not_compared(path: str, why: str) -> str:
    """Return the note on a file that will be overwritten without a comparison."""
    return (f"{path!r} holds weights that this model saved or loaded; they could not be compared "
            f"with this run's ({why}), which will overwrite them")


def measure_file(model: Trainable, run: Run, best: Best, val: Batches,
                 make: Callable[[], StepRunner],
                 measure: Callable[[Batches], Mapping[str, float]],
                 options: Mapping[str, Value]) -> tuple[float, Weights]:
    """Return the monitored number of the weights in the file, and these; restore all else.

    Raises:
        CannotPeek: that cannot be promised, or the file does not hold all weights of this net.
    """
    modules = best.weights.modules
    step, before, items = make(), Weights(*modules), model.batch_items
    if best.weights.every or not frozen_unchanged(before, str(run.config.ckpt_path), model):
        before = Weights(*modules, every=True)
    here = {name: getattr(run, name) for name in PASS_ATTRIBUTES}
    try:
        with (copy_of(val) as twin, untouched(step), without_callbacks(model),
              same_parameters(model)):
            with run.communicator.raise_on_all_ranks():
                if run.communicator.is_main_process:
                    load_file(model, str(run.config.ckpt_path), options)
            same_weights(run.communicator, *modules)
            weights = Weights(*modules, every=before.every)
            run.epoch = 0
            row = measure(twin)
    finally:
        before.restore()
        vars(run).update(here)
        run.step_runners.pop(("val", False), None)  # what it counted is not part of the run
        model.batch_items = items
    if run.monitor.name not in row:
        raise CannotPeek(f"no {run.monitor.name} is measured")
    return row[run.monitor.name], weights


def frozen_unchanged(before: Weights, path: str, model: Trainable) -> bool:
    """Return whether file and net have the same frozen weights, so that these need no copy."""
    frozen = before.frozen(0)
    if not frozen:
        return True
    if model_saves_itself(model):
        return False
    try:
        on_disk = read_weights(path, limits_for(model.net), mapped=True)
    except (ValueError, OSError):
        return False  # loading the file will report what is wrong with it
    return all(isinstance(on_disk.get(name), Tensor) and checksum(on_disk[name]) == mark
               for name, mark in frozen.items())


@contextmanager
def without_callbacks(model: Trainable) -> Iterator[None]:
    """Hide a pass from callbacks: the Keras layer has an EpochRunner that calls its callbacks."""
    own = vars(model).get("EpochRunner")
    if own is None or not own.__module__.startswith("torchkeras."):
        yield
        return
    model.EpochRunner = EpochRunner
    try:
        yield
    finally:
        model.EpochRunner = own


@contextmanager
def same_parameters(model: Trainable) -> Iterator[None]:
    """Put net and parameters back that a user's ``load_ckpt`` replaces."""
    net = model.net
    with restored_state(net) if model_saves_itself(model) else nullcontext():
        try:
            yield
        finally:
            model.net = net


def load_file(model: Trainable, path: str, options: Mapping[str, Value]) -> None:
    """Load the weights of the file into the net, with the options they were loaded with before."""
    net, before = model.net, dict(model.net.named_parameters())
    try:
        report = model.load_ckpt(path, **options)
    except Exception as error:
        raise CannotPeek(f"{type(error).__name__}: {error}") from error
    if getattr(report, "missing", None) or getattr(report, "mismatched", None):
        raise CannotPeek("it holds a part of the net's weights")
    if model.net is not net or replaced_parameters(model.net, before):
        raise CannotPeek("load_ckpt puts other parameters in the place of the net's")


@contextmanager
def copy_of(val: Batches) -> Iterator[Batches]:
    """Yield a copy of the data, with workers of its own; afterwards the data is as it was.

    Raises:
        CannotPeek: it can be read only once.
    """
    source = val.source
    if hasattr(source, "gradient_state"):
        raise CannotPeek(f"accelerate tracks who reads its {type(source).__name__}")
    if isinstance(source, DataLoader):
        source = copy.copy(source)
        internals.end_workers(source)  # persistent workers belong to the run
    memento = Memento(source)
    once = isinstance(getattr(source, "dataset", None), Iterator)
    if memento.one_shot or isinstance(source, Iterator) or once:
        raise CannotPeek("val_data can be read only once")
    val.place()
    twin = copy.copy(val)
    twin.__dict__.update(source=source, current=source, start=ResumePoint(), sharing=None,
                         on_start=None, on_boundary=None)
    for name in ("memory", "device_data"):
        if (memory := getattr(val, name)) is not None:
            own = copy.copy(memory)
            own.loader, own.seeded = source, False
            setattr(twin, name, own)
    try:
        yield twin
    finally:
        memento.restore()
        if isinstance(source, DataLoader):
            internals.end_workers(source)  # ends its workers
