"""The whole training loop."""

from __future__ import annotations

import functools
import math
from typing import Any

import torch

from torchkeras.checkpoint.best import Best
from torchkeras.checkpoint.threshold import begin_with_file
from torchkeras.checks import divergence
from torchkeras.core.modes import DIFFERENTIATED, NOTE, UnchangedBuffers, evaluating
from torchkeras.core.optimizers import each_of
from torchkeras.core.stop import NonFiniteLoss, PassEnded, Request
from torchkeras.core.types import Stage
from torchkeras.data import Batches, OutOfData
from torchkeras.diagnostics.rehearsal import rehearse
from torchkeras.engine import lr_schedule
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.epoch import Watched
from torchkeras.engine.monitor import check_monitor
from torchkeras.engine.run import Run
from torchkeras.engine.signals import workers_interrupted
from torchkeras.engine.step import StepRunner
from torchkeras.engine.steps import build_step, step_of
from torchkeras.state.components import loss_modules, modules_of


def fit(model: Any, run: Run, callbacks: CallbackList, best: Best, train: Batches, val: Batches | None) -> None:
    """Train epoch by epoch, until the last one or until a stop is asked for; then the best weights come back."""
    callbacks.announce("on_fit_start")
    run.keeper.fit_started()
    run.after_step = best.watch
    epochs = range(first_epoch(model, run), run.config.epochs + 1)
    if epochs and run.stop_reason is None:
        before_training(model, run, best, train, val)
    for epoch in epochs:
        if run.stop_reason is not None:
            break
        run.epoch = epoch
        run.history.open(epoch)
        best.begin_epoch()
        try:
            one_epoch(model, run, callbacks, best, train, val)
            run.keeper.epoch_done()
        except (PassEnded, OutOfData) as end:
            run.history.discard()  # the row of an epoch that was not finished
            run.diverged = isinstance(end, NonFiniteLoss)
            run.heed(Request(where(model, run, end, train)))
            run.keeper.stopped()
            run.tools.settle()
    best.finish(run.diverged)
    callbacks.announce_end("on_fit_end")


def before_training(model: Any, run: Run, best: Best, train: Batches, val: Batches | None) -> None:
    """Try out the validation data; measure the weights in the file that this run would replace."""
    make = functools.partial(build_step, model, run, "val", False, "val_data")
    if val is not None:
        run.trouble = rehearse(run, model.StepRunner, make, train, val)
    if run.trouble is None:
        measure = functools.partial(measure_pass, model, run, CallbackList((), model), "val")
        begin_with_file(model, run, best, val, make, measure)


def one_epoch(model: Any, run: Run, callbacks: CallbackList, best: Best, train: Batches, val: Batches | None) -> None:
    """Train, validate, judge."""
    callbacks.announce("on_epoch_start")
    best.hold()
    if run.stop_reason is not None:
        raise PassEnded
    row = run.keeper.row_of_training()
    if row is None:
        row = train_pass(model, run, callbacks, train)
        run.history.record(row)
        callbacks.announce("on_train_epoch_end")
    run.heed(run.together.agree())
    run.keeper.trained(row)
    if val is not None and run.validates and run.stop_reason is None:
        row |= measure_pass(model, run, callbacks, "val", val)
        run.history.record(row)
    check_finite(model, run, row, train, val)
    judge(run, row, best)
    if run.tools.epoch_scheduler is not None and run.epoch > 0:
        lr_schedule.end_of_epoch(run.tools.epoch_scheduler, row.get(run.monitor.name), left_to_step(run))
    callbacks.announce("on_validation_epoch_end")
    run.heed(run.together.agree())


def train_pass(model: Any, run: Run, callbacks: CallbackList, data: Batches) -> dict[str, float]:
    """One pass that learns; epoch 0 only measures the weights that a model was loaded with."""
    if run.epoch == 0:
        return measure_pass(model, run, callbacks, "train", data)
    with lr_schedule.watched(run, model.optimizer), torch.enable_grad():
        row = one_pass(model, run, callbacks, "train", data, learning=True)
    run.tools.settle()
    return row


def measure_pass(model: Any, run: Run, callbacks: CallbackList, stage: Stage, data: Batches) -> dict[str, float]:
    """One pass that leaves the net as it is."""
    if stage == "val" and run.trouble is not None:
        raise run.trouble
    # not torch's inference mode: it measured no faster, and a mask that a net keeps from it could not be trained with
    losses = UnchangedBuffers(*loss_modules(model.loss_fn))
    try:
        with evaluating(run.tools.replicas().get("net", model.net), *modules_of(model)), torch.no_grad():
            row = one_pass(model, run, callbacks, stage, data, learning=False)
    finally:
        losses.restore()
    if model.net in DIFFERENTIATED and NOTE not in run.notes:
        run.notes.append(NOTE)
    return row


def one_pass(model: Any, run: Run, callbacks: CallbackList, stage: Stage, data: Batches, *,
             learning: bool) -> dict[str, float]:
    """A step for each batch; the numbers of the pass."""
    data.share_between(run.together, divide=learning or run.config.fsdp)
    data.set_epoch(run.epoch)
    run.stage, run.step, run.steps, run.logs = stage, 0, data.own_length, {}
    step = step_of(model, run, stage, learning, data.name)
    step.whole_numbers = data.of_arrays
    epoch_runner = model.EpochRunner(Watched(step, run, callbacks), True)
    run.running = getattr(epoch_runner, "running", dict)
    run.keeper.begin_pass(epoch_runner)
    with workers_interrupted(run):
        row = epoch_runner(data)
    model.batch_items = data.items
    if (request := run.together.agree()) is not None:
        end = run.ended_by(request)
        if request.diverged:
            raise end
    return run.together.from_main(row)


def left_to_step(run: Run) -> list[Any]:
    """Return which schedules a step of the user's own moves: those it is given, where its code names them."""
    tools = run.tools
    given = list(each_of(tools.given_scheduler)) if tools.own_step and tools.own_schedule else []
    return [*run.moved_by_step, *given]


def judge(run: Run, row: dict[str, float], best: Best) -> None:
    """Keep the weights if they are the best; ask to stop when patience is over."""
    if run.validates and run.stop_reason is None:
        check_monitor(run.monitor.name, list(row))
    seen = run.monitor.name in row
    if seen and run.monitor.see(run.epoch, row[run.monitor.name]):
        best.keep()
    else:
        best.retry()
    if seen and run.monitor.exhausted:
        run.heed(Request(f"{run.monitor.name} without improvement in {run.monitor.misses} epoch, early stopping"))


def first_epoch(model: Any, run: Run) -> int:
    """Epochs count from 1; a model that says it is not from scratch has an epoch 0, which only measures."""
    return run.keeper.epoch or run.config.initial_epoch + (1 if model.from_scratch else 0)


def where(model: Any, run: Run, end: Exception, train: Batches) -> str:
    """Return what ended a pass before its end."""
    if not isinstance(end, NonFiniteLoss):
        return str(end)
    why = end.why or divergence.afterwards(model, run, train, None)
    return f"{end} in epoch {run.epoch}, step {end.step or run.step + 1}: {why}"


def check_finite(model: Any, run: Run, row: dict[str, float], train: Batches, val: Batches | None) -> None:
    """Ask to stop when the loss of an epoch is not finite; a validation is read again up to the batch that is not."""
    for name, data in (("train_loss", train), ("val_loss", val)):
        if data is not None and not math.isfinite(row.get(name, 0.0)):
            run.diverged = True
            alone = data is val and run.together.world == 1 and issubclass(model.StepRunner, StepRunner)
            step = build_step(model, run, "val", False, data.name) if alone else None
            why = divergence.afterwards(model, run, data, step)
            run.heed(Request(f"{name} is {row[name]} in epoch {run.epoch}: {why}"))
