"""KerasModel: any net with a loss, metrics and an optimizer; fit, evaluate, predict."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from torchkeras.acceleration.autotuner import piloted
from torchkeras.acceleration.multi_step_graph import follows
from torchkeras.acceleration.optimizer_impl import form
from torchkeras.checkpoint import known_files, weights_path
from torchkeras.checkpoint.best import Best
from torchkeras.checkpoint.restore import archive
from torchkeras.checkpoint.session import kept
from torchkeras.checks import preflight
from torchkeras.core.errors import bad_type, mistake, one_of, switch
from torchkeras.core.optimizers import Optimizers, Schedulers, gathered, picked
from torchkeras.core.tracebacks import level_of_caller, short_traceback
from torchkeras.data import Batches, batches, outputs
from torchkeras.data.arrays import wide_dtype
from torchkeras.data.learning import check_learning
from torchkeras.distributed.communicator import Alone, join_job
from torchkeras.distributed.reducible_metrics import joinable
from torchkeras.distributed.strategies import lockstep
from torchkeras.engine import device, loop, lr_schedule
from torchkeras.engine.callback import CallbackList
from torchkeras.engine.config import PRECISIONS, FitConfig
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.history import History
from torchkeras.engine.monitor import Monitor, direction
from torchkeras.engine.run import Run, Tools
from torchkeras.engine.step import StepRunner, is_own, names_scheduler, updates_itself
from torchkeras.metrics.buffered import buffered, settled
from torchkeras.state.components import components_of
from torchkeras.state.rng import Untouched, same_stream
from torchkeras.training import names, spawn
from torchkeras.training.arguments import (
    check_constructor,
    check_labelled,
    check_options,
    check_step_objects,
    listening,
    make_optimizer,
    named_metrics,
    settle,
    shufflable,
    starts_others,
    unbatched,
    warn_of_divergence,
    with_validation,
)
from torchkeras.training.predicting import Predicted, Predictor, joined, prepared
from torchkeras.training.saving import LoadReport, Rename, put_matching
from torchkeras.training.session import session
from torchkeras.training.verify import ResumeReport, verify_resume
from torchkeras.weighting import examination

if TYPE_CHECKING:
    import pandas as pd
    from accelerate import Accelerator

class KerasModel(nn.Module):
    """Wrap a net with what it takes to train it, and train it with one call.

    Designed to be subclassed: ``StepRunner`` says what happens to a batch, ``EpochRunner`` what a pass is; set either
    on a subclass, on one model or on the class.

    Args:
        net: the module to train; it stays yours and is never copied.
        loss_fn: ``(preds, labels) -> scalar``: a module, a function or a name such as ``"cross_entropy"``.
            None for a net whose output brings its own ``loss``.
        metrics_dict: what to measure: a dict of name to metric (ours, torchmetrics', a function ``(preds, labels)``,
            or a name), or a list of names such as ``["accuracy", "auc"]``.
        optimizer: a torch optimizer on the net's parameters, or a name such as ``"adam"``; a list or dict of optimizers
            moves together, and a ``StepRunner`` of your own picks one: ``self.optimizer["d"]``. Default: Adam, lr 3e-4.
            By name or by default it learns the weights of the net and of the loss.
        lr_scheduler: a torch scheduler on that optimizer, or a list or dict of them.
        **step_objects: further keywords for your own ``StepRunner``: other nets, optimizers, whatever it needs. What
            has a ``state_dict`` is placed, kept with the best weights and gone on with as the net is.

    Raises:
        TypeError: a part is of the wrong kind, such as a class where an object is meant.
        ValueError: a name is unknown, a metric's name is taken, or the net has lazy layers without sizes.

    Example:
        >>> import torch
        >>> x, y = torch.randn(64, 4), torch.randint(0, 2, (64,))
        >>> model = KerasModel(torch.nn.Linear(4, 2), loss_fn="cross_entropy", metrics_dict=["accuracy"])
        >>> history = model.fit((x, y), epochs=2, ckpt_path=None, quiet=True)
        >>> list(history.columns)
        ['epoch', 'train_loss', 'train_accuracy', 'lr']
    """

    StepRunner: type = StepRunner
    EpochRunner: type = EpochRunner

    @short_traceback
    def __init__(self, net: nn.Module, loss_fn: Any = None,
                 metrics_dict: Mapping[str, Any] | Sequence[Any] | None = None, optimizer: Any = None,
                 lr_scheduler: Any = None, **step_objects: Any) -> None:
        super().__init__()
        check_constructor(type(self).StepRunner, step_objects, loss_fn=loss_fn, metrics_dict=metrics_dict,
                          optimizer=optimizer, lr_scheduler=lr_scheduler)
        loss_fn = names.loss(loss_fn) if isinstance(loss_fn, str) else loss_fn
        by_name = isinstance(optimizer, str)
        preflight.check_parts(net, loss_fn, None if by_name else optimizer, lr_scheduler)
        self.net, self.loss_fn = net, loss_fn
        self.metrics_dict = named_metrics(metrics_dict, loss_fn)
        self.optimizer = make_optimizer(optimizer, net, loss_fn)
        self.lr_scheduler, self.step_objects = gathered(lr_scheduler, Schedulers), step_objects
        self.from_scratch = True  # False gives the next fit an epoch 0 that only measures
        self.batch_items: int | None = None  # of each batch in the last pass; 0: no tuple or list
        self.run: Run | None = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Let a ``save_ckpt`` or ``load_ckpt`` of a subclass's own note its files: see :mod:`~.engine.known`."""
        super().__init_subclass__(**options)
        for name in {"save_ckpt", "load_ckpt"} & vars(cls).keys():
            setattr(cls, name, known_files.remembering(vars(cls)[name]))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the net."""
        return self.net(*args, **kwargs)

    @short_traceback
    def fit(self, train_data: Any, val_data: Any = None, epochs: int = 10,
            ckpt_path: str | os.PathLike[str] | None = "checkpoint", patience: int | None = 5,
            monitor: str = "val_loss", mode: str = "auto", callbacks: Sequence[Any] | None = None, plot: bool = True,
            wandb: bool | str = False, mixed_precision: str = "no", cpu: bool = False,
            gradient_accumulation_steps: int = 1, *, batch_size: int | None = None, shuffle: bool | None = None,
            validation_split: float | None = None, validation_freq: int = 1,
            class_weight: Mapping[int, float] | None = None, steps_per_epoch: int | None = None,
            validation_steps: int | None = None, initial_epoch: int = 0, clip_grad_norm: float | None = None,
            clip_grad_value: float | None = None, lr_interval: str = "auto", speed: str = "exact",
            seed: int | None = None, resume: bool = False, save_every: int | str | None = None, keep: int = 2,
            sync_batchnorm: bool = False, find_unused_parameters: bool = False, fsdp: bool = False,
            num_processes: int = 1, quiet: bool = False, min_delta: float = 0.0, restore_best: bool = True,
            report: str | os.PathLike[str] | None = None) -> pd.DataFrame:
        """Train, watch a number, stop when it no longer improves, and keep the best weights.

        Each epoch goes through ``train_data``, measures on ``val_data`` and judges the monitored number. Better than
        ever: the weights are written to ``ckpt_path``. No better for ``patience`` epochs: the run ends. Whatever ends
        it (the last epoch, patience, Ctrl-C, a loss that is not finite), the net then holds the best weights and is
        back on the device where it was. A second ``fit`` goes on from the current weights and optimizer.

        Weights in ``ckpt_path`` that this model saved or loaded compete as epoch 0: they are measured on ``val_data``
        first, in one more pass that leaves no trace, and only better ones replace them. If none are better, the file
        stays as it is, and the net gets its weights. ``patience`` looks at the epochs of this run alone. A new model
        overwrites what is there; so does a run without ``val_data``, whose notes say it.

        The loss of an epoch is its mean over samples; with sample or class weights, sum(weight x loss) / samples.
        With gradient accumulation, the batches of a window count by their samples, so k small batches give the
        gradient of the big one, on a shorter last window too. Nothing is clipped unless asked.

        Args:
            train_data: a DataLoader, a Dataset, ``(x, y)`` or ``(x, y, sample_weight)`` of arrays, tensors or frames,
                a dict of arrays, or any iterable of batches.
            val_data: the same kinds; measured each ``validation_freq`` epochs and after the last.
            epochs: the number of the last epoch; epochs count from 1.
            ckpt_path: where the best weights go (``.safetensors`` by suffix); None keeps them in memory only.
            patience: how many epochs without improvement end the run; None never ends it.
            min_delta: an improvement by no more than so much, in the unit of the monitored number, does not keep
                ``patience`` from running out. The best weights are the best at any ``min_delta``.
            restore_best: False leaves the net with its last weights (for GANs, diffusion, averages of weights); the
                best ones are in ``ckpt_path`` alone. Of an epoch whose loss becomes NaN, the net gets the weights that
                it began with.
            monitor: the column to judge by; without ``val_data``, "val_loss" becomes "train_loss".
            mode: "min", "max", or "auto": as the metric says (``higher_is_better``), else by its name.
            callbacks: listeners, see :class:`torchkeras.Callback`.
            plot: draw the curves: in a notebook as the run goes on, in a terminal when it is over.
            wandb: True or a project name logs every epoch to Weights & Biases.
            mixed_precision: "no", "bf16", or "fp16" on an accelerator.
            cpu: stay on the CPU; otherwise the best accelerator there is.
            gradient_accumulation_steps: batches for one update.
            batch_size: samples a batch, for data that is not in batches yet. Default 32.
            shuffle: a new order each epoch, for data that is not in batches yet. Default True.
            validation_split: the last share of the samples (0 to 1) is measured on instead of trained on.
            validation_freq: measure on ``val_data`` each so many epochs.
            class_weight: ``{class: weight}`` for the training loss; classes not named weigh 1.
            steps_per_epoch: batches an epoch, for data without an end or to take fewer.
            validation_steps: the same for ``val_data``.
            initial_epoch: how many epochs are behind you; the first is the next one.
            clip_grad_norm: the largest norm of all gradients together, before each update.
            clip_grad_value: the largest size of any gradient, before each update.
            lr_interval: when the scheduler moves: "step" (each update), "epoch", or "auto": OneCycleLR and CyclicLR
                each update, ReduceLROnPlateau with the monitored number, the rest each epoch.
            speed: "exact" (bit for bit the plain loop), or "fast": rounding may change, for fused optimizers,
                channels last and compiled nets and steps, where they are faster and the steps that remain pay for it.
            seed: seeds Python, numpy and torch as the run begins.
            resume: go on where the last run with this ``ckpt_path`` was stopped, in the middle of an epoch too, bit for
                bit; with no saved state, begin. The state is kept in the folder ``<ckpt_path>.state``.
            save_every: how often the state is written: after so many training steps, after a time ("10min", "30s",
                "2h"), or "epoch", at the end of each. Ctrl-C and SIGTERM write it too. Default: "epoch" with
                ``resume=True``, else never.
            keep: how many states are kept.
            sync_batchnorm: in several processes on accelerators, BatchNorm takes its means over the whole batch
                instead of each process's part.
            find_unused_parameters: in several processes, look in every step for parameters that got no gradient.
            fsdp: in several processes, divide weights, gradients and optimizer state between them (torch's FSDP), for
                nets that are too large for one device.
            num_processes: start so many processes for this run, as :meth:`fit_ddp` does.
            quiet: show nothing.
            report: an .html file for the report of the run, written however the run ends.

        Returns:
            A DataFrame, one row an epoch: ``epoch, train_loss, train_<metric>, lr, val_loss, val_<metric>``. ``lr`` is
            the rate of the epoch's last update. ``.attrs["stop_reason"]`` says what ended the run early, or None; of a
            loss that is NaN or infinite a RuntimeWarning says it too, with what held it.

        Raises:
            TypeError: an argument is of the wrong kind.
            ValueError: an argument cannot be right, or the first batch of ``train_data`` or ``val_data`` does not fit
                the net, the loss and the metrics. Until the first update nothing has changed: weights, optimizer,
                random state and files are as they were.

            Such errors end in a short traceback; ``print(error.full_traceback)``, or the environment variable
            ``TORCHKERAS_FULL_TRACEBACK=1``, shows the whole.

        Example:
            >>> import torch
            >>> x = torch.randn(100, 3)
            >>> y = x.sum(dim=1, keepdim=True)
            >>> model = KerasModel(torch.nn.Linear(3, 1), loss_fn="mse", optimizer="sgd")
            >>> history = model.fit((x, y), validation_split=0.2, epochs=3, ckpt_path=None, quiet=True)
            >>> len(history)
            3
        """
        check_labelled(self, train_data, val_data)
        check_options(batch_size, steps_per_epoch, validation_steps, plot=plot, quiet=quiet, shuffle=shuffle)
        config = FitConfig(
            epochs=epochs, ckpt_path=weights_path.check_writable(ckpt_path), patience=patience, monitor=monitor,
            mode=mode, mixed_precision=mixed_precision, cpu=cpu, initial_epoch=initial_epoch,
            gradient_accumulation_steps=gradient_accumulation_steps, validation_freq=validation_freq,
            class_weight=class_weight, clip_grad_norm=clip_grad_norm, clip_grad_value=clip_grad_value,
            lr_interval=lr_interval, speed=speed, seed=seed, sync_batchnorm=sync_batchnorm,
            find_unused_parameters=find_unused_parameters, fsdp=fsdp, resume=resume, save_every=save_every, keep=keep,
            min_delta=min_delta, restore_best=restore_best)
        dtype = wide_dtype(self.net)
        train_data, val_data = with_validation(train_data, val_data, validation_split, dtype)
        train = batches(train_data, name="train_data", batch_size=batch_size, dtype=dtype,
                        shuffle=shufflable(train_data) if shuffle is None else shuffle, steps=steps_per_epoch)
        val = None if val_data is None else batches(
            val_data, name="val_data", batch_size=batch_size if unbatched(val_data) else None,
            steps=validation_steps, dtype=dtype, draws=False)
        listeners = listening(callbacks, plot=plot, wandb=wandb, quiet=quiet, report=report, val_data=val)
        if starts_others(num_processes):
            return spawn.fit(self, num_processes, config, listeners, train, val)
        return self.fit_run(config, listeners, train, val)

    @short_traceback
    def fit_ddp(self, num_processes: int, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Train in several processes, one an accelerator (or on the CPU), from a script or a notebook.

        The processes share every batch, so all numbers are those of ``fit``. The processes are started afresh: it does
        not matter what was on a GPU before, and the script needs no ``__main__`` guard. The best weights, the
        optimizer, the history and what callbacks remember come back into this process; the display is the first
        process's. In a script that torchrun or ``accelerate launch`` started, this is ``fit``.

        Args:
            num_processes: how many; at most the number of accelerators.
            *args: the arguments of :meth:`fit`.
            **kwargs: the arguments of :meth:`fit`.

        Returns:
            What :meth:`fit` returns.

        Raises:
            TypeError: the net, the loss, the data or another part cannot be sent to another process.
            ValueError: there are not so many accelerators, or what :meth:`fit` refuses.
            ProcessFailed: a process was killed.

        Example:
            >>> import torch
            >>> x = torch.randn(100, 3)
            >>> model = KerasModel(torch.nn.Linear(3, 1), loss_fn="mse")
            >>> history = model.fit_ddp(2, (x, x.sum(dim=1, keepdim=True)), epochs=2, ckpt_path=None, quiet=True,
            ...                         cpu=True)
            >>> len(history)
            2
        """
        return self.fit(*args, num_processes=num_processes, **kwargs)

    @short_traceback
    def verify_resume(self, train_data: Any, val_data: Any = None, *, steps: int = 20, **options: Any) -> ResumeReport:
        """Find out on your own net and data whether a run that is stopped goes on exactly.

        A copy of this model trains without a break; another is stopped twice in mid-epoch and goes on from what was
        saved; all that is left of both is compared bit for bit. This model, the data's and the global random state
        stay as they are.

        Args:
            train_data: what :meth:`fit` takes, other than a generator.
            val_data: the same.
            steps: training steps to compare, in two epochs of half as many. At least 4.
            **options: further arguments of :meth:`fit`, such as ``batch_size`` or ``callbacks``.

        Returns:
            A report: ``identical``, ``steps``, ``differences`` and ``notes``; print it.

        Raises:
            TypeError: ``train_data`` can be read only once.
            ValueError: what :meth:`fit` refuses.

        Example:
            >>> import torch
            >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
            >>> model = KerasModel(net, loss_fn="mse")
            >>> x = torch.randn(100, 3)
            >>> print(model.verify_resume((x, x[:, :1]), batch_size=10))
            stopped and resumed twice within 20 training steps: bit for bit the same
        """
        return verify_resume(self, train_data, val_data, steps, options)

    def fit_run(self, config: FitConfig, listeners: list[Any], train: Batches, val: Batches | None) -> pd.DataFrame:
        """One run as asked: the last checks, then the loop, then the history as a frame."""
        if self.active:
            raise mistake(RuntimeError(
                "fit: this model is being fitted already, and one of its callbacks called fit on it; "
                "fit another model there, such as copy.deepcopy(model.net) in a KerasModel of its own."))
        run = self.new_run(config, listeners, train, val)
        before = Untouched(*self.learners())
        best = Best(self, config.ckpt_path, before.weights)
        callbacks = CallbackList(listeners, self, run.together.main)
        with (archive(self, run, train, val) as (vault, saved),
              session(self, run, callbacks, before, train.last_batch), lockstep(self, run, train, val),
              kept(self, run, callbacks, best, train, val, vault, saved), form(run, self.optimizer),
              closing(best), settled(run.tools.metrics["train"].values()), piloted(run, self, callbacks, train)):
            self.optimizer.zero_grad()
            loop.fit(self, run, callbacks, best, train, val)
        self.from_scratch = True
        frame = run.history.to_frame(self.columns(val is not None))
        frame.attrs["stop_reason"] = run.stop_reason
        warn_of_divergence(run)
        return frame

    def new_run(self, config: FitConfig, listeners: list[Any], train: Batches, val: Batches | None) -> Run:
        """What is asked, and with what: looked at once more now that model and data are known together."""
        config, notes = settle(config, self, train, val)
        accelerator = device.start(mixed_precision=config.mixed_precision, cpu=config.cpu,
                                     accumulation=config.gradient_accumulation_steps)
        together = join_job(accelerator)
        notes += check_learning(train.source, train.name, Optimizers(components_of(self).optimizers), together.world)
        preflight.check_closure(None if is_own(self.StepRunner) else self.optimizer, config, together.world)
        weights_path.check_held(self, config.ckpt_path)
        mode, why = direction(config.monitor, config.mode, self.higher_is_better(config.monitor))
        for data in (train, val):
            if data is not None:
                data.device = accelerator.device
        return Run(config=config, accelerator=accelerator, together=together,
                   monitor=Monitor(config.monitor, mode, config.patience, config.min_delta),
                   tools=self.tools(config, accelerator, together, listeners, train),
                   notes=[*notes, f"monitor: {config.monitor}, {mode} ({why})"])

    def columns(self, validates: bool) -> list[str]:
        """Return the columns that the table of a run has."""
        train, val = ([f"{stage}_{name}" for name in ("loss", *self.metrics_dict)] for stage in ("train", "val"))
        return ["epoch", *train, "lr", *(val if validates else ())]

    def tools(self, config: FitConfig, accelerator: Accelerator, together: Alone, listeners: list[Any],
              train: Batches) -> Tools:
        """Metrics for each stage; optimizer and scheduler, wrapped where precision or a user's own step needs it."""
        train_metrics = joinable(self.metrics_dict, together.world)
        metrics = {"train": train_metrics, "val": copy.deepcopy(train_metrics)}
        scheduler, optimizer = self.lr_scheduler, self.optimizer
        ours, own_step = not is_own(self.StepRunner), updates_itself(self.StepRunner)
        step_keys, epoch_keys, given = lr_schedule.shared_out(scheduler, config, train.length, own_step)
        wrapped = scheduler
        if not ours or config.mixed_precision != "no":
            optimizer, wrapped = device.wrap(accelerator, optimizer, scheduler)
        if ours and together.world == 1 and not any(map(follows, listeners)):
            own = config.speed == "exact"
            metrics = {stage: buffered(one, own) for stage, one in metrics.items()}
        return Tools(metrics, optimizer, picked(wrapped, step_keys), picked(scheduler, epoch_keys),
                     picked(wrapped, given), own_step, names_scheduler(self.StepRunner))

    def learners(self) -> list[nn.Module]:
        """The modules whose weights and buffers belong to a run: the net, a loss that has some, nets for the step."""
        return list(components_of(self).modules.values())

    def higher_is_better(self, column: str) -> bool | None:
        """What a metric says of its own direction."""
        metric = self.metrics_dict.get(column.removeprefix("train_").removeprefix("val_"))
        return getattr(metric, "higher_is_better", None)

    @short_traceback
    def evaluate(self, val_data: Any, *, batch_size: int | None = None, steps: int | None = None,
                 mixed_precision: str | None = None, cpu: bool = False, num_processes: int = 1) -> dict[str, float]:
        """Measure loss and metrics on data, with the numbers that ``fit`` would report for it.

        Args:
            val_data: what ``fit`` takes as data.
            batch_size: samples a batch, for data that is not in batches yet. Default 32; the result is the same at any.
            steps: the number of batches to take. Default: all.
            mixed_precision: "no", "bf16", or "fp16" on an accelerator: as in ``fit``, to get its ``val_loss`` again.
                Default: "no"; in a callback, that of the run.
            cpu: stay on the CPU.
            num_processes: start so many processes to measure with.

        Returns:
            ``{"val_loss": ..., "val_<metric>": ...}``.

        Raises:
            TypeError: the data is of no known kind.
            ValueError: the data is empty, has no labels, or labels that do not fit the net and the loss.

        Example:
            >>> import torch
            >>> model = KerasModel(torch.nn.Linear(4, 1), loss_fn="mse")
            >>> sorted(model.evaluate((torch.zeros(10, 4), torch.zeros(10, 1))))
            ['val_loss']
        """
        switch("cpu", cpu)
        data = batches(val_data, name="val_data", batch_size=batch_size, steps=steps, dtype=wide_dtype(self.net),
                       draws=False)
        if starts_others(num_processes):
            return spawn.evaluate(self, num_processes, data, mixed_precision=mixed_precision, cpu=cpu)
        return self.measure(data, mixed_precision, cpu)

    @short_traceback
    def evaluate_ddp(self, num_processes: int, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Measure in several processes, each sample once; started as :meth:`fit_ddp` starts them.

        Args:
            num_processes: how many; at most the number of accelerators.
            *args: the arguments of :meth:`evaluate`.
            **kwargs: the arguments of :meth:`evaluate`.

        Returns:
            What :meth:`evaluate` returns.

        Raises:
            TypeError: the net, the loss or the data cannot be sent to another process.
            ValueError: there are not so many accelerators, or what :meth:`evaluate` refuses.

        Example:
            >>> import torch
            >>> model = KerasModel(torch.nn.Linear(4, 1), loss_fn="mse")
            >>> sorted(model.evaluate_ddp(2, (torch.zeros(10, 4), torch.zeros(10, 1)), cpu=True))
            ['val_loss']
        """
        return self.evaluate(*args, num_processes=num_processes, **kwargs)

    def measure(self, data: Batches, mixed_precision: str | None, cpu: bool) -> dict[str, float]:
        """One pass that measures, outside of any run."""
        check_step_objects(self)
        accelerator = self.measuring_with(mixed_precision, cpu)
        config = FitConfig(mixed_precision=accelerator.mixed_precision, cpu=cpu)
        data.device = accelerator.device
        together = join_job(accelerator)
        metrics = joinable(copy.deepcopy(self.metrics_dict), together.world)
        if together.world == 1 and not is_own(self.StepRunner):
            metrics = buffered(metrics)
        run = Run(config=config, accelerator=accelerator, monitor=Monitor("val_loss", "min"),
                  together=together, tools=Tools({"val": metrics}))
        parts = components_of(self)
        with together.watching(), device.placed(
                accelerator.device, *parts.modules.values(), self.loss_fn, *metrics.values(),
                optimizers=() if self.active else parts.optimizers.values()):
            device.same_weights(together, *parts.modules.values())
            row = loop.measure_pass(self, run, CallbackList([], self), "val", data)
            same_stream(together)
        found = run.facts["val"].found
        if data.length != 1 and found is not None and found.kind == "other":
            warnings.warn(examination.DEPENDS, stacklevel=level_of_caller())
        return row

    def measuring_with(self, mixed_precision: str | None, cpu: bool) -> Accelerator:
        """Return device and precision to measure with: those of a run under way, unless another precision is asked."""
        if mixed_precision is not None:
            one_of("mixed_precision", mixed_precision, PRECISIONS)
        if not self.active:
            return device.start(mixed_precision=mixed_precision or "no", cpu=cpu)
        if self.run is not None:
            self.run.tools.shards.refresh()
        own: Accelerator = self.accelerator
        if mixed_precision in (None, own.mixed_precision):
            return own
        return device.start(mixed_precision=str(mixed_precision), cpu=own.device.type == "cpu")

    @short_traceback
    def predict(self, data: Any, *, batch_size: int | None = None, output: str = "raw", with_labels: bool = False,
                as_numpy: bool = False, stream: bool = False, steps: int | None = None,
                mixed_precision: str | None = None, cpu: bool = False) -> Any:
        """Predict for each sample once, in order, with what ``evaluate`` measures: the same step, in evaluation mode.

        Each batch goes through ``StepRunner.predict``, which is ``StepRunner.forward`` unless you override it. Data
        without labels is given to a ``forward`` of your own in the layout that it was trained with, with None for the
        labels.

        Args:
            data: what ``fit`` takes as data; labels are not needed. A tuple is ``(x, y)``, so several inputs without
                labels are given as ``((x1, x2),)`` or as a dict.
            batch_size: samples a batch, for data that is not in batches yet. Default 32.
            output: "raw", or "probabilities" or "classes" as the loss understands the outputs (cross entropy: softmax
                and argmax; binary cross entropy: sigmoid and 0.5). With ``loss_fn=None``, of the ``logits`` in the
                output: softmax and argmax over the last dimension, or a sigmoid for each where
                ``net.config.problem_type`` is "multi_label_classification".
            with_labels: give ``(outputs, labels)``: labels as the data has them, names and ids beside them included;
                those of ``StepRunner.forward`` where the data's layout has none.
            as_numpy: give numpy arrays in place of tensors.
            stream: give a generator, one item a batch, for what does not fit in memory or cannot be joined.
            steps: the number of batches to take. Default: all.
            mixed_precision: "no", "bf16", or "fp16" on an accelerator: as in ``fit``, to get what it measured with.
                Default: "no"; in a callback, that of the run.
            cpu: stay on the CPU.

        Returns:
            CPU tensors, joined by samples along the first dimension, in the tuples, dicts and dataclasses that the net
            returns (those of transformers too). A list with one item for each sample, such as the boxes of each image,
            becomes one list of all samples. Without ``stream``, a scalar ``loss`` and caches such as
            ``past_key_values`` in an output are left out: they are not one a sample. What is computed in half precision
            comes back as float32, which holds it exactly; numpy has no bfloat16.

        Raises:
            TypeError: the data is of no known kind.
            ValueError: the data is empty; the loss has no such reading; the outputs are not one a sample, as those of
                shape (time, samples, ...), or differ in shape: take those with ``stream=True``.

        Example:
            >>> import torch
            >>> model = KerasModel(torch.nn.Linear(4, 3), loss_fn="cross_entropy")
            >>> model.predict(torch.zeros(10, 4), output="classes").shape
            torch.Size([10])
        """
        outputs.check_reading(self.loss_fn, output, self.net)
        for name, value in (("with_labels", with_labels), ("as_numpy", as_numpy), ("stream", stream), ("cpu", cpu)):
            switch(name, value)
        source = batches(data, name="data", batch_size=batch_size, steps=steps, dtype=wide_dtype(self.net),
                         draws=False)
        accelerator = self.measuring_with(mixed_precision, cpu)
        found = self.predictions(source, output, accelerator, stream=stream, with_labels=with_labels)
        convert = outputs.to_numpy if as_numpy else outputs.as_is
        items = (convert((one.preds, one.labels) if with_labels else one.preds) for one in found)
        if stream:
            return items
        [joined] = items
        return joined

    def predictions(self, data: Batches, output: str, accelerator: Accelerator, *, stream: bool,
                    with_labels: bool) -> Iterator[Predicted]:
        """Yield outputs and labels in main memory, batch by batch; without ``stream`` once, joined."""
        data.device = accelerator.device
        together = join_job(accelerator)
        run = Run(config=FitConfig(mixed_precision=accelerator.mixed_precision), accelerator=accelerator,
                  monitor=Monitor("val_loss", "min"), together=together, tools=Tools({"val": self.metrics_dict}))
        parts = components_of(self)
        with together.watching(), device.placed(accelerator.device, *parts.modules.values(), self.loss_fn,
                                                  optimizers=() if self.active else parts.optimizers.values()):
            device.same_weights(together, *parts.modules.values())
            data.share_between(together, divide=False)
            predictor = Predictor(self, run)
            own = (prepared(predictor(batch), self, output, stream, with_labels) for batch in data)
            if stream:
                yield from together.in_turn(own, 1)
            else:
                yield joined(together.in_turn(own, None), data.samples, predictor, together, with_labels)
            same_stream(together)

    @short_traceback
    def report(self, path: str | os.PathLike[str], val_data: Any = None, *,
               class_names: Sequence[str] | None = None) -> Path:
        """Keep the last fit in one HTML file that opens anywhere: curves, table, settings, summary, time, environment.

        Args:
            path: the file, its name ending in .html.
            val_data: for a classifier: data for a confusion matrix and the samples that were most wrong.
            class_names: what the classes are called, in their order.

        Returns:
            The path.

        Raises:
            RuntimeError: there has been no fit.
            ValueError: the path cannot be written, or is no .html file.

        Example:
            >>> import tempfile, torch
            >>> model = KerasModel(torch.nn.Linear(3, 1), loss_fn="mse")
            >>> history = model.fit((torch.zeros(9, 3), torch.zeros(9, 1)), epochs=2, ckpt_path=None, quiet=True)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.report(f"{folder}/run.html").name
            'run.html'
        """
        from torchkeras.display.report import write_report

        return write_report(self, path, val_data, class_names=class_names)

    @short_traceback
    def summary(self, *args: Any, **kwargs: Any) -> Any:
        """Print the net layer by layer; the arguments are those of :func:`torchkeras.summary` without the net."""
        from torchkeras.summary import summary

        return summary(self.net, *args, **kwargs)

    @short_traceback
    def save_ckpt(self, ckpt_path: str | os.PathLike[str] = "checkpoint", accelerator: Any = None) -> None:
        """Write the net's weights to one file that ``net.load_state_dict(torch.load(...))`` reads.

        The file is there whole or not at all.

        Override it, together with ``load_ckpt``, to save something else as the best of a run, such as adapters.

        Args:
            ckpt_path: the file; safetensors when its name ends in ``.safetensors``, else torch's format.
            accelerator: the run's Accelerator; for overrides, unused here.

        Raises:
            ValueError: the path cannot be written.

        Example:
            >>> import tempfile, os
            >>> model = KerasModel(nn.Linear(2, 1), loss_fn="mse")
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.save_ckpt(os.path.join(folder, "best.pt"))
            ...     print(model.load_ckpt(os.path.join(folder, "best.pt")))
            2 of 2 weights loaded
        """
        path = weights_path.check_writable(ckpt_path)
        if path is None:
            raise bad_type("ckpt_path", received="None", expected="a path")
        weights_path.save_weights(self.net, path)
        known_files.remember(self, path)

    @short_traceback
    def load_ckpt(self, ckpt_path: str | os.PathLike[str] = "checkpoint", *, strict: bool = True,
                  rename: Rename | None = None) -> LoadReport:
        """Read weights that ``save_ckpt`` or plain torch wrote into the net, all or nothing; no code in it is run.

        Args:
            ckpt_path: the file.
            strict: False takes those that match by name and shape: a warm start.
            rename: from names in the file to names in the net, see :func:`torchkeras.load_weights`.

        Returns:
            A report of what was loaded and what was not.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the weights are another net's; the message lists what differs.
        """
        report = put_matching(self.net, ckpt_path, strict, rename, "ckpt_path")
        known_files.remember(self, ckpt_path, strict=strict, rename=rename)
        return report

    # The names that callbacks written for older versions read.

    @property
    def active(self) -> bool:
        """Whether a fit is under way."""
        return self.run is not None and self.run.active

    @property
    def history(self) -> History:
        """The rows of the last fit."""
        return History() if self.run is None else self.run.history

    @property
    def accelerator(self) -> Any:
        """The Accelerator of the last fit."""
        return None if self.run is None else self.run.accelerator

    @property
    def epochs(self) -> int | None:
        """The number of epochs asked of the last fit."""
        return None if self.run is None else self.run.config.epochs

    @property
    def monitor(self) -> str | None:
        """The column that the last fit was judged by."""
        return None if self.run is None else self.run.monitor.name

    @property
    def mode(self) -> str | None:
        """Which way that column is better: "min" or "max"."""
        return None if self.run is None else self.run.monitor.mode

    @property
    def ckpt_path(self) -> str | None:
        """Where the last fit wrote its best weights."""
        return None if self.run is None else self.run.config.ckpt_path
