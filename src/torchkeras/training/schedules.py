"""When a learning-rate schedule moves by itself: with every update, or with every epoch."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from torch.optim import lr_scheduler as torch_schedulers

from torchkeras.core import internals
from torchkeras.core.errors import bad_value
from torchkeras.core.optimizers import argument_name, each_of
from torchkeras.core.types import OneOrMany
from torchkeras.engine.config import FitConfig
from torchkeras.state.components import attributes_of

PER_STEP = (torch_schedulers.OneCycleLR, torch_schedulers.CyclicLR)  # lengths in updates
IN_UPDATES = ("transformers.", "diffusers.")  # packages whose schedulers count updates
IN_STEPS = re.compile(r"(^|_)(steps|iters|iterations|updates)$|"
                      r"^(current|global|training|num)_(step|update|iteration)$")
Scheduler: TypeAlias = Any  # an LRScheduler of torch, or an object with the same methods
LENGTHS = ("T_max", "total_iters", "total_steps")  # attributes with the length of a scheduler


class Span(NamedTuple):
    """The length of a run in epochs, batches and updates; None where it is not known."""

    epochs: int
    batches: int | None = None
    updates: int | None = None

    @classmethod
    def of_run(cls, config: FitConfig, length: int | None) -> Span:
        """Return the span of a run whose epochs have ``length`` batches."""
        epochs = config.epochs - config.initial_epoch
        if length is None:
            return cls(epochs)
        return cls(epochs, epochs * length,
                   epochs * -(-length // config.gradient_accumulation_steps))


def interval_of(scheduler: object, asked: str = "auto", span: Span | None = None) -> str:
    """Return "step" or "epoch": as asked, else by the scheduler's kind and length.

    Args:
        scheduler: torch's scheduler, or one of its kind.
        asked: "step", "epoch" or "auto".
        span: the length of the run.
    """
    plateau = isinstance(scheduler, torch_schedulers.ReduceLROnPlateau)
    if plateau and asked == "step":
        raise bad_value("lr_interval", received="'step' for ReduceLROnPlateau",
                        expected="'epoch' or 'auto'",
                        fix="It needs the monitored number, which an epoch has and a step has not.")
    if asked != "auto":
        return asked
    parts = list(flattened(scheduler))
    by_kind = any(isinstance(one, PER_STEP) or counts_updates(one) for one in parts)
    by_length = not by_kind and span is not None and spans_run_in_updates(scheduler, span)
    return "step" if by_kind or by_length else "epoch"


def intervals(scheduler: OneOrMany, asked: str, span: Span | None) -> dict[Any, str]:
    """Return the interval of one scheduler, or of each of several."""
    return {key: interval_of(one, asked, span) for key, one in each_of(scheduler).items()}


def assign_schedules(scheduler: OneOrMany, config: FitConfig, length: int | None,
                     own_step: bool) -> tuple[list[Any], list[Any], list[Any]]:
    """Return which schedulers step by update, which by epoch, and which a step gets.

    A user's own step steps its schedulers itself: it gets all but ReduceLROnPlateau, which needs
    the monitored number of an epoch; the loop steps those that the step does not.
    """
    found = intervals(scheduler, config.lr_interval, Span.of_run(config, length))
    by_step = [key for key, interval in found.items() if interval == "step"]
    by_epoch = [key for key in found if key not in by_step]
    plateaus = [key for key, one in each_of(scheduler).items()
                if isinstance(one, torch_schedulers.ReduceLROnPlateau)]
    own = [key for key in by_epoch
           if own_step and config.lr_interval == "auto" and key not in plateaus]
    return by_step, by_epoch, by_step + own


def flattened(scheduler: object) -> Iterator[object]:
    """Yield a scheduler, and those in it: SequentialLR and ChainedScheduler hold others."""
    yield scheduler
    for one in internals.inner_schedulers(scheduler):
        yield from flattened(one)


def counts_updates(scheduler: object) -> bool:
    """Tell whether a scheduler counts updates, by its package or its function's variables.

    ``get_linear_schedule_with_warmup`` and the like are LambdaLR with a function of a package.
    """
    kind = type(scheduler)
    if kind.__module__.startswith(IN_UPDATES):
        return True
    for given in getattr(scheduler, "lr_lambdas", ()):
        bound: Mapping[str, Any] = {}
        while isinstance(given, functools.partial):
            bound = {**given.keywords, **bound}
            given = given.func
        code = getattr(given, "__code__", None)
        names = [*bound, *getattr(code, "co_freevars", ()), *attributes_of(given)]
        first = next(iter(getattr(code, "co_varnames", ())), "")
        if (getattr(given, "__module__", "") or "").startswith(IN_UPDATES):
            return True
        if not first.startswith("ep") and any(map(IN_STEPS.search, (*names, first))):
            return True
    return False


def spans_run_in_updates(scheduler: object, span: Span) -> bool:
    """Tell whether a scheduler is as long as the run in updates or batches, not in epochs."""
    length = length_of(scheduler)
    if length is None or length <= span.epochs or span.updates is None:
        return False
    slack = span.epochs  # one batch an epoch more or less, as drop_last makes
    return any(abs(length - whole) <= slack for whole in (span.updates, span.batches or 0))


def length_of(scheduler: Scheduler) -> int | None:
    """Return the length of a scheduler in its own steps; None if it has no end."""
    milestones = internals.milestones(scheduler)
    if milestones and internals.inner_schedulers(scheduler):
        rest = length_of(internals.inner_schedulers(scheduler)[-1])
        return None if rest is None else int(milestones[-1]) + rest
    found = [getattr(scheduler, name) for name in LENGTHS
             if isinstance(getattr(scheduler, name, None), int)]
    found += [length for one in internals.inner_schedulers(scheduler)
              if (length := length_of(one)) is not None]
    return max(found, default=None)


def first_change(scheduler: object) -> int | None:
    """Return the last milestone, or the step size, of a scheduler; None for others."""
    milestones, size = getattr(scheduler, "milestones", None), getattr(scheduler, "step_size", None)
    if milestones:
        last: int = max(milestones)
        return last
    return size if isinstance(size, int) else None


def schedule_notes(scheduler: OneOrMany, asked: str, span: Span, own_step: bool) -> list[str]:
    """Return notes on schedulers: when each steps, and whether its unit may be another.

    Raises:
        ValueError: a scheduler would keep the whole first epoch at rate 0.
    """
    notes = []
    for key, one in each_of(scheduler).items():
        interval, name = interval_of(one, asked, span), argument_name("lr_scheduler", key)
        unless = ", unless your StepRunner moves it" if own_step and asked == "auto" else ""
        notes.append(f"{name}: {type(one).__name__} moves every {interval}{unless}")
        notes += notes_of_length(one, name, interval, span) if asked == "auto" else []
        if interval == "step" and span.updates is not None:
            check_length(one, span.updates)
        if interval == "epoch" and not own_step:
            notes += check_start(one, asked, name)
    return notes


def notes_of_length(scheduler: object, name: str, interval: str, span: Span) -> list[str]:
    """Return a note on a scheduler that the run does not bring to its end."""
    length, kind = length_of(scheduler) or first_change(scheduler), type(scheduler).__name__
    if length is None:
        return []
    if interval == "epoch" and length > span.epochs:
        return [f"{name}: {kind} is {length} moves long, and the run has {span.epochs} epochs: "
                "lr_interval='step' moves it with every update"]
    if interval == "step" and span.updates is not None and length > span.updates + span.epochs:
        return [f"{name}: {kind} is {length} moves long, and the run has {span.updates} updates: "
                "it will not end"]
    return []


def check_start(scheduler: object, asked: str, argument: str) -> list[str]:
    """Raise if a scheduler keeps the whole first epoch at rate 0."""
    groups = getattr(getattr(scheduler, "optimizer", None), "param_groups", ())
    rates = [group.get("lr") for group in groups]
    if not rates or any(rate is None or float(rate) != 0 for rate in rates):
        return []
    if getattr(scheduler, "last_epoch", 0) > 0:
        return []
        return []
    if asked == "epoch":
        return [f"{argument}: the first epoch trains at rate 0"]
    raise bad_value(argument, received=f"a {type(scheduler).__name__} that begins at rate 0 and "
                    "moves every epoch", expected="a first epoch that trains",
                    fix="Pass lr_interval='step' if it counts updates, as warm-ups do; or let it "
                    "begin above 0; lr_interval='epoch' keeps it as it is.")


def check_length(scheduler: object, updates: int) -> None:
    """Raise if a OneCycleLR is shorter than the run, at whose end torch would fail."""
    if isinstance(scheduler, torch_schedulers.OneCycleLR):
        left = scheduler.total_steps - scheduler.last_epoch
        if updates > left:
            raise bad_value("lr_scheduler", received=f"OneCycleLR with {left} of "
                            f"{scheduler.total_steps} steps left",
                            expected=f"one for the {updates} updates of this run",
                            fix=f"Build it with total_steps={updates}, or ask for fewer epochs.")
