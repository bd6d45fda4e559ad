"""The whole training loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from torchkeras.core.stop import PassEnded
from torchkeras.core.types import Row, Stage
from torchkeras.data import Batches, OutOfData
from torchkeras.engine import lr_schedule, verdict
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.passes import Pass
from torchkeras.engine.steps import step_of
from torchkeras.engine.verdict import workers_interrupted
from torchkeras.state.measuring import measuring

if TYPE_CHECKING:
    from torchkeras.engine.checkpointing import Best
    from torchkeras.engine.run import Run
    from torchkeras.engine.trainable import Trainable


def fit(model: Trainable, run: Run, callbacks: CallbackList, best: Best) -> None:
    """Train until the last epoch or a requested stop; then put the best weights back."""
    callbacks.announce("on_fit_start")
    run.checkpointer.fit_started()
    epochs = range(first_epoch(model, run), run.config.epochs + 1)
    if epochs and run.stop_reason is None:
        run.before_training()
    for epoch in epochs:
        if run.stop_reason is not None:
            break
        run.begin_epoch(epoch)
        best.begin_epoch()
        try:
            one_epoch(model, run, callbacks, best)
            run.checkpointer.epoch_end()
        except (PassEnded, OutOfData) as end:
            run.history.discard()  # the row of an epoch that was not finished
            run.end(verdict.of_cut_pass(model, run, end))
            run.checkpointer.pass_cut_short()
            run.strategy.sync_to_module()
    best.finish(run.diverged)
    callbacks.announce_end("on_fit_end")


def first_epoch(model: Trainable, run: Run) -> int:
    """Return the first epoch: 1, or 0, which only measures, for a model not from scratch."""
    return run.checkpointer.resumes_at or run.config.initial_epoch + int(model.from_scratch)


def one_epoch(model: Trainable, run: Run, callbacks: CallbackList, best: Best) -> None:
    """Train, validate, judge."""
    val = run.data.val
    callbacks.announce("on_epoch_start")
    best.hold()
    if run.stop_reason is not None:
        raise PassEnded
    row = run.checkpointer.finished_pass()
    if row is None:
        row = train_pass(model, run, callbacks)
        run.history.record(row)
        callbacks.announce("on_train_epoch_end")
    run.join()
    run.checkpointer.trained(row)
    if val is not None and run.validates and run.stop_reason is None:
        row |= measure_pass(model, run, callbacks, "val", val)
        run.history.record(row)
    verdict.check_finite(model, run, row)
    verdict.judge(run, row, best)
    lr_schedule.end_epoch(run, row)
    callbacks.announce("on_validation_epoch_end")
    run.join()


def train_pass(model: Trainable, run: Run, callbacks: CallbackList) -> Row:
    """Return the numbers of a pass that learns; epoch 0 only measures the loaded weights."""
    data = run.data.train
    if run.epoch == 0:
        return measure_pass(model, run, callbacks, "train", data)
    with lr_schedule.watch_schedules(run, model.optimizer), torch.enable_grad():
        row = one_pass(model, run, callbacks, "train", data, learning=True)
    run.strategy.sync_to_module()
    return row


def measure_pass(model: Trainable, run: Run, callbacks: CallbackList, stage: Stage,
                 data: Batches) -> Row:
    """Return the numbers of a pass that leaves the net as it is."""
    run.raise_trouble(stage)
    net = run.strategy.evaluated(model.net)
    # not inference mode: no faster, and a tensor that a net keeps from it cannot be trained with
    with measuring(model, net, run.notes):
        return one_pass(model, run, callbacks, stage, data, learning=False)


def one_pass(model: Trainable, run: Run, callbacks: CallbackList, stage: Stage, data: Batches, *,
             learning: bool) -> Row:
    """Run a step for each batch; return the numbers of the pass."""
    run.strategy.shard(data, learning)
    data.set_epoch(run.epoch)
    run.begin_pass(stage, data)
    step = step_of(model, run, stage, learning, data)
    step_runner = Pass(run, step, data, callbacks, learning=learning)
    epoch_runner = model.EpochRunner(step_runner, True)
    step_runner.begin(epoch_runner)
    with workers_interrupted(run):
        row: Row = epoch_runner(data)
    model.batch_items = data.items
    run.end_of_pass()
    return dict(run.strategy.broadcast(row))
