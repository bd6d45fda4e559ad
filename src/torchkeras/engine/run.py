"""What is happening: one call of ``fit`` as a listener sees it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from torchkeras.core.stop import PassEnded, Request
from torchkeras.core.types import Logs, Stage
from torchkeras.distributed.communicator import Alone
from torchkeras.distributed.fsdp import Undivided
from torchkeras.engine.config import FitConfig
from torchkeras.engine.history import History
from torchkeras.engine.monitor import Monitor
from torchkeras.weighting.denominator import LossFacts

if TYPE_CHECKING:
    from accelerate import Accelerator


def nothing() -> None:
    """What settles a net that was trained itself."""


class Keeps:
    """What the loop tells whoever keeps the state of the run; this one keeps nothing."""

    epoch: int | None = None  # where the run goes on, if it is one that was stopped

    @property
    def ends_passes(self) -> bool:
        """Whether a pass ends between two steps, not inside of one, when a stop was asked for."""
        return False

    def begin_pass(self, epoch_runner: Any) -> None:
        """A pass is about to start."""

    def row_of_training(self) -> dict[str, float] | None:
        """The numbers of this epoch's training pass, where it was done before the run was stopped."""
        return None

    def fit_started(self) -> None:
        """Listeners have heard that the run starts."""

    def trained(self, row: dict[str, float]) -> None:
        """The training pass is over, and the validation has not begun."""

    def epoch_done(self) -> None:
        """An epoch is over."""

    def stopped(self) -> None:
        """A pass was ended before its end."""


class Tools(NamedTuple):
    """What the steps of a run are given besides net and loss."""

    metrics: dict[str, dict[str, Any]]  # by stage, so that measuring in mid-epoch disturbs nothing
    optimizer: Any = None
    step_scheduler: Any = None  # moves with every update
    epoch_scheduler: Any = None  # moves with every epoch
    given_scheduler: Any = None  # what steps are given: that of every update; those of a user's own move others too
    own_step: bool = False  # whether the user's own step may say when a schedule moves
    own_schedule: bool = False  # whether it does, by its code
    replicas: Callable[[], Mapping[str, Any]] = dict  # net and loss as they learn, where several processes share work
    settle: Callable[[], None] = nothing  # after a training pass: brings the net itself up to date with them
    shards: Undivided = Undivided()  # with FSDP: the parts of the net


@dataclass
class Run:
    """One call of ``fit``. Written by the loop, read-only for users; the one request is :meth:`stop`."""

    config: FitConfig
    accelerator: Accelerator
    monitor: Monitor
    tools: Tools
    together: Alone = field(default_factory=Alone)  # the processes of the job: rank, world, main
    history: History = field(default_factory=History)
    facts: dict[str, LossFacts] = field(default_factory=lambda: {"train": LossFacts(), "val": LossFacts()})
    notes: list[str] = field(default_factory=list)  # what a reader should know before the first epoch
    stage: Stage = "train"
    epoch: int = 0  # the epoch that is running, counted from 1
    step: int = 0  # batches done in this pass
    steps: int | None = None  # batches in this pass, where the data knows
    trained: int = 0  # training batches done in the whole run
    updates: int = 0  # optimizer updates done in the whole run
    logs: Logs = field(default_factory=dict)  # what the last step gave back, still on the device
    stop_reason: str | None = None
    interrupted: bool = False  # by Ctrl-C
    diverged: bool = False  # a loss was not finite, so the weights of this moment are worth nothing
    judged_anew: bool = False  # whether a run that goes on is judged by other numbers than before
    moved_by_step: list[Any] = field(default_factory=list)  # which schedules of every epoch a user's own step moves
    places: dict[Any, Any] | None = None  # of the schedules that a user's own step is given, as this pass began
    step_runners: dict[tuple[Stage, bool], Any] = field(default_factory=dict)  # by stage, and whether they learn
    step_states: dict[str, Any] = field(default_factory=dict)  # of steps that are still to be built, in a run resumed
    pilot: Any = None  # with speed="fast": who chooses how a training step is run
    after_step: Callable[[], None] = nothing  # once listeners have heard of a training step
    trouble: Exception | None = None  # what is wrong with the validation data, to be raised before the first update
    keeper: Keeps = field(default_factory=Keeps)
    exit_code: int = 0  # how the program ends once the run has, on SIGTERM
    active: bool = False
    seconds: dict[str, float] = field(default_factory=dict)  # by part: training, validation, ...
    started: float = field(default_factory=time.perf_counter)
    running: Callable[[], dict[str, float]] = dict  # the numbers of this pass so far

    def stop(self, reason: str) -> None:
        """Ask for the end: the step in hand is finished, the best weights come back, ``fit`` returns.

        Of several processes, any one can ask: they agree on the step, and all end there with its reason.
        """
        self.ask(Request(reason))

    def ask(self, request: Request) -> None:
        """Ask for the end in a certain way; several processes agree before any of them heeds it."""
        if self.together.world == 1:
            self.heed(request)
        else:
            self.together.request = self.together.request or request

    def heed(self, request: Request | None) -> None:
        """End, if there is a request: where all processes do."""
        if request is not None:
            self.stop_reason = self.stop_reason or request.reason
            self.exit_code = self.exit_code or request.exit_code

    def ended_by(self, request: Request) -> PassEnded:
        """What ends the pass on behalf of a request that all processes agreed on."""
        if not request.diverged:
            self.heed(request)
        return request.as_error()

    def numbers(self) -> dict[str, float]:
        """The numbers of this pass so far. This waits for the device: call it seldom."""
        return self.running()

    @property
    def device(self) -> str:
        """Where the run computes, such as ``"cpu"`` or ``"cuda:0"``."""
        device = self.accelerator.device
        return device.type if device.type == "cpu" else str(device)

    @property
    def resumes_at(self) -> int | None:
        """The epoch with which a run that was stopped goes on; None for one that begins."""
        return self.keeper.epoch if self.trained or self.history.get("epoch") else None

    @property
    def to_be_resumed(self) -> bool:
        """Whether this run was stopped where the same call of ``fit`` would go on."""
        return self.config.keeps_state and self.stop_reason is not None and not self.monitor.exhausted

    @property
    def validates(self) -> bool:
        """Whether this epoch ends with a validation: every ``validation_freq``-th one, and the last."""
        return self.epoch % self.config.validation_freq == 0 or self.epoch == self.config.epochs
