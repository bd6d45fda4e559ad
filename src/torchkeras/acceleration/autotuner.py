"""``speed="fast"``: time executors of the training step, and keep those that are faster."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from torchkeras.acceleration.compile_cache import CompileCache
from torchkeras.acceleration.executors import ChannelsLast, CompiledNet, EagerStep, shapes_of
from torchkeras.acceleration.multi_step_graph import CompiledMultiStep
from torchkeras.acceleration.repeated_step import RepeatedStep
from torchkeras.acceleration.step_graph import CompiledTrainStep
from torchkeras.acceleration.trial import OtherNumbers, Unfit
from torchkeras.acceleration.updates import constant_options
from torchkeras.core.types import Batch, Microbatch, Step, StepOutput
from torchkeras.data import Batches
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.executor import Eager
from torchkeras.engine.run import Run

if TYPE_CHECKING:
    from torchkeras.engine.step import StepRunner
    from torchkeras.engine.trainable import Trainable

COMPILE_TIME = 15.0  # seconds that compiling takes, as a guess before it is done
KEPT_TIME = 3.0  # the same for what an earlier run has compiled: it is traced, and compared
SLOWER = 1.25  # times the best before: an executor that took so long in an earlier run is skipped
FIRST, TIMED = 3, 15  # steps that warm up, and steps that are timed
SMALL = 0.005  # seconds of a step in which launching can be a large part
BETTER = 0.95  # of the best time so far; a smaller gain could be chance
WORTH = 4  # times the cost of compiling must be left to train: both cost and gain are guesses


@contextmanager
def piloted(run: Run, model: Trainable, callbacks: CallbackList, train: Batches) -> Iterator[None]:
    """Give a run in fast mode an autotuner of its training steps; undo its changes afterwards."""
    if run.config.speed != "fast":
        yield
        return
    benchmark = torch.backends.cudnn.benchmark
    tuner = run.executor = StepAutotuner(run, model, callbacks, train)
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        tuner.end()
        run.executor = Eager(run.strategy)


class StepAutotuner(Eager):
    """Time some eager steps, then some of each executor that may pay, and use the fastest."""

    def __init__(self, run: Run, model: Trainable, callbacks: CallbackList, data: Batches) -> None:
        super().__init__(run.strategy)
        self.run, self.model, self.callbacks, self.data = run, model, callbacks, data
        self.way: EagerStep = EagerStep()  # the executor in use, or in trial
        self.kept: list[EagerStep] = []  # faster than those before; undone at the end
        self.candidates: list[type[EagerStep]] | None = None
        self.best = 0.0  # seconds a step
        self.times: list[float] = []
        self.usual_shapes: list[Any] | None = None  # those of the first batch
        self.missed = 0  # batches of other shapes
        self.decided = False
        self.report: list[str] = []  # what was tried, for the note of the run
        self.cache: CompileCache | None = None
        self.found: dict[str, float] = {}  # how long a step took, over the best before, by executor
        self.reasons: set[str] = set()  # why steps were not run by the chosen executor

    @property
    def pending(self) -> bool:  # type: ignore[override]
        """Tell whether steps have been computed that were not returned yet."""
        return bool(self.way.pending)

    def execute(self, step: Step, batch: Batch, microbatch: Microbatch) -> StepOutput:
        """Run one training step by the executor in use; run padding eagerly."""
        if microbatch.padding:
            return super().execute(step, batch, microbatch)
        runner: Any = step  # of ours or the user's
        return self.step(runner, batch)

    def step(self, step: StepRunner, batch: Batch) -> StepOutput:
        """Run one training step by the executor in use."""
        if self.decided:
            if self.way.supports(batch):
                return self.way(step, batch)
            self.note_unsupported()
            return step(batch)
        if self.way.pending:
            return self.trial(step, batch)
        if self.usual_shapes is None:
            self.usual_shapes = shapes_of(batch)
        if shapes_of(batch) != self.usual_shapes or not self.way.supports(batch):
            self.missed += 1
            if self.missed > FIRST + TIMED:
                self.drop(step, batch, self.way.why or "batches have many shapes")
            return step(batch)
        return self.trial(step, batch)

    def trial(self, step: StepRunner, batch: Batch) -> StepOutput:
        """Run and time a step; steps that were computed by one call are timed together."""
        if not self.way.pending:
            self.began = self.now(step)
        output = self.way(step, batch)
        if self.candidates is None and not self.times:
            self.options = constant_options(step.optimizer)
        if not self.way.pending:
            self.times.append((self.now(step) - self.began) / self.way.at_once)
            if len(self.times) == FIRST + TIMED:
                self.judge(step, batch, statistics.median(self.times[FIRST:]))
        return output

    def now(self, step: StepRunner) -> float:
        """Wait for the device to finish its work, and return the time."""
        if step.accelerator.device.type != "cpu":
            torch.accelerator.synchronize(step.accelerator.device)
        return time.perf_counter()

    def judge(self, step: StepRunner, batch: Batch, took: float) -> None:
        """Keep the executor in trial if it is faster, and go on to the next candidate."""
        if self.candidates is None:
            self.best, self.report = took, [f"plain {readable(took)}"]
            self.candidates = [CompiledTrainStep] if took < SMALL else [ChannelsLast, CompiledNet]
            if self.strategy.divides_batches:
                self.candidates, self.report = [], ["several processes"]
            self.next_candidate(step, batch)
            return
        self.found[self.way.name] = took / self.best
        if took < BETTER * self.best:
            self.best = took
            self.kept.append(self.way)
            if isinstance(self.way, CompiledTrainStep):
                on_cpu = step.accelerator.device.type == "cpu"
                self.candidates.append(RepeatedStep if on_cpu else CompiledMultiStep)
            self.report.append(f"{self.way.name} {readable(took)}")
        else:
            self.drop(step, batch, f"{self.way.name} {readable(took)}")
            return
        self.next_candidate(step, batch)

    def drop(self, step: StepRunner, batch: Batch, why: str) -> None:
        """Undo the executor in trial, and go on to the next candidate."""
        self.way.end()
        self.way = self.kept[-1] if self.kept else EagerStep()
        self.report.append(why)
        self.next_candidate(step, batch)

    def next_candidate(self, step: StepRunner, batch: Batch) -> None:
        """Build the next candidate that is supported and may pay; without one, note the choice."""
        self.times, self.missed = [], 0
        while self.candidates:
            kind: Any = self.candidates.pop(0)
            why = kind.unsupported_reason(step, batch, self) or self.cannot_pay(kind, step, batch)
            if why is None:
                try:
                    with self.cache_for(step, batch).used():
                        self.way = kind(step, batch, self)
                    return
                except Unfit as error:
                    why = f"{kind.name}: a graph does not go with {error}"
                except OtherNumbers:
                    why = f"{kind.name}: its graph computes other numbers than plain steps"
                except Exception as error:  # code that the compiler does not support
                    found = type(error).__name__
                    why = f"{kind.name}: this net could not be compiled ({found})"
            self.report.append(why)
        self.decided = True
        if self.cache is not None:
            self.cache.remember(self.found)
            self.run.notes.extend([self.cache.note] if self.cache.note else [])
        names = [way.name for way in self.kept]
        chosen = " + ".join(names) or EagerStep.name
        if CompiledTrainStep.name in names:
            chosen = names[-1]
        self.run.notes.append(f"fast: {chosen} ({', '.join(self.report)})")

    def cannot_pay(self, kind: type[EagerStep], step: StepRunner, batch: Batch) -> str | None:
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
        """Note once why the chosen executor does not run a step, unless it is the batch's shape."""
        run, why = self.run, self.way.why
        if why is not None and why not in self.reasons:
            self.reasons.add(why)
            where = f"epoch {run.epoch}, step {run.step + 1}"
            run.notes.append(f"fast: plain steps from {where}: {why}")

    def end(self) -> None:
        """Restore net and optimizer as they were before."""
        for way in [self.way, *self.kept]:
            way.end()


def readable(seconds: float) -> str:
    """Return a duration as text, in microseconds or milliseconds."""
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"
