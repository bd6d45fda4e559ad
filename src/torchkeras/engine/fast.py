"""``speed="fast"``: the whole step as one graph where timing shows that it pays."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torchkeras.engine.run import Run
from torchkeras.engine.wholestep import WholeStep, fits, obstacle, still
from torchkeras.engine.words import StepOutput

COMPILE_TIME = 15.0  # seconds that a graph takes to build, as a guess before one is built
FIRST, TIMED = 3, 15  # steps that warm up, and steps that are timed
SMALL = 0.005  # seconds of a step in which launching can be a large part


@contextmanager
def piloted(run: Run) -> Iterator[None]:
    """For a run in fast mode: a pilot who chooses how steps are run."""
    run.pilot = Pilot(run) if run.config.speed == "fast" else None
    yield
    run.pilot = None


class Pilot:
    """Runs a few plain steps, builds a graph if the steps that remain can pay for it, and keeps what is faster."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.graph: WholeStep | None = None
        self.times: list[float] = []
        self.trial: list[float] = []
        self.seen = self.missed = 0
        self.decided = False

    def step(self, step: Any, batch: Any) -> StepOutput:
        """One training step, whichever way."""
        if self.decided:
            graph = self.graph
            return step(batch) if graph is None or not graph.takes(step, batch) else graph(step, batch)
        if self.graph is not None:
            return self.try_graph(step, batch)
        began = time.perf_counter()
        output = step(batch)
        self.seen += 1
        if self.seen == 1:
            self.options = still(step.optimizer)
        if self.seen > FIRST:
            self.times.append(time.perf_counter() - began)
        if len(self.times) == TIMED:
            self.consider(step, batch)
        return output

    def consider(self, step: Any, batch: Any) -> None:
        """After some plain steps: is a graph possible, and can it pay?"""
        why, plain, left = obstacle(step), statistics.median(self.times), self.steps_left()
        if why is None and self.options != still(step.optimizer):
            why = "a schedule that moves more than the learning rate"
        if why is None and not fits(batch):
            why = "batches that are not one tensor of features and one of labels"
        if why is not None:
            self.decide(f"plain steps: a graph does not go with {why}")
        elif left is None or plain * left < COMPILE_TIME * (4 if plain < SMALL else 10):
            self.decide("plain steps: too few are left to pay for compiling")
        else:
            self.build(step, batch)

    def build(self, step: Any, batch: Any) -> None:
        """Compile, with plain steps to fall back on."""
        began = time.perf_counter()
        try:
            self.graph = WholeStep(step, batch)
            self.graph.build(step, batch)
        except Exception as error:  # the compiler meets code that it cannot take, in many forms
            self.graph = None
            self.decide(f"plain steps: this net could not be compiled ({type(error).__name__})")
        self.spent = time.perf_counter() - began

    def try_graph(self, step: Any, batch: Any) -> StepOutput:
        """Time the graph, then keep the faster of both."""
        if self.graph is None or not self.graph.takes(step, batch):
            self.missed += 1
            if self.missed > FIRST + TIMED and not self.trial:
                self.graph = None
                self.decide("plain steps: batches have many shapes")
            return step(batch)
        began = time.perf_counter()
        output = self.graph(step, batch)
        self.trial.append(time.perf_counter() - began)
        if len(self.trial) == FIRST + TIMED:
            plain, whole = statistics.median(self.times), statistics.median(self.trial[FIRST:])
            times = f"{whole * 1e6:.0f} us a step as one graph, {plain * 1e6:.0f} us plain"
            if whole < 0.95 * plain:
                self.decide(f"{times}; compiled in {self.spent:.0f} s")
            else:
                self.graph = None
                self.decide(f"plain steps: {times}")
        return output

    def steps_left(self) -> int | None:
        """Training steps to the last epoch, where the data tells its length."""
        run = self.run
        return None if run.steps is None else (run.config.epochs - run.epoch + 1) * run.steps - run.step

    def decide(self, text: str) -> None:
        """Settle it, and say so."""
        self.decided = True
        self.run.notes.append(f"fast: {text}")
