"""Judge an epoch, and say why a pass ended before its end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torchkeras.checks import divergence
from torchkeras.core.stop import NonFiniteLoss, PassEnded, Request
from torchkeras.core.types import Row
from torchkeras.engine.monitor import check_monitor
from torchkeras.engine.step import StepRunner
from torchkeras.engine.steps import build_step

if TYPE_CHECKING:
    from torchkeras.engine.checkpointing import Best
    from torchkeras.engine.run import Run
    from torchkeras.engine.trainable import Trainable


def judge(run: Run, row: Row, best: Best) -> None:
    """Keep the weights if they are the best; ask to stop when patience is over."""
    if run.validates and run.stop_reason is None:
        check_monitor(run.monitor.name, list(row))
    seen = run.monitor.name in row
    if seen and run.monitor.update(run.epoch, row[run.monitor.name]):
        best.keep()
    else:
        best.retry()
    if seen and run.monitor.should_stop:
        run.apply(Request(out_of_patience(run)))


def out_of_patience(run: Run) -> str:
    """Return the reason of a run that ends because nothing improved."""
    return (f"{run.monitor.name} without improvement in {run.monitor.num_bad_epochs} epoch, "
            "early stopping")


def of_cut_pass(model: Trainable, run: Run, end: Exception) -> str:
    """Return the reason why a pass ended early."""
    run.diverged = isinstance(end, NonFiniteLoss)
    if not isinstance(end, NonFiniteLoss):
        return str(end)
    why = end.why or divergence.afterwards(model, run, run.data.train, None)
    return f"{end} in epoch {run.epoch}, step {end.step or run.step + 1}: {why}"


def check_finite(model: Trainable, run: Run, row: Row) -> None:
    """Ask to stop if an epoch's loss is not finite; read a validation again up to that batch."""
    for name, data in zip(("train_loss", "val_loss"), run.data, strict=True):
        if data is not None and not math.isfinite(row.get(name, 0.0)):
            run.diverged = True
            alone = (data is run.data.val and not run.strategy.splits_batches
                     and issubclass(model.StepRunner, StepRunner))
            step = build_step(model, run, "val", False, data.name) if alone else None
            why = divergence.afterwards(model, run, data, step)
            run.apply(Request(f"{name} is {row[name]} in epoch {run.epoch}: {why}"))


@contextmanager
def workers_interrupted(run: Run) -> Iterator[None]:
    """End the pass when Ctrl-C has stopped the workers of a DataLoader."""
    try:
        yield
    except RuntimeError as error:
        if run.interrupted and "DataLoader worker" in str(error):
            raise (KeyboardInterrupt if run.strategy.splits_batches else PassEnded) from error
        raise
