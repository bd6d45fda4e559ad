"""Hold the state of one call of ``fit``, as listeners see it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from torchkeras.core.communicator import Communicator
from torchkeras.core.interval import is_due
from torchkeras.core.stop import Request
from torchkeras.core.types import Logs, Row, Stage
from torchkeras.data.fit_data import NO_DATA, FitData
from torchkeras.engine.checkpointing import NoCheckpoint
from torchkeras.engine.config import FitConfig
from torchkeras.engine.executor import Eager
from torchkeras.engine.history import History
from torchkeras.engine.monitor import Monitor
from torchkeras.engine.strategy import SingleProcess
from torchkeras.weighting.denominator import LossFacts

if TYPE_CHECKING:
    from accelerate import Accelerator

    from torchkeras.data import Batches


def nothing(*_: object) -> None:
    """Do nothing."""


class TrainingObjects(NamedTuple):
    """The objects that the steps of a run get besides net and loss."""

    metrics: dict[str, dict[str, Any]]  # by stage, so that measuring in mid-epoch disturbs nothing
    optimizer: Any = None
    step_scheduler: Any = None  # moves with every update
    epoch_scheduler: Any = None  # moves with every epoch
    given_scheduler: Any = None  # for steps: moves with every update, or a user's step moves it
    own_step: bool = False  # whether the user's own step may say when a schedule moves
    own_schedule: bool = False  # whether it does, by its code


@dataclass
class Run:
    """One call of ``fit``. The loop writes it; users read it, and may call :meth:`stop`."""

    config: FitConfig
    accelerator: Accelerator
    monitor: Monitor
    objects: TrainingObjects
    data: FitData = field(default=NO_DATA, repr=False)
    strategy: SingleProcess = field(default_factory=SingleProcess)  # where it is computed
    checkpointer: NoCheckpoint = field(default_factory=NoCheckpoint)  # what is saved, and when
    executor: Any = None  # how a training step is executed
    history: History = field(default_factory=History)
    facts: dict[str, LossFacts] = field(
        default_factory=lambda: {"train": LossFacts(), "val": LossFacts()})
    notes: list[str] = field(default_factory=list)  # for the reader, before the first epoch
    stage: Stage = "train"
    epoch: int = 0  # the epoch that is running, counted from 1
    step: int = 0  # batches done in this pass
    steps: int | None = None  # batches in this pass, where the data knows
    global_step: int = 0  # training batches done in the whole run
    optimizer_steps: int = 0  # optimizer updates done in the whole run
    logs: Logs = field(default_factory=dict)  # what the last step gave back, still on the device
    stop_reason: str | None = None
    interrupted: bool = False  # by Ctrl-C
    diverged: bool = False  # a loss was not finite, so the weights of this moment are worth nothing
    judged_anew: bool = False  # whether a resumed run is judged by other numbers than before
    moved_by_step: list[Any] = field(default_factory=list)  # epoch schedules moved by a user's step
    places: dict[Any, Any] | None = None  # of a user's step's schedules, as this pass began
    step_runners: dict[tuple[Stage, bool], Any] = field(default_factory=dict)  # by stage, learning
    step_states: dict[str, Any] = field(default_factory=dict)  # of resumed steps, not built yet
    before_training: Callable[[], None] = nothing  # after listeners heard of the start
    after_step: Callable[[bool], None] = nothing  # after listeners heard; whether it learned
    trouble: Exception | None = None  # an error of the validation data, raised before any update
    exit_code: int = 0  # how the program ends once the run has, on SIGTERM
    active: bool = False
    timings: dict[str, float] = field(default_factory=dict)  # seconds by part, such as training
    started: float = field(default_factory=time.perf_counter)
    running_metrics: Callable[[], dict[str, float]] = dict  # the numbers of this pass so far

    def __post_init__(self) -> None:
        self.executor = self.executor or Eager(self.strategy)

    def use(self, strategy: SingleProcess) -> None:
        """Compute by another strategy from here on."""
        self.strategy = self.executor.strategy = strategy

    def stop(self, reason: str) -> None:
        """End the run after this step, with the best weights.

        Any of several processes can ask; all of them end at the same step, with its reason.
        """
        self.request(Request(reason))

    def request(self, request: Request) -> None:
        """Ask for the end in a certain way; several processes agree before any of them ends."""
        self.strategy.request_stop(self, request)

    def apply(self, request: Request | None) -> None:
        """Note the end that all processes agreed on, if there is one."""
        if request is not None:
            self.stop_reason = self.stop_reason or request.reason
            self.exit_code = self.exit_code or request.exit_code

    def join(self) -> None:
        """End the run if any process asked to; all processes call this at the same moment."""
        self.apply(self.strategy.agreed())

    def end_of_pass(self) -> None:
        """Apply a request at the end of a pass of all processes; raise if a loss was not finite."""
        request = self.strategy.agreed()
        if request is None:
            return
        if request.diverged:
            raise request.as_error()
        self.apply(request)

    def ends_here(self) -> bool:
        """Tell whether the pass is to end after the step that was just done."""
        return self.stop_reason is not None and self.step != self.steps and not (
            self.executor.pending or self.checkpointer.stops_at_boundaries)

    def begin_epoch(self, epoch: int) -> None:
        """Open a row of the history."""
        self.epoch = epoch
        self.history.open(epoch)

    def begin_pass(self, stage: Stage, data: Batches) -> None:
        """Set the counters to the beginning of a pass."""
        self.stage, self.step, self.steps, self.logs = stage, 0, data.own_length, {}

    def raise_trouble(self, stage: Stage) -> None:
        """Raise, in a validation, the error that its data showed before training."""
        if stage == "val" and self.trouble is not None:
            raise self.trouble

    def count_step(self, logs: Logs, *, learning: bool) -> None:
        """Count a step that is done, and keep what it gave."""
        self.step += 1
        self.logs = logs
        if learning:
            self.global_step += 1
            self.optimizer_steps += self.accelerator.sync_gradients

    def end(self, reason: str) -> None:
        """End the run here, in this process alone: all of them come here."""
        self.apply(Request(reason))

    def current_metrics(self) -> Row:
        """Return the numbers of this pass so far. This waits for the device: call it seldom."""
        return self.running_metrics()

    @property
    def communicator(self) -> Communicator:
        """Return the link between processes: rank, world_size, is_main_process."""
        return self.strategy.communicator

    @property
    def device(self) -> str:
        """Return where the run computes, such as ``"cpu"`` or ``"cuda:0"``."""
        device = self.accelerator.device
        return device.type if device.type == "cpu" else str(device)

    @property
    def resumes_at(self) -> int | None:
        """Return the epoch with which an interrupted run goes on; None for one that begins."""
        return self.checkpointer.resumes_at if (
            self.global_step or self.history.get("epoch")) else None

    @property
    def to_be_resumed(self) -> bool:
        """Tell whether this run was stopped where the same call of ``fit`` would go on."""
        return (self.config.keeps_state and self.stop_reason is not None
                and not self.monitor.should_stop)

    @property
    def validates(self) -> bool:
        """Tell whether this epoch validates: every so many and the last, or those in a list."""
        return is_due(self.epoch, self.config.validation_freq, self.config.epochs)

    # Older names

    @property
    def trained(self) -> int:
        """Return ``global_step``, by its older name."""
        return self.global_step

    @property
    def updates(self) -> int:
        """Return ``optimizer_steps``, by its older name."""
        return self.optimizer_steps

    @property
    def seconds(self) -> dict[str, float]:
        """Return ``timings``, by its older name."""
        return self.timings

    @property
    def tools(self) -> TrainingObjects:
        """Return ``objects``, by its older name."""
        return self.objects

    @property
    def together(self) -> Communicator:
        """Return ``communicator``, by its older name."""
        return self.communicator

    def numbers(self) -> Row:
        """Return ``current_metrics()``, by its older name."""
        return self.current_metrics()
