"""Run one call of fit, evaluate or predict: set up its parts in order, end them in reverse."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from torchkeras.acceleration.autotuner import autotuned
from torchkeras.acceleration.multi_step_graph import follows
from torchkeras.acceleration.optimizer_impl import optimizer_implementation
from torchkeras.checkpoint import weights_path
from torchkeras.checkpoint.best import Best
from torchkeras.checkpoint.restore import open_store
from torchkeras.checkpoint.session import checkpointed
from torchkeras.checkpoint.threshold import begin_with_file
from torchkeras.checks import preflight
from torchkeras.checks.out_of_memory import memory_explained
from torchkeras.core import device, modes
from torchkeras.core.errors import one_of
from torchkeras.core.moments import add_failure
from torchkeras.core.optimizers import Optimizers, select_keys
from torchkeras.core.rng import seed_all
from torchkeras.core.tracebacks import level_of_caller
from torchkeras.core.types import Row
from torchkeras.data import Batches
from torchkeras.data.fit_data import NO_DATA, FitData
from torchkeras.data.learning import check_learning
from torchkeras.diagnostics.rehearsal import rehearse
from torchkeras.distributed.accelerator import start_accelerator
from torchkeras.distributed.broadcast import same_weights
from torchkeras.distributed.communicator import join_job
from torchkeras.distributed.reducible_metrics import make_reducible
from torchkeras.distributed.strategies import measuring_strategy, training_strategy
from torchkeras.distributed.streams import same_stream, streams
from torchkeras.engine import loop
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.config import PRECISIONS, FitConfig
from torchkeras.engine.monitor import Monitor
from torchkeras.engine.run import Run, TrainingObjects, nothing
from torchkeras.engine.steps import build_step
from torchkeras.metrics.buffered import buffered, flushed
from torchkeras.state.components import components_of
from torchkeras.state.rollback import Rollback
from torchkeras.training.arguments import check_run, check_step_objects, direction
from torchkeras.training.own_steps import is_own, names_scheduler, updates_itself
from torchkeras.training.run_view import read_only
from torchkeras.training.schedules import assign_schedules
from torchkeras.training.signals import signals
from torchkeras.weighting import examination

if TYPE_CHECKING:
    from accelerate import Accelerator

    from torchkeras.kerasmodel import KerasModel


class TrainingSession:
    """Everything around the loop of one ``fit``.

    :meth:`fit` enters these contexts in order, and leaves them in reverse, however the run ends:

    1. ``open_store``: the folder of saved states is locked, and a state to resume is checked;
    2. ``around``: signals, device, modes; a run that fails before its first update is undone;
    3. ``training_strategy``: in several processes, weights and gradients are shared;
    4. ``checkpointed``: the state is saved as often as was asked, and an interrupted run goes on;
    5. ``optimizer_implementation``: on a CPU, the optimizer's quickest implementation;
    6. the best weights, whose file is completed at the end;
    7. metrics that count late are brought up to date at the end;
    8. ``autotuned``: with ``speed="fast"``, the executor that tries faster ways.

    Args:
        model: what is trained.
        config: how.
        listeners: the callbacks.
        data: what it learns from, and is measured on.
    """

    def __init__(self, model: KerasModel, config: FitConfig, listeners: list[Any],
                 data: FitData) -> None:
        self.model = model
        self.run = new_run(model, config, listeners, data)
        self.before = Rollback(*model.learners())
        self.best = Best(model, self.run.config.ckpt_path, self.before.weights)
        self.callbacks = CallbackList(listeners, model, self.run.communicator.is_main_process)

    def fit(self) -> Run:
        """Train; return the run once it is over."""
        model, run, callbacks, best = self.model, self.run, self.callbacks, self.best
        with ExitStack() as parts:
            store, saved = parts.enter_context(open_store(model, run))
            parts.enter_context(self.around())
            parts.enter_context(training_strategy(model, run))
            parts.enter_context(checkpointed(model, run, callbacks, best, store, saved))
            parts.enter_context(optimizer_implementation(run, model.optimizer))
            parts.enter_context(closing(best))
            parts.enter_context(flushed(run.objects.metrics["train"].values()))
            parts.enter_context(autotuned(run, model, callbacks))
            model.optimizer.zero_grad()
            run.before_training, run.after_step = self.before_training, self.watch_thawed
            loop.fit(model, run, callbacks, best)
        return run

    @contextmanager
    def around(self) -> Iterator[None]:
        """Set up device, modes and signals; undo a run that fails before its first update."""
        model, run, parts = self.model, self.run, components_of(self.model)
        previous, model.run, run.active = model.run, read_only(run), True
        metrics = [metric for one in run.objects.metrics.values() for metric in one.values()]
        others = [one for one in (model.loss_fn, *parts.modules.values()) if one is not model.net]
        # FSDP divides a net where it is: whole, it may not fit the device
        whole = nn.Identity() if run.config.fsdp and run.strategy.splits_batches else model.net
        smallest = smallest_part(run.data.train.last_batch, run.communicator.world_size)
        with (signals(run), run.communicator.watch_others(), modes.train_mode(model.net),
              preflight.batchnorm_watch(model.net, smallest),
              device.cache_freed(run.accelerator.device, model.net),
              device.on_device(run.accelerator.device, whole, *others, *metrics,
                               optimizers=parts.optimizers.values())):
            try:
                if run.config.seed is not None:
                    seed_all(run.config.seed)
                with streams(run.communicator), memory_explained(run, *run.data):
                    yield
            except BaseException as error:
                self.undo(error, previous)
                raise
            finally:
                forget(run)
        if run.exit_code:
            raise SystemExit(run.exit_code)

    def undo(self, error: BaseException, previous: Run) -> None:
        """Tell listeners of an error; where nothing was updated yet, put everything back."""
        tell(self.callbacks, error)
        if self.run.optimizer_steps == 0:
            if changed := self.before.restore():
                error.add_note("Weights that do not learn were changed by other means, and are not "
                               f"as they were before fit: {', '.join(changed[:5])}")
            self.model.run = previous

    def watch_thawed(self, learning: bool) -> None:
        """Copy weights that a callback has thawed, after a training step and before they learn."""
        if learning:
            self.best.watch()

    def before_training(self) -> None:
        """Try out the validation data; measure the weights in the file to be replaced."""
        model, run = self.model, self.run
        make = functools.partial(build_step, model, run, "val", False, "val_data")
        run.trouble = rehearse(run, model.StepRunner, make)
        if run.trouble is None:
            measure = functools.partial(
                loop.measure_pass, model, run, CallbackList((), model), "val")
            begin_with_file(model, run, self.best, make, measure)


def new_run(model: KerasModel, config: FitConfig, listeners: list[Any], data: FitData) -> Run:
    """Return a run, after the checks that need config, model and data together."""
    config, notes = check_run(config, model, data)
    accelerator = start_accelerator(mixed_precision=config.mixed_precision, cpu=config.cpu,
                                    accumulation=config.gradient_accumulation_steps,
                                    home=device.device_of(model.net))
    strategy = measuring_strategy(join_job(accelerator))
    world_size = strategy.communicator.world_size
    notes += check_learning(
        data.train.source, data.train.name, Optimizers(components_of(model).optimizers), world_size)
    preflight.check_closure(
        None if is_own(model.StepRunner) else model.optimizer, config, world_size)
    weights_path.check_saveable(model, config.ckpt_path)
    mode, why = direction(config.monitor, config.mode, model.higher_is_better(config.monitor))
    for one in data.given():
        one.device = accelerator.device
    return Run(config=config, data=data, accelerator=accelerator, strategy=strategy,
               monitor=Monitor(config.monitor, mode, config.patience, config.min_delta),
               objects=training_objects(model, config, accelerator, listeners, data.train.length,
                                        world_size),
               notes=[*notes, f"monitor: {config.monitor}, {mode} ({why})"])


def training_objects(model: KerasModel, config: FitConfig, accelerator: Accelerator,
                     listeners: list[Any], steps: int | None,
                     world_size: int) -> TrainingObjects:
    """Return metrics by stage, and optimizer and scheduler, wrapped for precision or own steps."""
    train_metrics = make_reducible(model.metrics_dict, world_size)
    metrics = {"train": train_metrics, "val": copy.deepcopy(train_metrics)}
    scheduler, optimizer = model.lr_scheduler, model.optimizer
    ours, own_step = not is_own(model.StepRunner), updates_itself(model.StepRunner)
    step_keys, epoch_keys, given = assign_schedules(scheduler, config, steps, own_step)
    wrapped = scheduler
    if not ours or config.mixed_precision != "no":
        optimizer, wrapped = device.wrap_optimizers(accelerator, optimizer, scheduler)
    if ours and world_size == 1 and not any(map(follows, listeners)):
        own = config.speed == "exact"
        metrics = {stage: buffered(one, own) for stage, one in metrics.items()}
    return TrainingObjects(metrics, optimizer, select_keys(wrapped, step_keys),
                           select_keys(scheduler, epoch_keys), select_keys(wrapped, given),
                           own_step, names_scheduler(model.StepRunner))


def forget(run: Run) -> None:
    """Let a run that is over hold on to no batch, step or listener."""
    run.active, run.running_metrics, run.logs = False, dict, {}
    run.step_runners.clear()
    run.after_step = run.before_training = nothing
    run.step_states.clear()
    for one in run.data.given():
        one.give_back()
    run.data = NO_DATA


def measure(model: KerasModel, data: Batches, mixed_precision: str | None, cpu: bool) -> Row:
    """Return the numbers of a pass that measures, outside of any run."""
    check_step_objects(model)
    metrics = copy.deepcopy(model.metrics_dict)
    with measuring(model, data, measuring_with(model, mixed_precision, cpu), metrics) as run:
        row = loop.measure_pass(model, run, CallbackList([], model), "val", data)
    found = run.facts["val"].found
    if data.length != 1 and found is not None and found.kind == "other":
        warnings.warn(examination.DEPENDS, stacklevel=level_of_caller())
    return row


@contextmanager
def measuring(model: KerasModel, data: Batches, accelerator: Accelerator,
              metrics: dict[str, Any] | None) -> Iterator[Run]:
    """Give a run that only measures or predicts; the model is on its device within.

    Args:
        model: what is measured.
        data: what it is measured on.
        accelerator: with which device and precision.
        metrics: what to measure; None to predict.
    """
    strategy = measuring_strategy(join_job(accelerator))
    data.device = accelerator.device
    if metrics is not None:
        metrics = make_reducible(metrics, strategy.communicator.world_size)
        if not strategy.splits_batches and not is_own(model.StepRunner):
            metrics = buffered(metrics)
    config = FitConfig(mixed_precision=accelerator.mixed_precision,
                       cpu=accelerator.device.type == "cpu")
    run = Run(config=config, accelerator=accelerator, monitor=Monitor("val_loss", "min"),
              strategy=strategy,
              objects=TrainingObjects({"val": model.metrics_dict if metrics is None else metrics}))
    parts, communicator = components_of(model), strategy.communicator
    with communicator.watch_others(), device.on_device(
            accelerator.device, *parts.modules.values(), model.loss_fn,
            *(metrics or {}).values()), memory_explained(run, data):
        same_weights(communicator, *parts.modules.values())
        yield run
        same_stream(communicator)


def measuring_with(model: KerasModel, mixed_precision: str | None, cpu: bool) -> Accelerator:
    """Return device and precision to measure with; by default, those of a run under way."""
    if mixed_precision is not None:
        one_of("mixed_precision", mixed_precision, PRECISIONS)
    if not model.active:
        return start_accelerator(mixed_precision=mixed_precision or "no", cpu=cpu,
                                 home=device.device_of(model.net))
    model.run.strategy.refresh()
    own = model.run.accelerator
    if mixed_precision in (None, own.mixed_precision):
        return own
    return start_accelerator(mixed_precision=str(mixed_precision), cpu=own.device.type == "cpu",
                             home=own.device)


def smallest_part(batch: int | None, world: int) -> int | None:
    """Return the number of samples in the smallest part of a batch, at least 1."""
    return None if batch is None else max(batch // world, 1)


def tell(callbacks: CallbackList, error: BaseException) -> None:
    """Tell listeners about an error; a failure in them does not replace it."""
    try:
        callbacks.announce_end("on_exception")
    except Exception as second:
        add_failure(error, second, "on_exception")
