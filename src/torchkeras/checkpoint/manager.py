"""Save the state of a run so that the same script resumes it, whatever stopped it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from torchkeras.checkpoint.background_writer import BackgroundWriter
from torchkeras.checkpoint.best import Best
from torchkeras.checkpoint.caveats import inexact_data, unsaved_metrics
from torchkeras.checkpoint.rank_state import RankState
from torchkeras.checkpoint.restore import encode_state
from torchkeras.checkpoint.run_state import load_run_state_dict, run_state_dict
from torchkeras.checkpoint.serialization import TensorJSONEncoder
from torchkeras.checkpoint.state_schema import refuse_misfit
from torchkeras.checkpoint.step_state import put_own_state, sorted_out
from torchkeras.checkpoint.store import CheckpointStore
from torchkeras.core import device, internals
from torchkeras.core.interval import SaveInterval
from torchkeras.core.stop import PassEnded
from torchkeras.core.types import Row, Source, State, Step
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.checkpointing import NoCheckpoint
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.run import Run
from torchkeras.engine.trainable import Trainable
from torchkeras.state.components import Components, abbreviated, components_of, unsaved_names
from torchkeras.state.generators import rng_state, set_rng_state

CLOCK_EVERY = 16  # steps after which all ranks use the clock of the main process


class CheckpointManager(NoCheckpoint):
    """Saves the state of a run at the boundaries between steps.

    At a boundary the last step is counted, callbacks have been called, and the next batch has not
    been read.
    """

    def __init__(self, model: Trainable, run: Run, callbacks: CallbackList, best: Best,
                 store: CheckpointStore | None) -> None:
        self.model, self.run, self.best, self.store = model, run, best, store
        self.train, self.val = run.data
        self.rank_state = RankState(model, run, callbacks)
        self.writer = None if store is None else BackgroundWriter(run, store)
        self.when = SaveInterval(run.config.save_every, run.global_step)
        self.phase = "epoch"  # where a state saved now resumes: epoch start, train or validation
        self.row: Row = {}  # of the training pass, once it is over
        self.unsaved: list[str] = []  # why nothing is saved in mid-epoch
        # parameter groups of each optimizer, before the run and before this epoch
        self.groups: dict[str, dict[str, int]] = {}
        self.stop_before_validation = False  # a stop was requested as the training pass ended
        self.saved: Any = None  # the state that the run resumes from
        self.stopped_inside = False  # whether it is loaded again once its epoch has begun

    def begin_run(self, fresh: bool) -> None:
        """Check before the first step that a state can be saved; note what will not be exact.

        Earlier states of a run that is not resumed are replaced at once: nobody may resume them.
        """
        self.unsaved = unsaved_metrics(self.run.objects.metrics["train"])
        self.groups = self.groups or {
            "run": count_param_groups(self.model), "epoch": count_param_groups(self.model)}
        position = {"phase": "epoch", "epoch": 1, "step": 0, "row": {}}
        with self.run.strategy.taking():
            part = [self.rank_state.collect("epoch")]
            state = run_state_dict(
                self.model, self.run, self.best, position, part)
            encoder = TensorJSONEncoder(copy=False)
            packed = encoder.pack({**state, "best": None, "history": None}, "the state of the run")
            if self.store is not None:
                self.store.check(packed, {"state.safetensors": encoder.tensors})
        texts = (*self.unsaved, *inexact_data(self.train), *self.not_restored())
        self.run.notes += [f"save_every: {text}" for text in texts]
        if fresh and self.store is not None and self.store.numbers():
            self.store.replaces_earlier = True
        replaces = self.store is not None and self.store.replaces_earlier
        if fresh and self.run.communicator.broadcast(replaces):
            self.save("epoch", self.run.config.initial_epoch + 1)

    def not_restored(self) -> list[str]:
        """Return a note on values that a resumed run will not have, as no state holds them."""
        parts = components_of(self.model)
        names = unsaved_names(parts)
        for step in self.run.step_runners.values():
            objects, _, lost = sorted_out(step, self.model, parts)
            modules = {f"StepRunner.{name}": one for name, one in objects.items()
                       if isinstance(one, nn.Module)}
            names += lost + unsaved_names(Components(modules, {}, {}, {}, []))
        if not names:
            return []
        return [f"not saved, so as built again when the run goes on: {abbreviated(names)}; make it "
                "a buffer, or keep it in an object with state_dict and load_state_dict"]

    # called by the loop

    def fit_started(self) -> None:
        """Load the state again after ``on_fit_start``, which may have changed some of it."""
        if self.saved is None:
            self.groups["epoch"] = count_param_groups(self.model)
            return
        with self.run.strategy.putting(), refuse_misfit(self.saved["number"]):
            load_run_state_dict(self.model, self.run, self.best, self.saved, history=False,
                                groups=self.groups.get("epoch"))
        self.rank_state.load(self.saved)
        if not self.stopped_inside:
            self.saved.clear()  # releases the mapped files

    def pass_starts(self, epoch_runner: Any) -> None:
        """Note the runner of a training pass that is about to start."""
        if self.run.stage == "train" and self.run.epoch > 0:
            self.phase = "train"
            self.rank_state.begin_pass(epoch_runner)

    def data_starts(self) -> None:
        """Save the random state before a training pass draws anything."""
        self.rank_state.rng_at_pass_start = rng_state(self.train.source)

    def boundary(self) -> None:
        """Save if due between two batches; end the pass if a stop was requested."""
        run = self.run
        if not self.at_boundary():
            return
        if run.strategy.splits_batches:
            self.rank_state.note_boundary()
        if run.stop_reason is not None and self.stops_at_boundaries:
            self.save("train", run.epoch)
            raise PassEnded
        if self.due():
            self.save("train", run.epoch)

    def at_boundary(self) -> bool:
        """Return whether the batches read so far are done with, and more are to come."""
        run = self.run
        return (self.phase == "train" and run.stage == "train" and self.follows
                and run.step == self.train.num_yielded and run.step != run.steps
                and not run.executor.pending)

    @property
    def stops_at_boundaries(self) -> bool:  # type: ignore[override]
        """Return whether a stop request ends the current pass at a boundary."""
        return (self.phase == "train" and self.run.stage == "train" and self.follows
                and not self.run.strategy.splits_batches)

    @property
    def follows(self) -> bool:
        """Return whether a pass can be saved in the middle: not with a user's own EpochRunner."""
        runner: Any = type(self.rank_state.epoch_runner)
        return runner.__call__ is EpochRunner.__call__ and not self.unsaved

    def due(self) -> bool:
        """Return whether it is time to save, by the clock of the main process."""
        run = self.run
        if not run.strategy.splits_batches or self.when.seconds is None:
            return self.when.due(run.global_step)
        return run.global_step % CLOCK_EVERY == 0 and bool(
            run.communicator.broadcast(self.when.due(run.global_step)))

    def finished_pass(self) -> Row | None:
        """Return the row of the training pass if it was over before the run was stopped."""
        if not self.stopped_inside or self.saved["position"]["phase"] != "validation":
            return None
        self.row = self.saved["position"]["row"]
        self.run.stage, self.phase = "train", "validation"
        self.load_inside_pass()
        self.run.history.record(self.row)
        return self.row

    def trained(self, row: Row) -> None:
        """Note the row of a training pass that is over; save if a stop was requested."""
        self.phase, self.row = "validation", row
        self.rank_state.note_boundary()
        self.stop_before_validation = (
            self.run.stop_reason is not None and self.val is not None and self.run.validates)
        if self.stop_before_validation:
            self.save("validation", self.run.epoch)

    def epoch_end(self) -> None:
        """Save at the end of an epoch, if due."""
        run = self.run
        self.phase, self.rank_state.last_boundary = "epoch", None
        self.groups["epoch"] = count_param_groups(self.model)
        last = run.stop_reason is not None or run.epoch == run.config.epochs
        if not (run.diverged or self.stop_before_validation) and run.epoch > 0 and (
                last or self.when.each_epoch or self.due()):
            self.save("epoch", run.epoch + 1)

    def pass_cut_short(self) -> None:
        """Save after a pass that was interrupted, if that is a boundary."""
        run = self.run
        if run.diverged or self.phase == "epoch" or (
                self.phase == "train" and self.when.trained == run.global_step):
            return
        if self.phase == "validation" or self.rank_state.at_boundary() or (
                not run.strategy.splits_batches and self.follows
                and run.config.gradient_accumulation_steps == 1):
            self.save(self.phase, run.epoch)

    # writing

    def save(self, phase: str, epoch: int) -> None:
        """Collect the state of this moment, or of ``last_boundary``, and write it."""
        run, step = self.run, self.run.step if phase == "train" else 0
        position = {"phase": phase, "epoch": epoch, "step": step,
                    "row": self.row if phase == "validation" else {}}
        with run.strategy.taking():
            own = self.rank_state.collect(phase)  # which reads the losses so far
            ranks = run.communicator.all_gather(own)
            self.wait()
            request = run.communicator.request
            if any(run.communicator.all_gather(request is not None and request.diverged)):
                return  # the weights and moments of this moment are worth nothing
            content = None
            if self.store is not None:
                state = run_state_dict(
                    self.model, run, self.best, position, ranks)
                content = encode_state({**state, "groups": self.groups}, self.store)
        if self.writer is not None and content is not None:
            self.best.weights.reader = self.writer.write(*content)
            if not self.writer.beside_training:
                self.wait()
        self.when.done(run.global_step)

    def wait(self) -> None:
        """Wait until the state that is being written is on the disk."""
        if self.writer is not None:
            self.writer.wait()

    # resuming

    def resume_from(self, saved: State) -> None:
        """Load a state; what the start of its epoch changes is loaded again after that."""
        run, position = self.run, saved["position"]
        self.saved, self.resumes_at = saved, position["epoch"]
        self.stopped_inside = position["phase"] != "epoch"
        self.groups = {name: dict(counts) for name, counts in saved["groups"].items()}
        with run.strategy.putting(), refuse_misfit(saved["number"]):
            load_run_state_dict(self.model, run, self.best, saved, groups=self.groups.get("run"))
        for (stage, _), step in run.step_runners.items():
            if (state := run.step_states.pop(stage, None)) is not None:
                put_own_state(step, self.model, state)
        self.place_data(saved)
        self.rank_state.load(saved)
        self.when.done(run.global_step)
        optimizers = components_of(self.model).optimizers if run.optimizer_steps else {}
        for one in optimizers.values():
            internals.mark_stepped(one)  # perhaps only the validation of an epoch is left
        if run.monitor.should_stop:
            run.stop_reason = (f"{run.monitor.name} without improvement in "
                               f"{run.monitor.num_bad_epochs} epoch, early stopping")

    def place_data(self, saved: State) -> None:
        """Tell the data where its first pass resumes."""
        own = self.rank_state.own_part(saved)
        step, inside = saved["position"]["step"], saved["position"]["phase"] == "train"
        data = saved["data"]
        first = ((lambda: set_rng_state(own["began"], self.train.source)) if inside
                 else rng_rewinder(self.train.source))
        self.train.resume_at(
            data["train"], step, first, self.load_inside_pass if inside else restore_nothing)
        if self.val is not None and data["val"] is not None:
            self.val.resume_at(data["val"], 0, rng_rewinder(self.val.source), restore_nothing)

    def step_built(self, step: Step, stage: str) -> None:
        """Load what an interrupted run's step kept for itself into one that was just built."""
        if (state := self.run.step_states.pop(stage, None)) is not None:
            put_own_state(step, self.model, state)

    def load_inside_pass(self) -> None:
        """Load the state again in mid-epoch, once the data has reached the saved position."""
        run = self.run
        self.stopped_inside = False
        with run.strategy.putting(), refuse_misfit(self.saved["number"]):
            load_run_state_dict(self.model, run, self.best, self.saved, history=False)
            self.rank_state.load_buffers(self.saved)
        self.rank_state.load(self.saved)
        run.step = self.saved["position"]["step"]
        device.set_accumulation_step(run.accelerator, run.step)
        self.rank_state.load_sums(self.saved)
        self.saved.clear()

def count_param_groups(model: Trainable) -> dict[str, int]:
    """Return how many parameter groups each optimizer has: callbacks may add some."""
    optimizers = components_of(model).optimizers
    return {name: len(one.param_groups) for name, one in optimizers.items()}


def rng_rewinder(source: Source) -> Callable[[], None]:
    """Return a function that saves the random state, and when called again restores it."""
    moments: list[State] = []

    def rewind() -> None:
        if moments:
            set_rng_state(moments[0], source)
        else:
            moments.append(rng_state(source))

    return rewind


def restore_nothing() -> None:
    """Do nothing: an epoch that is resumed at its start needs no second load."""
