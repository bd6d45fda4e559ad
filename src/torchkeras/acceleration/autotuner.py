"""``speed="fast"``: what may be faster is tried, timed against what there is, and kept only if it is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from torchkeras.acceleration.executors import ChannelsLast, CompiledNet, Plain, shapes_of
from torchkeras.acceleration.multi_step_graph import WholeBlock
from torchkeras.acceleration.step_graph import WholeStep
from torchkeras.acceleration.trial import OtherNumbers, Unfit
from torchkeras.acceleration.updates import still
from torchkeras.core.types import StepOutput
from torchkeras.data import Batches
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.run import Run

COMPILE_TIME = 15.0  # seconds that compiling takes, as a guess before it is done
FIRST, TIMED = 3, 15  # steps that warm up, and steps that are timed
SMALL = 0.005  # seconds of a step in which launching can be a large part
BETTER = 0.95  # of the time there is; less than that could be chance
WORTH = 4  # times the cost must be left to train: the guess of the cost may be wrong, and of the gain too


@contextmanager
def piloted(run: Run, model: Any, callbacks: CallbackList, train: Batches) -> Iterator[None]:
    """For a run in fast mode: a pilot who chooses how training steps are run."""
    if run.config.speed != "fast":
        yield
        return
    benchmark = torch.backends.cudnn.benchmark
    run.pilot = Pilot(run, model, callbacks, train)
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = benchmark
        run.pilot.end()
        run.pilot = None


class Pilot:
    """Times some steps as they are, then some in each other way that may pay, and goes on in the fastest."""

    def __init__(self, run: Run, model: Any, callbacks: CallbackList, data: Batches) -> None:
        self.run, self.model, self.callbacks, self.data = run, model, callbacks, data
        self.way: Plain = Plain()
        self.kept: list[Plain] = []  # the ways that were faster than those before, to be undone in the end
        self.candidates: list[type[Plain]] | None = None
        self.best = 0.0  # seconds a step
        self.times: list[float] = []
        self.usual: list[Any] | None = None  # the shapes of the first batch
        self.missed = 0  # batches of other shapes
        self.decided = False
        self.told: list[str] = []
        self.reasons: set[str] = set()  # why steps were not run in the way that was chosen

    def step(self, step: Any, batch: Any) -> StepOutput:
        """One training step, whichever way."""
        if self.decided:
            if self.way.takes(batch):
                return self.way(step, batch)
            self.tell_why()
            return step(batch)
        if self.way.waiting:
            return self.trial(step, batch)
        if self.usual is None:
            self.usual = shapes_of(batch)
        if shapes_of(batch) != self.usual or not self.way.takes(batch):
            self.missed += 1
            if self.missed > FIRST + TIMED:
                self.drop(step, batch, self.way.why or "batches have many shapes")
            return step(batch)
        return self.trial(step, batch)

    def trial(self, step: Any, batch: Any) -> StepOutput:
        """A step of those that are timed; of several that are computed together, all of them at once."""
        if not self.way.waiting:
            self.began = self.now(step)
        output = self.way(step, batch)
        if self.candidates is None and not self.times:
            self.options = still(step.optimizer)
        if not self.way.waiting:
            self.times.append((self.now(step) - self.began) / self.way.at_once)
            if len(self.times) == FIRST + TIMED:
                self.judge(step, batch, statistics.median(self.times[FIRST:]))
        return output

    def now(self, step: Any) -> float:
        """Return the time at which the device has done all that it was given."""
        if step.accelerator.device.type != "cpu":
            torch.accelerator.synchronize(step.accelerator.device)
        return time.perf_counter()

    def judge(self, step: Any, batch: Any, took: float) -> None:
        """Keep the way that was tried if it is faster, and go on to the next."""
        if self.candidates is None:
            self.best, self.told = took, [f"plain {written(took)}"]
            self.candidates = [WholeStep] if took < SMALL else [ChannelsLast, CompiledNet]
            if step.together.world > 1:
                self.candidates, self.told = [], ["several processes"]
        elif took < BETTER * self.best:
            self.best = took
            self.kept.append(self.way)
            if isinstance(self.way, WholeStep):
                self.candidates.append(WholeBlock)
            self.told.append(f"{self.way.name} {written(took)}")
        else:
            self.drop(step, batch, f"{self.way.name} {written(took)}")
            return
        self.next_way(step, batch)

    def drop(self, step: Any, batch: Any, why: str) -> None:
        """Undo the way in trial, and go on to the next."""
        self.way.end()
        self.way = self.kept[-1] if self.kept else Plain()
        self.told.append(why)
        self.next_way(step, batch)

    def next_way(self, step: Any, batch: Any) -> None:
        """Begin with the next candidate that can be built and may pay; with none left, say what was chosen."""
        self.times, self.missed = [], 0
        while self.candidates:
            kind: Any = self.candidates.pop(0)
            why = kind.obstacle(step, batch, self) or self.cannot_pay(kind)
            if why is None:
                try:
                    self.way = kind(step, batch, self)
                    return
                except Unfit as error:
                    why = f"{kind.name}: a graph does not go with {error}"
                except OtherNumbers:
                    why = f"{kind.name}: its graph computes other numbers than plain steps"
                except Exception as error:  # the compiler meets code that it cannot take, in many forms
                    why = f"{kind.name}: this net could not be compiled ({type(error).__name__})"
            self.told.append(why)
        self.decided = True
        names = [way.name for way in self.kept]
        chosen = names[-1] if WholeStep.name in names else " + ".join(names) or Plain.name
        self.run.notes.append(f"fast: {chosen} ({', '.join(self.told)})")

    def cannot_pay(self, kind: Any) -> str | None:
        """Why a way is not worth trying, by the steps that are left."""
        run = self.run
        left = None if run.steps is None else (run.config.epochs - run.epoch + 1) * run.steps - run.step
        if kind.compiles and (left is None or self.best * left < COMPILE_TIME * kind.compiles * WORTH):
            return f"{kind.name}: too few steps are left to pay for compiling"
        return None

    def tell_why(self) -> None:
        """Note once why steps are not run in the way that was chosen, but for the shapes of their batches."""
        run, why = self.run, self.way.why
        if why is not None and why not in self.reasons:
            self.reasons.add(why)
            run.notes.append(f"fast: plain steps from epoch {run.epoch}, step {run.step + 1}: {why}")

    def end(self) -> None:
        """Leave net and optimizer as they were before."""
        for way in [self.way, *self.kept]:
            way.end()


def written(seconds: float) -> str:
    """A time to be read."""
    return f"{seconds * 1e6:.0f} us" if seconds < 1e-3 else f"{seconds * 1e3:.1f} ms"
