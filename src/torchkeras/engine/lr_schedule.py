"""When a learning-rate schedule moves: with every update, or with every epoch."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch.optim import lr_scheduler as torch_schedulers

from torchkeras.core.errors import bad_value
from torchkeras.core.optimizers import at_rest, each_of, titled
from torchkeras.core.tracebacks import level_of_caller
from torchkeras.engine.config import FitConfig
from torchkeras.engine.run import Run
from torchkeras.state.components import vars_of

PER_STEP = (torch_schedulers.OneCycleLR, torch_schedulers.CyclicLR)  # their lengths are given in updates
IN_UPDATES = ("transformers.", "diffusers.")  # packages whose schedules count updates
IN_STEPS = re.compile(r"(^|_)(steps|iters|iterations|updates)$|^(current|global|training|num)_(step|update|iteration)$")
LENGTHS = ("T_max", "total_iters", "total_steps")  # what torch's schedules call their length


class Span(NamedTuple):
    """How long a run is: in epochs, in batches and in optimizer updates; None where that is not known."""

    epochs: int
    batches: int | None = None
    updates: int | None = None

    @classmethod
    def of_run(cls, config: FitConfig, length: int | None) -> Span:
        """Return the span of a run whose epochs have so many batches."""
        epochs = config.epochs - config.initial_epoch
        if length is None:
            return cls(epochs)
        return cls(epochs, epochs * length, epochs * -(-length // config.gradient_accumulation_steps))


def interval_of(scheduler: Any, asked: str = "auto", span: Span | None = None) -> str:
    """``"step"`` or ``"epoch"``: as asked, else by what the scheduler says of itself and by its length.

    Args:
        scheduler: torch's scheduler, or one of its kind.
        asked: "step", "epoch" or "auto".
        span: the length of the run.
    """
    plateau = isinstance(scheduler, torch_schedulers.ReduceLROnPlateau)
    if plateau and asked == "step":
        raise bad_value("lr_interval", received="'step' for ReduceLROnPlateau", expected="'epoch' or 'auto'",
                        fix="It needs the monitored number, which an epoch has and a step has not.")
    if asked != "auto":
        return asked
    parts = list(parts_of(scheduler))
    return "step" if any(isinstance(one, PER_STEP) or speaks_of_updates(one) for one in parts) or (
        span is not None and is_as_long(scheduler, span)) else "epoch"


def intervals(scheduler: Any, asked: str, span: Span | None) -> dict[Any, str]:
    """Return the interval of one schedule, or of each of several."""
    return {key: interval_of(one, asked, span) for key, one in each_of(scheduler).items()}


def shared_out(scheduler: Any, config: FitConfig, length: int | None,
               own_step: bool) -> tuple[list[Any], list[Any], list[Any]]:
    """Return which schedules move with updates, which with epochs, and which a step is given.

    A step of the user's own says itself when a schedule moves: it is given all of them but ReduceLROnPlateau, which
    needs a number that an epoch has; the loop moves what the step does not.
    """
    found = intervals(scheduler, config.lr_interval, Span.of_run(config, length))
    by_step = [key for key, interval in found.items() if interval == "step"]
    by_epoch = [key for key in found if key not in by_step]
    plateaus = [key for key, one in each_of(scheduler).items() if isinstance(one, torch_schedulers.ReduceLROnPlateau)]
    own = [key for key in by_epoch if own_step and config.lr_interval == "auto" and key not in plateaus]
    return by_step, by_epoch, by_step + own


def parts_of(scheduler: Any) -> Iterator[Any]:
    """Yield a schedule and those that it is made of: SequentialLR and ChainedScheduler hold others."""
    yield scheduler
    for one in getattr(scheduler, "_schedulers", ()):
        yield from parts_of(one)


def speaks_of_updates(scheduler: Any) -> bool:
    """Tell whether a schedule is of a package that counts updates, or its function names steps: a warm-up's length.

    ``get_linear_schedule_with_warmup`` and its kind are LambdaLR with a function of such a package.
    """
    kind = type(scheduler)
    if kind.__module__.startswith(IN_UPDATES):
        return True
    for given in getattr(scheduler, "lr_lambdas", ()):
        bound: Mapping[str, Any] = {}
        while isinstance(given, functools.partial):
            bound = {**given.keywords, **bound}
            given = given.func
        names = [*bound, *getattr(getattr(given, "__code__", None), "co_freevars", ()), *vars_of(given)]
        first = next(iter(getattr(getattr(given, "__code__", None), "co_varnames", ())), "")
        if (getattr(given, "__module__", "") or "").startswith(IN_UPDATES):
            return True
        if not first.startswith("ep") and any(map(IN_STEPS.search, (*names, first))):
            return True
    return False


def is_as_long(scheduler: Any, span: Span) -> bool:
    """Tell whether a schedule is as long as the run counted in updates or batches, and longer than it is in epochs."""
    length = length_of(scheduler)
    if length is None or length <= span.epochs or span.updates is None:
        return False
    slack = span.epochs  # a batch an epoch more or less: drop_last was forgotten, or thought of
    return any(abs(length - whole) <= slack for whole in (span.updates, span.batches or 0))


def length_of(scheduler: Any) -> int | None:
    """Return the length of a schedule in moves; None where it has no end, or does not say."""
    milestones = getattr(scheduler, "_milestones", None)
    if milestones and getattr(scheduler, "_schedulers", None):
        rest = length_of(scheduler._schedulers[-1])
        return None if rest is None else int(milestones[-1]) + rest
    found = [getattr(scheduler, name) for name in LENGTHS if isinstance(getattr(scheduler, name, None), int)]
    found += [length for one in getattr(scheduler, "_schedulers", ()) if (length := length_of(one)) is not None]
    return max(found, default=None)


def first_change(scheduler: Any) -> int | None:
    """Return after how many moves a schedule of steps changes the rate last, or first; None for others."""
    milestones, size = getattr(scheduler, "milestones", None), getattr(scheduler, "step_size", None)
    return max(milestones) if milestones else size if isinstance(size, int) else None


def notes_of(scheduler: Any, asked: str, span: Span, own_step: bool) -> list[str]:
    """Return what is worth saying of schedules: when they move, and what may be meant in another unit.

    Raises:
        ValueError: a schedule would leave the whole first epoch at rate 0.
    """
    notes = []
    for key, one in each_of(scheduler).items():
        interval, name = interval_of(one, asked, span), titled("lr_scheduler", key)
        unless = ", unless your StepRunner moves it" if own_step and asked == "auto" else ""
        notes.append(f"{name}: {type(one).__name__} moves every {interval}{unless}")
        notes += notes_of_length(one, name, interval, span) if asked == "auto" else []
        if interval == "step" and span.updates is not None:
            check_length(one, span.updates)
        if interval == "epoch" and not own_step:
            notes += check_start(one, asked, name)
    return notes


def notes_of_length(scheduler: Any, name: str, interval: str, span: Span) -> list[str]:
    """Return what is worth saying of a schedule that the run does not bring to its end."""
    length, kind = length_of(scheduler) or first_change(scheduler), type(scheduler).__name__
    if length is None:
        return []
    if interval == "epoch" and length > span.epochs:
        return [f"{name}: {kind} is {length} moves long, and the run has {span.epochs} epochs: lr_interval='step' "
                "moves it with every update"]
    if interval == "step" and span.updates is not None and length > span.updates + span.epochs:
        return [f"{name}: {kind} is {length} moves long, and the run has {span.updates} updates: it will not end"]
    return []


def check_start(scheduler: Any, asked: str, argument: str) -> list[str]:
    """Refuse a schedule that begins at rate 0 and moves with epochs: the first epoch would train nothing."""
    rates = [group.get("lr") for group in getattr(getattr(scheduler, "optimizer", None), "param_groups", ())]
    if not rates or any(rate is None or float(rate) != 0 for rate in rates) or getattr(scheduler, "last_epoch", 0) > 0:
        return []
    if asked == "epoch":
        return [f"{argument}: the first epoch trains at rate 0"]
    raise bad_value(argument, received=f"a {type(scheduler).__name__} that begins at rate 0 and moves every epoch",
                    expected="a first epoch that trains",
                    fix="Pass lr_interval='step' if it counts updates, as warm-ups do; or let it begin above 0; "
                        "lr_interval='epoch' keeps it as it is.")


def check_length(scheduler: Any, updates: int) -> None:
    """Refuse a OneCycleLR that would be over before the run is: torch fails at the step after its last."""
    if isinstance(scheduler, torch_schedulers.OneCycleLR):
        left = scheduler.total_steps - scheduler.last_epoch
        if updates > left:
            raise bad_value("lr_scheduler", received=f"OneCycleLR with {left} of {scheduler.total_steps} steps left",
                            expected=f"one for the {updates} updates of this run",
                            fix=f"Build it with total_steps={updates}, or ask for fewer epochs.")


def places(schedulers: Any) -> dict[Any, Any]:
    """Return how far each of some schedules has moved, to be compared."""
    bare = {key: getattr(one, "scheduler", one) for key, one in each_of(schedulers).items()}  # accelerate wraps them
    return {key: getattr(one, "last_epoch", None) for key, one in bare.items()}


def end_of_epoch(schedulers: Any, watched: float | None, left_alone: Collection[Any] = ()) -> None:
    """Move per-epoch schedules; ReduceLROnPlateau waits for an epoch that has the watched number.

    Args:
        schedulers: one, several or None.
        watched: the monitored number.
        left_alone: which of them a step of the user's own moves.
    """
    for key, one in each_of(schedulers).items():
        if key in left_alone:
            continue
        if not isinstance(one, torch_schedulers.ReduceLROnPlateau):
            one.step()
        elif watched is not None:
            one.step(watched)


@contextmanager
def watched(run: Run, optimizer: Any) -> Iterator[None]:
    """Watch the schedules over a training pass: those that a step of the user's own moves are left alone after it.

    Args:
        run: the run.
        optimizer: whose rates are said to be 0, where a schedule left them so for a whole epoch.
    """
    tools = run.tools
    run.places = places(tools.given_scheduler)  # a run that goes on in mid-pass puts those of its beginning here
    scheduled = tools.step_scheduler is not None or tools.epoch_scheduler is not None
    resting = scheduled and at_rest(optimizer)
    yield
    if run.stop_reason is not None:
        return
    if resting and at_rest(optimizer):
        warn_of_rest(run.epoch)
    if tools.own_step:
        now, before = places(tools.given_scheduler), run.places or {}
        run.moved_by_step += [key for key in each_of(tools.epoch_scheduler)
                              if key in now and now[key] != before.get(key) and key not in run.moved_by_step]
        still = [titled("lr_scheduler", key) for key in each_of(tools.step_scheduler) if now[key] == before.get(key)]
        if still and len(run.history.get("epoch", ())) == 1:
            warn_of_still(still)


def warn_of_still(names: list[str]) -> None:
    """Say that schedules were given to a step of the user's own, which has not moved them in a whole epoch."""
    warnings.warn(f"fit: {', '.join(names)} did not move in the first epoch: call self.lr_scheduler.step() in your "
                  "StepRunner, or pass lr_interval='epoch'", RuntimeWarning, stacklevel=level_of_caller())


def warn_of_rest(epoch: int) -> None:
    """Say that an epoch learned nothing, because its rate was 0."""
    warnings.warn(f"fit: epoch {epoch} trained at rate 0, so nothing was learned in it; lr_scheduler and lr_interval "
                  "say how the rate moves", RuntimeWarning, stacklevel=level_of_caller())
