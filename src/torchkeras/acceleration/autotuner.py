"""``speed="fast"``: time candidates for the training step, and keep those that are faster."""

from __future__ import annotations

import errno
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import torch

from torchkeras.acceleration.candidates import Candidate, ChannelsLast, CompiledNet, shapes_of
from torchkeras.acceleration.compile_cache import CompileCache
from torchkeras.acceleration.multi_step_graph import CompiledMultiStep
from torchkeras.acceleration.repeated_step import RepeatedStep
from torchkeras.acceleration.step_graph import CompiledTrainStep
from torchkeras.acceleration.trial import OtherNumbers, Unfit
from torchkeras.acceleration.updates import constant_options
from torchkeras.core.types import Batch, Microbatch, Step, StepOutput
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.executor import Eager
from torchkeras.engine.run import Run

if TYPE_CHECKING:
    from torchkeras.engine.step import StepRunner
    from torchkeras.engine.trainable import Trainable

COMPILE_TIME = 15.0  # seconds that compiling takes, as a guess before it is done
KEPT_TIME = 3.0  # the same for what an earlier run has compiled: it is traced, and compared
SLOWER = 1.25  # times the best before: a candidate that took so long in an earlier run is skipped
FIRST, TIMED = 3, 15  # steps that warm up, and steps that are timed
# on an accelerator, steps between two waits for it, for its launches run ahead; and such windows
WINDOW, WINDOWS = 10, 3
SMALL = 0.005  # seconds of a step in which launching can be a large part
BETTER = 0.95  # of the best time so far; a smaller gain could be chance
# what programs print if the system does not let them write what they compile
SYSTEM_ERRORS = [os.strerror(number) for number in (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EMFILE, errno.ENOMEM)]
WORTH = 4  # times the cost of compiling must be left to train: both cost and gain are guesses


@contextmanager
def autotuned(run: Run, model: Trainable, callbacks: CallbackList) -> Iterator[None]:
    """Give a run in fast mode an autotuner of its training steps; undo its changes afterwards."""
    if run.config.speed != "fast":
        yield
        return
    benchmark = torch.backends.cudnn.benchmark
    tuner = run.executor = StepAutotuner(run, model, callbacks)
    torch.backends.cudnn.benchmark = True
    try:
        with coarse_products(run):
            yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        tuner.end()
        run.executor = Eager(run.strategy)


@contextmanager
def coarse_products(run: Run) -> Iterator[None]:
    """Let an accelerator multiply float32 matrices in TF32, unless the user chose a precision."""
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # set by torch's newer options, which do not go with this one
        before = ""
    if before != "highest" or not is_ahead(run.accelerator.device):
        yield
        return
    torch.set_float32_matmul_precision("high")
    run.notes.append("fast: products of float32 matrices in TF32, where the device has it")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def is_ahead(device: torch.device) -> bool:
    """Tell whether the program launches work on a device, and goes on before it is done."""
    return device.type != "cpu"


class StepAutotuner(Eager):
    """Time some eager steps, then some of each candidate that may pay, and use the fastest."""

    def __init__(self, run: Run, model: Trainable, callbacks: CallbackList) -> None:
        super().__init__(run.strategy)
        self.run, self.model, self.callbacks = run, model, callbacks
        self.candidate: Candidate = Candidate()  # in use, or in trial
        self.kept: list[Candidate] = []  # faster than those before; undone at the end
        self.untried: list[type[Candidate]] | None = None
        self.best = 0.0  # seconds a step
        self.times: list[float] = []
        self.in_window = 0  # steps since the time was read
        self.usual_shapes: list[Any] | None = None  # those of the first batch
        self.missed = 0  # batches of other shapes
        self.decided = False
        self.report: list[str] = []  # what was tried, for the note of the run
        self.cache: CompileCache | None = None
        self.found: dict[str, float] = {}  # a step's time over that of the best before
        self.reasons: set[str] = set()  # why steps were not run by the chosen candidate

    @property
    def pending(self) -> bool:  # type: ignore[override]
        """Tell whether steps have been computed that were not returned yet."""
        return bool(self.candidate.pending)

    def execute(self, step: Step, batch: Batch, microbatch: Microbatch) -> StepOutput:
        """Run one training step by the candidate in use; run padding eagerly."""
        if microbatch.padding:
            return super().execute(step, batch, microbatch)
        runner: Any = step  # of ours or the user's
        return self.step(runner, batch)

    def step(self, step: StepRunner, batch: Batch) -> StepOutput:
        """Run one training step by the candidate in use."""
        if self.decided:
            if self.candidate.supports(step, batch):
                return self.candidate(step, batch)
            self.note_unsupported()
            return step(batch)
        if self.candidate.pending:
            return self.trial(step, batch)
        if self.usual_shapes is None:
            self.usual_shapes = shapes_of(batch)
        if shapes_of(batch) != self.usual_shapes or not self.candidate.supports(step, batch):
            self.missed, self.in_window = self.missed + 1, 0
            if self.missed > FIRST + TIMED:
                self.drop(step, batch, self.candidate.why or "batches have many shapes")
            return step(batch)
        return self.trial(step, batch)

    def trial(self, step: StepRunner, batch: Batch) -> StepOutput:
        """Run a step and time it, alone or with those after it up to the end of a window."""
        if self.run.step == 0:  # between two passes there is more than steps
            self.in_window = 0
        if not self.in_window:
            self.began = self.now(step)
        # steps that one call computed are timed together
        computes = not self.candidate.pending
        output = self.candidate(step, batch)
        if self.untried is None and not self.times:
            self.options = constant_options(step.optimizer)
        self.in_window += self.candidate.at_once if computes else 0
        window, first, timed = self.windows(step)
        if self.in_window >= window and not self.candidate.pending:
            self.times.append((self.now(step) - self.began) / self.in_window)
            self.in_window = 0
            if len(self.times) == first + timed:
                self.judge(step, batch, statistics.median(self.times[first:]))
        return output

    def windows(self, step: StepRunner) -> tuple[int, int, int]:
        """Return the steps of a window, and how many windows warm up and how many are timed."""
        if not is_ahead(step.accelerator.device):
            return 1, FIRST, TIMED
        return min(WINDOW, self.run.steps or WINDOW), 1, WINDOWS

    def now(self, step: StepRunner) -> float:
        """Wait for the device to finish its work, and return the time."""
        if step.accelerator.device.type != "cpu":
            torch.accelerator.synchronize(step.accelerator.device)
        return time.perf_counter()

    def judge(self, step: StepRunner, batch: Batch, took: float) -> None:
        """Keep the candidate in trial if it is faster, and go on to the next candidate."""
        if self.untried is None:
            self.best, self.report = took, [f"plain {readable(took)}"]
            self.untried = candidates_for(took, ahead=is_ahead(step.accelerator.device))
            if self.strategy.splits_batches:
                self.untried, self.report = [], ["several processes"]
            self.next_candidate(step, batch)
            return
        self.found[self.candidate.name] = took / self.best
        if took < BETTER * self.best:
            self.best = took
            self.kept.append(self.candidate)
            if isinstance(self.candidate, CompiledTrainStep):  # which has all of the net in it
                ahead = is_ahead(step.accelerator.device)
                self.untried = [CompiledMultiStep if ahead else RepeatedStep]
            self.report.append(f"{self.candidate.name} {readable(took)}")
        else:
            self.drop(step, batch, f"{self.candidate.name} {readable(took)}")
            return
        self.next_candidate(step, batch)

    def drop(self, step: StepRunner, batch: Batch, why: str) -> None:
        """Undo the candidate in trial, and go on to the next candidate."""
        self.candidate.end()
        self.candidate = self.kept[-1] if self.kept else Candidate()
        self.report.append(why)
        self.next_candidate(step, batch)

    def next_candidate(self, step: StepRunner, batch: Batch) -> None:
        """Build the next candidate that is supported and may pay; without one, note the choice."""
        self.times, self.in_window, self.missed = [], 0, 0
        while self.untried:
            kind: Any = self.untried.pop(0)
            why = kind.unsupported_reason(step, batch, self) or self.cannot_pay(kind, step, batch)
            if why is None:
                try:
                    with self.cache_for(step, batch).used():
                        self.candidate = kind(step, batch, self)
                    return
                except Unfit as error:
                    why = f"{kind.name}: a graph does not go with {error}"
                except OtherNumbers:
                    why = f"{kind.name}: its graph computes other numbers than plain steps"
                except Exception as error:  # code that the compiler does not support
                    why = f"{kind.name}: this net could not be compiled ({described(error)})"
                    self.cache_for(step, batch).distrust()
            self.report.append(why)
        self.decided = True
        if self.cache is not None:
            self.cache.remember(self.found)
            self.run.notes.extend([self.cache.note] if self.cache.note else [])
        # several steps a graph are made of the graph of one
        names = [one.name for one, then in zip_longest(self.kept, self.kept[1:])
                 if not isinstance(then, (RepeatedStep, CompiledMultiStep))]
        chosen = " + ".join(names) or Candidate.name
        self.run.notes.append(f"fast: {chosen} ({', '.join(self.report)})")

    def cannot_pay(self, kind: type[Candidate], step: StepRunner, batch: Batch) -> str | None:
        """Return why a candidate is not worth trying: by the steps left, or an earlier run."""
        if not kind.compiles:
            return None
        run, left = self.run, 0
        if run.steps is not None:
            left = (run.config.epochs - run.epoch + 1) * run.steps - run.step
        price, kept = COMPILE_TIME * kind.compiles, min(COMPILE_TIME, KEPT_TIME)
        if self.best * left >= kept * WORTH and price > 0:
            before = self.cache_for(step, batch).verdicts().get(kind.name)
            if before is not None and before > SLOWER:
                # forgotten by and by: it may have been another program that took the time
                self.found[kind.name] = 1 + (before - 1) / 2
                return f"{kind.name} took {before:.1f} times as long in an earlier run"
            price = price if before is None else kept
        if run.steps is None or self.best * left < price * WORTH:
            return f"{kind.name}: too few steps are left to pay for compiling"
        return None

    def cache_for(self, step: StepRunner, batch: Batch) -> CompileCache:
        """Return the cache of compiled graphs, which is opened when it is first needed."""
        if self.cache is None:
            self.cache = CompileCache(step, batch)
        return self.cache

    def note_unsupported(self) -> None:
        """Note once why the chosen candidate does not run a step, other than its batch's shape."""
        run, why = self.run, self.candidate.why
        if why is not None and why not in self.reasons:
            self.reasons.add(why)
            where = f"epoch {run.epoch}, step {run.step + 1}"
            run.notes.append(f"fast: plain steps from {where}: {why}")

    def end(self) -> None:
        """Restore net and optimizer as they were before."""
        for one in [self.candidate, *self.kept]:
            one.end()


def candidates_for(took: float, *, ahead: bool) -> list[type[Candidate]]:
    """Return the candidates to try where a plain step takes so many seconds.

    On a CPU, launching is a large part of short steps only. On an accelerator any step may be short
    beside its launches, or long beside its arithmetic.
    """
    if ahead:
        return [ChannelsLast, CompiledTrainStep, CompiledNet]
    return [CompiledTrainStep] if took < SMALL else [ChannelsLast, CompiledNet]


def described(error: BaseException) -> str:
    """Return the name of an error of the compiler, and what is behind it.

    torch puts errors into others: a full disk is an InductorError, or what a C++ compiler printed.
    """
    behind = getattr(error, "inner_exception", None) or error.__cause__
    for one in (error, behind):
        said = one.strerror if isinstance(one, OSError) else next(
            (each for each in SYSTEM_ERRORS if each in str(one)), None)
        if said:
            return f"{type(error).__name__}: {said}"
    return ": ".join(type(one).__name__ for one in (error, behind) if one is not None)


def readable(seconds: float) -> str:
    """Return a duration as text, in microseconds or milliseconds."""
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"
