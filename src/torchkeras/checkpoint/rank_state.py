"""Collect and load one rank's part of a saved state: random numbers, callbacks, sums, buffers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torchkeras.checkpoint.metric_state import load_metric_state_dict, metric_state_dict
from torchkeras.core.types import State, Value
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.run import Run
from torchkeras.engine.trainable import Trainable
from torchkeras.state.components import is_stateful
from torchkeras.state.generators import rng_state, set_rng_state
from torchkeras.state.module_state import all_buffers, set_buffers
from torchkeras.weighting.averages import AverageMeter, number


class RankState:
    """What each of several processes has of its own, and one process too.

    Args:
        model: the model in training.
        run: its run.
        callbacks: those of this process; what has ``state_dict`` and ``load_state_dict`` counts.
    """

    def __init__(self, model: Trainable, run: Run, callbacks: CallbackList) -> None:
        self.model, self.run = model, run
        self.sources = [one.source for one in run.data.given()]
        self.listeners: list[Any] = [one for one in callbacks.listeners if is_stateful(one)]
        self.epoch_runner: Any = None  # of the training pass: EpochRunner or the user's own
        self.rng_at_pass_start: State | None = None
        # step, random state and callback states at the last boundary of the training pass
        self.last_boundary: tuple[int, State, list[Value]] | None = None

    def begin_pass(self, epoch_runner: Any) -> None:
        """Note the runner of a training pass that is about to start."""
        self.epoch_runner, self.last_boundary = epoch_runner, None

    def note_boundary(self) -> None:
        """Keep what a state of this moment needs, since a later step may be cut short."""
        self.last_boundary = self.run.step, rng_state(*self.sources), self.callback_states()

    def at_boundary(self) -> bool:
        """Tell whether nothing was done since the last boundary."""
        return self.last_boundary is not None and self.last_boundary[0] == self.run.step

    def callback_states(self) -> list[Value]:
        """Return the class name and the state of each callback that has a state."""
        return [[type(one).__name__, copy.deepcopy(one.state_dict())] for one in self.listeners]

    def collect(self, phase: str) -> State:
        """Return this rank's part of the state of this moment, or of the last boundary."""
        now, callbacks = rng_state(*self.sources), self.callback_states()
        if self.last_boundary is not None and (
                phase == "validation" or (phase == "train" and self.at_boundary())):
            _, now, callbacks = self.last_boundary
        part = {"now": now, "began": self.rng_at_pass_start if phase == "train" else None,
                "callbacks": callbacks, "sums": None}
        if phase == "train":
            part["sums"] = self.sums()
            part["buffers"] = [all_buffers(one) for one in self.model.learners()] if (
                self.run.strategy.splits_batches) else []
        return part

    def sums(self) -> State:
        """Return the losses and metrics that the training pass has added up."""
        runner = self.epoch_runner
        return {"losses": meter_state(runner.losses), "parts": meter_state(runner.parts),
                "counted": list(runner.counted),
                "last": {name: number(name, value) for name, value in runner.last.items()},
                "metrics": {name: metric_state_dict(metric)
                            for name, metric in runner.metrics_dict.items()}}

    def own_part(self, saved: State) -> State:
        """Return this rank's part of a state; the main process's if the world size changed."""
        ranks: list[State] = saved["ranks"]
        return ranks[self.run.communicator.rank if self.is_as_many(saved) else 0]

    def is_as_many(self, saved: State) -> bool:
        """Tell whether a state was saved by as many processes as there are now."""
        return len(saved["ranks"]) == self.run.communicator.world_size

    def load(self, saved: State) -> None:
        """Load random state and callbacks; a new rank keeps its own random numbers."""
        own = self.own_part(saved)
        if self.is_as_many(saved) or self.run.communicator.is_main_process:
            set_rng_state(own["now"], *self.sources)
        left = list(own["callbacks"])
        for one in self.listeners:  # by class and order: other callbacks may have come or gone
            kind = type(one).__name__
            place = next((place for place, (name, _) in enumerate(left) if name == kind), None)
            if place is not None:
                one.load_state_dict(copy.deepcopy(left.pop(place)[1]))

    def load_sums(self, saved: State) -> None:
        """Load the losses and metrics that the interrupted pass had added up, if it had."""
        sums, runner = self.own_part(saved)["sums"], self.epoch_runner
        if sums is None:
            return
        load_meter_state(runner.losses, sums["losses"] if "losses" in sums else upgraded_sums(sums))
        load_meter_state(runner.parts, sums.get("parts", {}))
        runner.counted[:], runner.last = sums["counted"], dict(sums["last"])
        for name, metric in runner.metrics_dict.items():
            load_metric_state_dict(metric, sums["metrics"][name])

    def load_buffers(self, saved: State) -> None:
        """Load this rank's buffers; older states have those of the net only."""
        found = self.own_part(saved).get("buffers") or []
        every = [found] if isinstance(found, dict) else found
        for module, buffers in zip(self.model.learners(), every, strict=False):
            set_buffers(module, buffers)


def meter_state(means: AverageMeter) -> State:
    """Return what an average meter has added up."""
    means.flush()
    return {"totals": dict(means.totals), "sums": dict(means.sums_of),
            "weights": dict(means.weights), "shares": dict(means.shares), "done": means.done}


def load_meter_state(means: AverageMeter, sums: Mapping[str, Value]) -> None:
    """Load what :func:`meter_state` returned."""
    means.totals, means.weights = dict(sums.get("totals", {})), dict(sums.get("weights", {}))
    means.sums_of = dict(sums.get("sums", sums.get("totals", {})))
    means.shares, means.done = dict(sums.get("shares", {})), sums.get("done", 0)


def upgraded_sums(sums: Mapping[str, Value]) -> State:
    """Return the sums of an older state, with a single weight for all names, in today's form."""
    return {"totals": sums["totals"], "weights": dict.fromkeys(sums["totals"], sums["weight"]),
            "done": sums["done"]}
