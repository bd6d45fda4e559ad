"""Move the learning-rate schedules of every epoch, and watch those that a user's step moves."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.optim import lr_scheduler as torch_schedulers

from torchkeras.core.optimizers import argument_name, each_of, has_zero_lr
from torchkeras.core.tracebacks import level_of_caller
from torchkeras.core.types import OneOrMany
from torchkeras.engine.run import Run


def positions(schedulers: OneOrMany) -> dict[Any, Any]:
    """Return the ``last_epoch`` of each scheduler."""
    each = each_of(schedulers).items()
    bare = {key: getattr(one, "scheduler", one) for key, one in each}  # accelerate wraps them
    return {key: getattr(one, "last_epoch", None) for key, one in bare.items()}


def end_of_epoch(schedulers: OneOrMany, watched: float | None,
                 left_alone: Collection[Any] = ()) -> None:
    """Step schedulers, except the keys ``left_alone``; ReduceLROnPlateau only by ``watched``."""
    for key, one in each_of(schedulers).items():
        if key in left_alone:
            continue
        if not isinstance(one, torch_schedulers.ReduceLROnPlateau):
            one.step()
        elif watched is not None:
            one.step(watched)


def end_epoch(run: Run, row: Mapping[str, float]) -> None:
    """Move the schedules of every epoch, except those that a user's own step moves."""
    if run.epoch > 0:
        end_of_epoch(run.objects.epoch_scheduler, row.get(run.monitor.name), left_to_step(run))


def left_to_step(run: Run) -> list[Any]:
    """Return which schedules a user's own step moves: those it gets, if its code names them."""
    objects = run.objects
    moves = objects.own_step and objects.own_schedule
    return [*run.moved_by_step, *(each_of(objects.given_scheduler) if moves else ())]


@contextmanager
def watch_schedules(run: Run, optimizer: OneOrMany) -> Iterator[None]:
    """Watch in a training pass which schedulers a user's step moves; warn if the rate stays 0."""
    objects = run.objects
    # when a run is resumed within a pass, those at the start of the pass are put here
    run.places = positions(objects.given_scheduler)
    scheduled = objects.step_scheduler is not None or objects.epoch_scheduler is not None
    resting = scheduled and has_zero_lr(optimizer)
    yield
    if run.stop_reason is not None:
        return
    if resting and has_zero_lr(optimizer):
        warn(f"epoch {run.epoch} trained at rate 0, so nothing was learned in it; lr_scheduler and "
             "lr_interval say how the rate moves")
    if objects.own_step:
        now, before = positions(objects.given_scheduler), run.places or {}
        moved = [key for key in each_of(objects.epoch_scheduler)
                 if key in now and now[key] != before.get(key)]
        run.moved_by_step += [key for key in moved if key not in run.moved_by_step]
        still = [argument_name("lr_scheduler", key) for key in each_of(objects.step_scheduler)
                 if now[key] == before.get(key)]
        if still and len(run.history.get("epoch", ())) == 1:
            warn(f"{', '.join(still)} did not move in the first epoch: call "
                 "self.lr_scheduler.step() in your StepRunner, or pass lr_interval='epoch'")


def warn(text: str) -> None:
    """Warn whoever called ``fit``."""
    warnings.warn(f"fit: {text}", RuntimeWarning, stacklevel=level_of_caller())
