"""Keeps the state of a run on disk, so that the same script goes on where it was stopped, whatever stopped it."""

from __future__ import annotations

import copy
import threading
import warnings
from typing import Any

from torch import nn

from torchkeras.checkpoint.best import Best
from torchkeras.checkpoint.caveats import inexact, unsaved_metrics
from torchkeras.checkpoint.metric_state import counted, put_counted
from torchkeras.checkpoint.restore import files
from torchkeras.checkpoint.run_state import put_whole, whole
from torchkeras.checkpoint.serialization import Packer
from torchkeras.checkpoint.state_schema import of_a_run
from torchkeras.checkpoint.store import Vault
from torchkeras.core.interval import When
from torchkeras.core.stop import PassEnded
from torchkeras.data import Batches
from torchkeras.engine import device
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.run import Keeps, Run
from torchkeras.engine.steps import put_own_state, sorted_out
from torchkeras.state.components import Components, components_of, shortened, unkept
from torchkeras.state.generators import drawn, put_drawn
from torchkeras.state.module_state import own_buffers, put_buffers
from torchkeras.weighting.averages import Means, number

ASK_EVERY = 16  # steps after which several processes ask the first one what the time is


class Keeper(Keeps):
    """Takes down the state of a run at the boundaries between steps, and writes it.

    At a boundary a step is counted, its listeners have heard of it, and the next batch is not read yet.
    """

    def __init__(self, model: Any, run: Run, callbacks: CallbackList, best: Best, train: Batches,
                 val: Batches | None, vault: Vault | None) -> None:
        self.model, self.run, self.best, self.vault = model, run, best, vault
        self.train, self.val = train, val
        self.sources = [one.source for one in (train, val) if one is not None]
        self.listeners = [one for one in callbacks.listeners if remembers(one)]
        self.when = When(run.config.save_every, run.trained)
        self.phase = "epoch"  # what a state of this moment would begin with: a whole epoch, or the rest of one
        self.epoch_runner: Any = None
        self.began: Any = None  # the generators, as this pass began
        self.here: tuple[int, Any, Any] | None = None  # step, generators and listeners at a boundary that is behind
        self.row: dict[str, float] = {}  # of the training pass, when it is over
        self.unsaved: list[str] = []  # why nothing is saved in mid-epoch
        self.groups: dict[str, dict[str, int]] = {}  # of each optimizer, before the run and before this epoch
        self.cut = False  # whether a stop was asked for at its end, so that the validation is left out
        self.saved: Any = None  # the state that the run goes on from
        self.stopped_inside = False  # whether it is put back once more when the epoch that was stopped has begun
        self.writer: threading.Thread | None = None
        self.failure: Exception | None = None
        self.told = [""]  # what was said of states that cannot be removed
        # a thread that writes while loader workers are forked could leave them with its locks
        self.aside = run.together.world == 1 and not any(getattr(one, "num_workers", 0) for one in self.sources)

    def begin_run(self, fresh: bool) -> None:
        """Find out what cannot be saved before any step; say what will not be exact.

        States of an earlier run that is not gone on with are replaced at once: nobody shall go on with them.
        """
        self.unsaved = unsaved_metrics(self.run.tools.metrics["train"])
        self.groups = self.groups or {"run": counts_of_groups(self.model), "epoch": counts_of_groups(self.model)}
        position = {"phase": "epoch", "epoch": 1, "step": 0, "row": {}}
        with self.run.tools.shards.taking():
            part = [self.own_part("epoch")]
            state = whole(self.model, self.run, self.best, self.train, self.val, position, part)
            packer = Packer(copy=False)
            packed = packer.pack({**state, "best": None, "history": None}, "the state of the run")
            if self.vault is not None:
                self.vault.check(packed, {"state.safetensors": packer.tensors})
        self.run.notes += [f"save_every: {text}" for text in (*self.unsaved, *inexact(self.train), *self.lost())]
        if fresh and self.vault is not None and self.vault.numbers():
            self.vault.forget = True
        if fresh and self.run.together.from_main(self.vault is not None and self.vault.forget):
            self.save("epoch", self.run.config.initial_epoch + 1)

    def lost(self) -> list[str]:
        """Say what a run that goes on will not find again, because it is in no state."""
        parts = components_of(self.model)
        names = unkept(parts)
        for step in self.run.step_runners.values():
            objects, _, lost = sorted_out(step, self.model, parts)
            modules = {f"StepRunner.{name}": one for name, one in objects.items() if isinstance(one, nn.Module)}
            names += lost + unkept(Components(modules, {}, {}, {}, []))
        if not names:
            return []
        return [f"not saved, so as built again when the run goes on: {shortened(names)}; make it a buffer, or keep it "
                "in an object with state_dict and load_state_dict"]

    # what the loop tells

    def fit_started(self) -> None:
        """Listeners have heard that the run starts; in one that goes on, what they changed is put back."""
        if self.saved is None:
            self.groups["epoch"] = counts_of_groups(self.model)
            return
        with self.run.tools.shards.putting(), of_a_run(self.saved["number"]):
            put_whole(self.model, self.run, self.best, self.saved, history=False, groups=self.groups.get("epoch"))
        self.put_own(self.own_of(self.saved))
        if not self.stopped_inside:
            self.saved.clear()  # lets go of the files

    def begin_pass(self, epoch_runner: Any) -> None:
        """A pass is about to start."""
        if self.run.stage == "train" and self.run.epoch > 0:
            self.epoch_runner, self.phase, self.here = epoch_runner, "train", None

    def begins(self) -> None:
        """A training pass begins, and nothing has been drawn for it."""
        self.began = drawn(self.train.source)

    def between(self) -> None:
        """A batch was given, and all is done with it, or it waits for others of its window."""
        run = self.run
        if not self.at_boundary():
            return
        if run.together.world > 1:
            self.here = run.step, drawn(*self.sources), self.remembered()
        if run.stop_reason is not None and self.ends_passes:
            self.save("train", run.epoch)
            raise PassEnded
        if self.due():
            self.save("train", run.epoch)

    def at_boundary(self) -> bool:
        """Whether all batches that were given are done with, and more are to come."""
        run = self.run
        return (self.phase == "train" and run.stage == "train" and self.follows and run.step == self.train.given
                and run.step != run.steps and not (run.pilot and run.pilot.way.waiting))

    @property
    def ends_passes(self) -> bool:
        """Whether the pass that runs ends here, at a boundary, when a stop was asked for."""
        return (self.phase == "train" and self.run.stage == "train" and self.follows
                and self.run.together.world == 1)

    @property
    def follows(self) -> bool:
        """Whether the numbers of a pass so far can be known: a user's own EpochRunner keeps them to itself."""
        return type(self.epoch_runner).__call__ is EpochRunner.__call__ and not self.unsaved

    def due(self) -> bool:
        """Whether it is time; of several processes, the first one's clock counts."""
        run = self.run
        if run.together.world == 1 or self.when.seconds is None:
            return self.when.due(run.trained)
        return run.trained % ASK_EVERY == 0 and bool(run.together.from_main(self.when.due(run.trained)))

    def row_of_training(self) -> dict[str, float] | None:
        """The numbers of the training pass, where it was done before the run was stopped."""
        if not self.stopped_inside or self.saved["position"]["phase"] != "validation":
            return None
        self.row = self.saved["position"]["row"]
        self.run.stage, self.phase = "train", "validation"
        self.put_back()
        self.run.history.record(self.row)
        return self.row

    def trained(self, row: dict[str, float]) -> None:
        """The training pass is over, and the validation has not begun."""
        self.phase, self.row = "validation", row
        self.here = self.run.step, drawn(*self.sources), self.remembered()
        self.cut = self.run.stop_reason is not None and self.val is not None and self.run.validates
        if self.cut:
            self.save("validation", self.run.epoch)

    def epoch_done(self) -> None:
        """An epoch is over."""
        run = self.run
        self.phase, self.here = "epoch", None
        self.groups["epoch"] = counts_of_groups(self.model)
        last = run.stop_reason is not None or run.epoch == run.config.epochs
        if not (run.diverged or self.cut) and run.epoch > 0 and (last or self.when.each_epoch or self.due()):
            self.save("epoch", run.epoch + 1)

    def stopped(self) -> None:
        """A pass was ended before its end."""
        run = self.run
        if run.diverged or self.phase == "epoch" or (self.phase == "train" and self.when.trained == run.trained):
            return
        if self.phase == "validation" or (self.here is not None and self.here[0] == run.step) or (
                run.together.world == 1 and self.follows and run.config.gradient_accumulation_steps == 1):
            self.save(self.phase, run.epoch)

    # writing

    def save(self, phase: str, epoch: int) -> None:
        """Take down the state of this moment, or of the boundary that is kept in ``here``, and write it."""
        run, step = self.run, self.run.step if phase == "train" else 0
        position = {"phase": phase, "epoch": epoch, "step": step, "row": self.row if phase == "validation" else {}}
        with run.tools.shards.taking():
            ranks = run.together.gather(self.own_part(phase))
            self.wait()
            content = None
            if self.vault is not None:
                state = whole(self.model, run, self.best, self.train, self.val, position, ranks)
                content = files({**state, "groups": self.groups}, self.vault)
        if self.vault is not None and content is not None:
            self.write(self.vault, *content)
        self.when.done(run.trained)

    def own_part(self, phase: str) -> dict[str, Any]:
        """What of several processes each has its own of."""
        now, memory = drawn(*self.sources), self.remembered()
        if phase == "validation" or (self.here is not None and phase == "train" and self.here[0] == self.run.step):
            _, now, memory = self.here or (0, now, memory)
        part = {"now": now, "began": self.began if phase == "train" else None, "callbacks": memory, "sums": None}
        if phase == "train":
            runner = self.epoch_runner
            part["sums"] = {"losses": kept_sums(runner.losses), "parts": kept_sums(runner.parts),
                            "counted": list(runner.counted),
                            "last": {name: number(name, value) for name, value in runner.last.items()},
                            "metrics": {name: counted(metric) for name, metric in runner.metrics_dict.items()}}
            part["buffers"] = [own_buffers(one) for one in self.model.learners()] if (
                self.run.together.world > 1) else []
        return part

    def remembered(self) -> list[Any]:
        """What the listeners that have a state say of it."""
        return [[type(one).__name__, copy.deepcopy(one.state_dict())] for one in self.listeners]

    def write(self, vault: Vault, *content: Any) -> None:
        """Write a state, beside the training where that is safe; an error is kept until somebody can be told."""
        def put_down() -> None:
            try:
                vault.write(*content)
            except Exception as error:
                self.failure = error

        self.writer = self.best.weights.reader = threading.Thread(target=put_down, name="torchkeras-keeper")
        self.writer.start()
        if not self.aside:
            self.wait()

    def wait(self) -> None:
        """Until what was being written is on the disk; if it could not be, say so and let the run go on."""
        if self.writer is not None:
            self.writer.join()
            self.writer = None
        failure, self.failure = self.failure, None
        if self.vault is not None and self.vault.stuck not in self.told:
            self.told.append(self.vault.stuck)
            self.run.notes.append(f"keep: {self.vault.stuck}: it is tried again when the next run begins")
        if failure is not None:
            text = f"the state of the run could not be saved ({type(failure).__name__}: {failure}); the run goes on"
            self.run.notes.append(f"save_every: {text}")
            warnings.warn(text, stacklevel=2)

    # going on

    def go_on(self, saved: dict[str, Any]) -> None:
        """Begin where the run was stopped: everything is put back now, and once more when its epoch has begun."""
        run, position = self.run, saved["position"]
        self.saved, self.epoch, self.stopped_inside = saved, position["epoch"], position["phase"] != "epoch"
        own = self.own_of(saved)
        self.groups = {name: dict(counts) for name, counts in saved["groups"].items()}
        with run.tools.shards.putting(), of_a_run(saved["number"]):
            put_whole(self.model, run, self.best, saved, groups=self.groups.get("run"))
        for (stage, _), step in run.step_runners.items():
            if (state := run.step_states.pop(stage, None)) is not None:
                put_own_state(step, self.model, state)
        inside = position["phase"] == "train"
        first = (lambda: put_drawn(own["began"], self.train.source)) if inside else rewinding(self.train.source)
        self.train.go_on(saved["data"]["train"], position["step"], first, self.put_back if inside else nothing)
        if self.val is not None and saved["data"]["val"] is not None:
            self.val.go_on(saved["data"]["val"], 0, rewinding(self.val.source), nothing)
        self.put_own(own)
        self.when.done(run.trained)
        for one in components_of(self.model).optimizers.values() if run.updates else ():
            one._opt_called = True  # else torch warns where only a validation is left of an epoch
        if run.monitor.exhausted:
            run.stop_reason = f"{run.monitor.name} without improvement in {run.monitor.misses} epoch, early stopping"

    def own_of(self, saved: dict[str, Any]) -> Any:
        """This process's part of a state; where there are more processes than there were, the first one's."""
        ranks = saved["ranks"]
        return ranks[self.run.together.rank if len(ranks) == self.run.together.world else 0]

    def put_own(self, own: Any) -> None:
        """Put back generators and listeners; a process that was not there keeps a stream of its own."""
        if len(self.saved["ranks"]) == self.run.together.world or self.run.together.main:
            put_drawn(own["now"], *self.sources)
        left = list(own["callbacks"])
        for listener in self.listeners:  # in their order among those of their kind: others may have come or gone
            place = next((place for place, (kind, _) in enumerate(left) if kind == type(listener).__name__), None)
            if place is not None:
                listener.load_state_dict(copy.deepcopy(left.pop(place)[1]))

    def put_back(self) -> None:
        """The epoch that was stopped has begun again, and its data is where it was: so is everything else."""
        run, own = self.run, self.own_of(self.saved)
        self.stopped_inside = False
        with run.tools.shards.putting(), of_a_run(self.saved["number"]):
            put_whole(self.model, run, self.best, self.saved, history=False)
            self.put_buffers(own.get("buffers") or [])
        self.put_own(own)
        run.step = self.saved["position"]["step"]
        device.place_in_pass(run.accelerator, run.step)
        if own["sums"] is not None:
            self.put_sums(own)
        self.saved.clear()

    def put_sums(self, own: Any) -> None:
        """Put back what this pass has counted."""
        sums, runner = own["sums"], self.epoch_runner
        put_sums_of(runner.losses, sums["losses"] if "losses" in sums else older_sums(sums))
        put_sums_of(runner.parts, sums.get("parts", {}))
        runner.counted, runner.last = list(sums["counted"]), dict(sums["last"])
        for name, metric in runner.metrics_dict.items():
            put_counted(metric, sums["metrics"][name])

    def put_buffers(self, saved: Any) -> None:
        """Put back this process's own buffers; older states have those of the net only."""
        for module, buffers in zip(self.model.learners(), [saved] if isinstance(saved, dict) else saved, strict=False):
            put_buffers(module, buffers)


def kept_sums(means: Means) -> dict[str, Any]:
    """Return what has been added up of some numbers, to be saved."""
    means.flush()
    return {"totals": dict(means.totals), "sums": dict(means.sums_of), "weights": dict(means.weights),
            "shares": dict(means.shares), "done": means.done}


def put_sums_of(means: Means, sums: dict[str, Any]) -> None:
    """Put back what :func:`kept_sums` gave."""
    means.totals, means.weights = dict(sums.get("totals", {})), dict(sums.get("weights", {}))
    means.sums_of = dict(sums.get("sums", sums.get("totals", {})))
    means.shares, means.done = dict(sums.get("shares", {})), sums.get("done", 0)


def older_sums(sums: dict[str, Any]) -> dict[str, Any]:
    """Return the sums of a state that was saved when all names of a pass had one weight."""
    return {"totals": sums["totals"], "weights": dict.fromkeys(sums["totals"], sums["weight"]), "done": sums["done"]}


def counts_of_groups(model: Any) -> dict[str, int]:
    """Return how many parameter groups each optimizer has: callbacks add some."""
    return {name: len(one.param_groups) for name, one in components_of(model).optimizers.items()}


def remembers(listener: Any) -> bool:
    """Whether a listener has a state that it can say and take."""
    return callable(getattr(listener, "state_dict", None)) and callable(getattr(listener, "load_state_dict", None))


def rewinding(source: Any) -> Any:
    """A function that takes down where the generators are, and when it is called again puts them back there."""
    moments: list[Any] = []

    def rewind() -> None:
        if moments:
            put_drawn(moments[0], source)
        else:
            moments.append(drawn(source))

    return rewind


def nothing() -> None:
    """What is put back where an epoch begins."""
