"""KerasModel: any net with a loss, metrics and an optimizer; fit, evaluate, predict."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from torchkeras.checkpoint import known_files, weights_path
from torchkeras.checks import preflight
from torchkeras.core.errors import check_bool, mistake
from torchkeras.core.optimizers import Schedulers, combine
from torchkeras.core.tracebacks import short_traceback
from torchkeras.core.types import Data, LossLike, MetricsLike, OptimizerLike, SchedulerLike, Value
from torchkeras.data import Batches, batches, outputs
from torchkeras.data.arrays import as_it_is, wide_dtype
from torchkeras.data.fit_data import FitData
from torchkeras.engine.config import FitConfig
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.history import History
from torchkeras.engine.run import Run
from torchkeras.engine.step import StepRunner
from torchkeras.state.components import components_of
from torchkeras.training import names, session, spawn
from torchkeras.training.arguments import (
    check_constructor,
    check_labelled,
    check_options,
    fit_data,
    launches_processes,
    make_optimizer,
    named_metrics,
    print_numbers,
    warn_of_divergence,
    with_default_callbacks,
)
from torchkeras.training.loading import LoadReport, Rename, put_matching
from torchkeras.training.predicting import Predicted, Predictor, concatenate, to_main_memory
from torchkeras.training.session import TrainingSession
from torchkeras.training.verify import ResumeReport, verify_resume

if TYPE_CHECKING:
    import pandas as pd
    from accelerate import Accelerator


class KerasModel(nn.Module):
    """Wrap a net with what it takes to train it, and train it with one call.

    Designed to be subclassed: ``StepRunner`` defines what happens to a batch, ``EpochRunner`` a
    pass over the data; set either on a subclass, on one model or on the class.

    Args:
        net: the module to train; it is not copied.
        loss_fn: ``(preds, labels) -> scalar``: a module, a function or a name such as
            ``"cross_entropy"``. None for a net whose output brings its own ``loss``.
        metrics_dict: what to measure: a dict of name to metric (ours, torchmetrics', a function
            ``(preds, labels)``, or a name), or a list of names such as ``["accuracy", "auc"]``.
        optimizer: a torch optimizer on the net's parameters, or a name such as ``"adam"``; a list
            or dict of optimizers steps together, and your own ``StepRunner`` picks one:
            ``self.optimizer["d"]``. Default: Adam, lr 3e-4. A name or the default gets the
            parameters of the net and of the loss.
        lr_scheduler: a torch scheduler on that optimizer, or a list or dict of them.
        **step_objects: further keywords for your own ``StepRunner``: other nets, optimizers,
            whatever it needs. Objects with a ``state_dict`` are moved, saved and resumed like the
            net.

    Raises:
        TypeError: a part is of the wrong type, such as a class instead of an object.
        ValueError: a name is unknown, a metric's name is taken, or the net has lazy layers without
            sizes.

    Example:
        >>> import torch
        >>> x, y = torch.randn(64, 4), torch.randint(0, 2, (64,))
        >>> model = KerasModel(torch.nn.Linear(4, 2), "cross_entropy", ["accuracy"])
        >>> history = model.fit((x, y), epochs=2, ckpt_path=None, quiet=True)
        >>> list(history.columns)
        ['epoch', 'train_loss', 'train_accuracy', 'lr']
    """

    StepRunner: type = StepRunner
    EpochRunner: type = EpochRunner
    run: Run  # the last call of fit; None before the first
    step_objects: dict[str, Any]

    @short_traceback
    def __init__(self, net: nn.Module, loss_fn: LossLike = None, metrics_dict: MetricsLike = None,
                 optimizer: OptimizerLike = None, lr_scheduler: SchedulerLike = None,
                 **step_objects: Value) -> None:
        super().__init__()
        check_constructor(type(self).StepRunner, step_objects, loss_fn=loss_fn,
                          metrics_dict=metrics_dict, optimizer=optimizer, lr_scheduler=lr_scheduler)
        loss_fn = names.loss(loss_fn) if isinstance(loss_fn, str) else loss_fn
        by_name = isinstance(optimizer, str)
        preflight.check_parts(net, loss_fn, None if by_name else optimizer, lr_scheduler)
        self.net, self.loss_fn = net, loss_fn
        self.metrics_dict = named_metrics(metrics_dict, loss_fn)
        self.optimizer = make_optimizer(optimizer, net, loss_fn)
        self.lr_scheduler, self.step_objects = combine(lr_scheduler, Schedulers), step_objects
        self.from_scratch = True  # False gives the next fit an epoch 0 that only measures
        self.batch_items: int | None = None  # of each batch in the last pass; 0: no tuple or list
        self.run = None  # type: ignore[assignment]

    def __init_subclass__(cls, **options: Value) -> None:
        """Wrap ``save_ckpt`` and ``load_ckpt`` of a subclass so that their files are remembered."""
        super().__init_subclass__(**options)
        for name in {"save_ckpt", "load_ckpt"} & vars(cls).keys():
            setattr(cls, name, known_files.remembers_path(vars(cls)[name]))

    def forward(self, *args: Value, **kwargs: Value) -> Any:
        """Call the net."""
        return self.net(*args, **kwargs)

    @short_traceback
    def fit(self, train_data: Any, val_data: Any = None, epochs: int = 10,
            ckpt_path: str | os.PathLike[str] | None = "checkpoint", patience: int | None = 5,
            monitor: str = "val_loss", mode: str = "auto", callbacks: Sequence[Any] | None = None,
            plot: bool = True, wandb: bool | str = False, mixed_precision: str = "no",
            cpu: bool = False, gradient_accumulation_steps: int = 1, *,
            batch_size: int | None = None, shuffle: bool | None = None,
            validation_split: float | None = None, validation_freq: int | Sequence[int] = 1,
            class_weight: Mapping[int, float] | None = None, steps_per_epoch: int | None = None,
            validation_steps: int | None = None, initial_epoch: int = 0,
            clip_grad_norm: float | None = None, clip_grad_value: float | None = None,
            lr_interval: str = "auto", speed: str = "exact", seed: int | None = None,
            resume: bool = False, save_every: int | str | None = None, keep: int = 2,
            sync_batchnorm: bool = False, find_unused_parameters: bool = False, fsdp: bool = False,
            num_processes: int = 1, quiet: bool = False, min_delta: float = 0.0,
            restore_best: bool = True,
            report: str | os.PathLike[str] | None = None) -> pd.DataFrame:
        """Train, monitor a number, stop when it no longer improves, and keep the best weights.

        Each epoch trains on ``train_data``, measures on ``val_data`` and compares the monitored
        number with the best so far. If it is better, the weights are written to ``ckpt_path``;
        after ``patience`` epochs without improvement the run ends. Whatever ends it (the last
        epoch, patience, Ctrl-C, a loss that is not finite), the net then holds the best weights and
        is back on its device. A second ``fit`` continues from the current weights and optimizer.

        Weights in ``ckpt_path`` that this model saved or loaded compete as epoch 0: they are
        measured on ``val_data`` first, in an extra pass that changes nothing, and only better ones
        replace them. If none are better, the file stays, and the net gets its weights. ``patience``
        counts the epochs of this run only. A new model overwrites the file; so does a run without
        ``val_data``, and adds a note.

        The loss of an epoch is its mean over samples; with sample or class weights, sum(weight x
        loss) / samples. With gradient accumulation, the batches of an update are weighted by their
        samples, so k small batches give the gradient of the big one, in a shorter last update too.
        Nothing is clipped unless asked.

        Args:
            train_data: a DataLoader, a Dataset, ``(x, y)`` or ``(x, y, sample_weight)`` of arrays,
                tensors or frames, a dict of arrays, or any iterable of batches.
            val_data: the same kinds; measured every ``validation_freq`` epochs and after the last.
            epochs: the number of the last epoch; epochs count from 1.
            ckpt_path: where the best weights go (``.safetensors`` by suffix); None keeps them in
                memory only.
            patience: end after this many epochs without improvement; None never ends the run.
            min_delta: the smallest improvement that counts for ``patience``, in the unit of the
                monitored number. The best weights are the best at any ``min_delta``.
            restore_best: False leaves the net with its last weights (for GANs, diffusion, averages
                of weights); the best ones are in ``ckpt_path`` only. If the loss becomes NaN, the
                net gets the weights from the start of that epoch.
            monitor: the column that is compared; without ``val_data``, "val_loss" becomes
                "train_loss".
            mode: "min", "max", or "auto": as the metric says (``higher_is_better``), else by its
                name.
            callbacks: see :class:`torchkeras.Callback`.
            plot: draw the curves: in a notebook during the run, in a terminal at its end.
            wandb: True or a project name logs every epoch to Weights & Biases.
            mixed_precision: "no", "bf16", or "fp16" on an accelerator.
            cpu: use the CPU. Default: the best accelerator there is.
            gradient_accumulation_steps: batches for one update.
            batch_size: samples in a batch, for data that is not in batches yet. Default 32.
            shuffle: a new order each epoch, for data that is not in batches yet. Default True.
            validation_split: the share of the samples (0 to 1), from the end, to validate on.
            validation_freq: measure on ``val_data`` every ``validation_freq`` epochs and after the
                last, or after the epochs in a list, which count from 1.
            class_weight: ``{class: weight}`` for the training loss; classes not named weigh 1.
            steps_per_epoch: batches in an epoch, for endless data or to take fewer.
            validation_steps: the same for ``val_data``.
            initial_epoch: how many epochs were done before; the first one here is the next.
            clip_grad_norm: the maximum norm of all gradients together.
            clip_grad_value: the maximum absolute value of any gradient.
            lr_interval: when the scheduler steps: "step" (each update), "epoch", or "auto":
                OneCycleLR and CyclicLR each update, ReduceLROnPlateau with the monitored number,
                the rest each epoch.
            speed: "exact" (bit for bit the plain loop), or "fast": rounding may change; uses fused
                optimizers, channels last and compiled nets and steps if they are faster and enough
                steps remain to pay for them.
            seed: seeds Python, numpy and torch at the start of the run.
            resume: continue where the last run with this ``ckpt_path`` was stopped, even in the
                middle of an epoch, bit for bit; without a checkpoint, start. Checkpoints are in the
                folder ``<ckpt_path>.state``.
            save_every: how often a checkpoint is saved: a number of training steps, a time
                ("10min", "30s", "2h"), or "epoch". Ctrl-C and SIGTERM save one too. Default:
                "epoch" with ``resume=True``, else never.
            keep: how many checkpoints are kept.
            sync_batchnorm: with several processes on accelerators, BatchNorm computes its
                statistics over the whole batch instead of each process's part.
            find_unused_parameters: with several processes, look in every step for parameters
                without a gradient.
            fsdp: with several processes, shard weights, gradients and optimizer state (torch's
                FSDP), for nets that are too large for one device.
            num_processes: start this many processes for the run, as :meth:`fit_ddp` does.
            quiet: show nothing.
            report: an .html file for the report of the run, written however the run ends.

        Returns:
            A DataFrame, one row for each epoch: ``epoch, train_loss, train_<metric>, lr, val_loss,
            val_<metric>``. ``lr`` is the rate of the epoch's last update. ``.attrs["stop_reason"]``
            says what ended the run early, or None; if the loss was NaN or infinite, a
            RuntimeWarning names the origin.

        Raises:
            TypeError: an argument is of the wrong type.
            ValueError: an argument is invalid, or the first batch of ``train_data`` or ``val_data``
                does not fit the net, the loss and the metrics. Then nothing has changed: weights,
                optimizer, random state and files are as they were.

            Such errors end in a short traceback; ``print(error.full_traceback)``, or the
            environment variable ``TORCHKERAS_FULL_TRACEBACK=1``, shows the whole.

        Example:
            >>> import torch
            >>> x = torch.randn(100, 3)
            >>> y = x.sum(dim=1, keepdim=True)
            >>> model = KerasModel(torch.nn.Linear(3, 1), loss_fn="mse", optimizer="sgd")
            >>> history = model.fit((x, y), validation_split=0.2, epochs=3, ckpt_path=None,
            ...                     quiet=True)
            >>> len(history)
            3
        """
        arguments = locals()
        check_labelled(self, train_data, val_data)
        check_options(arguments)
        config = FitConfig.of(arguments, ckpt_path=weights_path.for_best(self, ckpt_path))
        data = fit_data(arguments, wide_dtype(self.net))
        listeners = with_default_callbacks(
            callbacks, plot=plot, wandb=wandb, quiet=quiet, report=report, val_data=data.val)
        if launches_processes(num_processes):
            return spawn.fit(self, num_processes, config, listeners, data)
        return self.fit_run(config, listeners, data)

    @short_traceback
    def fit_ddp(self, num_processes: int, *args: Value, **kwargs: Value) -> pd.DataFrame:
        """Train in several processes, one for each accelerator (or on the CPU).

        The processes share every batch, so all numbers are those of ``fit``. They are new
        processes: it does not matter whether this one has used a GPU, and the script needs no
        ``__main__`` guard. The best weights, the optimizer, the history and the state of callbacks
        come back into this process; the main process shows the progress. In a script that torchrun
        or ``accelerate launch`` started, this is ``fit``.

        Args:
            num_processes: the number of processes; at most that of the accelerators.
            *args: the arguments of :meth:`fit`.
            **kwargs: the arguments of :meth:`fit`.

        Returns:
            What :meth:`fit` returns.

        Raises:
            TypeError: the net, the loss, the data or another part cannot be sent to another
                process.
            ValueError: there are fewer accelerators, or as for :meth:`fit`.
            ProcessFailed: a process was killed.

        Example:
            >>> import torch
            >>> x = torch.randn(100, 3)
            >>> model = KerasModel(torch.nn.Linear(3, 1), loss_fn="mse")
            >>> history = model.fit_ddp(2, (x, x.sum(dim=1, keepdim=True)), epochs=2,
            ...                         ckpt_path=None, quiet=True, cpu=True)
            >>> len(history)
            2
        """
        return self.fit(*args, num_processes=num_processes, **kwargs)

    @short_traceback
    def verify_resume(self, train_data: Data, val_data: Data = None, *, steps: int = 20,
                      **options: Value) -> ResumeReport:
        """Check on your net and data that a stopped run resumes exactly.

        A copy of this model trains without interruption; another is stopped twice in mid-epoch and
        resumes from its checkpoints; the results of both are compared bit for bit. This model, the
        data and the random state do not change.

        Args:
            train_data: what :meth:`fit` takes, other than a generator.
            val_data: the same.
            steps: training steps to compare, in two epochs of half as many. At least 4.
            **options: further arguments of :meth:`fit`, such as ``batch_size`` or ``callbacks``.

        Returns:
            A report: ``identical``, ``steps``, ``differences`` and ``notes``; print it.

        Raises:
            TypeError: ``train_data`` can be read only once.
            ValueError: as for :meth:`fit`.

        Example:
            >>> import torch
            >>> from torch import nn
            >>> net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 1))
            >>> model = KerasModel(net, loss_fn="mse")
            >>> x = torch.randn(100, 3)
            >>> print(model.verify_resume((x, x[:, :1]), batch_size=10))
            stopped and resumed twice within 20 training steps: bit for bit the same
        """
        report: ResumeReport = verify_resume(self, train_data, val_data, steps, options)
        return report

    def fit_run(self, config: FitConfig, listeners: list[Any], data: FitData) -> pd.DataFrame:
        """Run the last checks and the loop; return the history as a DataFrame."""
        if self.active:
            raise mistake(RuntimeError(
                "fit: this model is being fitted already, and one of its callbacks called fit on "
                "it; fit another model there, such as copy.deepcopy(model.net) in a KerasModel of "
                "its own."))
        run = TrainingSession(self, config, listeners, data).fit()
        self.from_scratch = True
        frame = run.history.to_frame(self.columns(data.val is not None))
        frame.attrs["stop_reason"] = run.stop_reason
        warn_of_divergence(run)
        return frame

    def columns(self, validates: bool) -> list[str]:
        """Return the columns that the table of a run has."""
        train, val = ([f"{stage}_{name}" for name in ("loss", *self.metrics_dict)]
                      for stage in ("train", "val"))
        return ["epoch", *train, "lr", *(val if validates else ())]

    def learners(self) -> list[nn.Module]:
        """Return the modules that a run trains and saves: net, loss, and nets in step_objects."""
        return list(components_of(self).modules.values())

    def higher_is_better(self, column: str) -> bool | None:
        """Return the direction that a metric declares; None if it declares none."""
        metric = self.metrics_dict.get(column.removeprefix("train_").removeprefix("val_"))
        return getattr(metric, "higher_is_better", None)

    @short_traceback
    def evaluate(self, val_data: Data, *, batch_size: int | None = None, steps: int | None = None,
                 mixed_precision: str | None = None, cpu: bool = False,
                 num_processes: int = 1, quiet: bool = True) -> dict[str, float]:
        """Measure loss and metrics on data; the numbers are those that ``fit`` would report.

        Args:
            val_data: what ``fit`` takes as data.
            batch_size: samples in a batch, for data that is not in batches yet; it does not change
                the result.
            steps: the number of batches to take. Default: all.
            mixed_precision: "no", "bf16", or "fp16" on an accelerator: as in ``fit``, to get the
                same ``val_loss``. Default: "no"; in a callback, that of the run.
            cpu: use the CPU.
            num_processes: start this many processes to measure with.
            quiet: False prints the numbers too.

        Returns:
            ``{"val_loss": ..., "val_<metric>": ...}``.

        Raises:
            TypeError: the data is of an unknown type.
            ValueError: the data is empty, has no labels, or labels that do not fit the net and the
                loss.

        Example:
            >>> import torch
            >>> model = KerasModel(torch.nn.Linear(4, 1), loss_fn="mse")
            >>> sorted(model.evaluate((torch.zeros(10, 4), torch.zeros(10, 1))))
            ['val_loss']
        """
        check_bool("cpu", cpu)
        check_bool("quiet", quiet)
        data = batches(val_data, name="val_data", batch_size=batch_size, steps=steps,
                       dtype=wide_dtype(self.net), draws=False)
        if launches_processes(num_processes):
            found = spawn.evaluate(
                self, num_processes, data, mixed_precision=mixed_precision, cpu=cpu)
        else:
            found = self.measure(data, mixed_precision, cpu)
        if not quiet:
            print_numbers(found)
        return found

    @short_traceback
    def evaluate_ddp(self, num_processes: int, *args: Value, **kwargs: Value) -> dict[str, float]:
        """Measure in several processes, each sample once; started as :meth:`fit_ddp` starts them.

        Args:
            num_processes: the number of processes; at most that of the accelerators.
            *args: the arguments of :meth:`evaluate`.
            **kwargs: the arguments of :meth:`evaluate`.

        Returns:
            What :meth:`evaluate` returns.

        Raises:
            TypeError: the net, the loss or the data cannot be sent to another process.
            ValueError: there are fewer accelerators, or as for :meth:`evaluate`.

        Example:
            >>> import torch
            >>> model = KerasModel(torch.nn.Linear(4, 1), loss_fn="mse")
            >>> sorted(model.evaluate_ddp(2, (torch.zeros(10, 4), torch.zeros(10, 1)), cpu=True))
            ['val_loss']
        """
        return self.evaluate(*args, num_processes=num_processes, **kwargs)

    def measure(self, data: Batches, mixed_precision: str | None, cpu: bool) -> dict[str, float]:
        """Return the numbers of a pass that measures, outside of any run."""
        return session.measure(self, data, mixed_precision, cpu)

    def measuring_with(self, mixed_precision: str | None, cpu: bool) -> Accelerator:
        """Return device and precision to measure with; by default, those of a run under way."""
        return session.measuring_with(self, mixed_precision, cpu)

    @short_traceback
    def predict(self, data: Data, *, batch_size: int | None = None, output: str = "raw",
                with_labels: bool = False, as_numpy: bool = False, stream: bool = False,
                steps: int | None = None, mixed_precision: str | None = None,
                cpu: bool = False) -> Any:
        """Predict for each sample once, in order, with the step that ``evaluate`` uses.

        Each batch goes through ``StepRunner.predict``, which is ``StepRunner.forward`` unless you
        override it. Your own ``forward`` gets data without labels in the layout that it was trained
        with, with None for the labels.

        Args:
            data: what ``fit`` takes as data; labels are not needed. A tuple is ``(x, y)``, so
                several inputs without labels are given as ``((x1, x2),)`` or as a dict.
            batch_size: samples in a batch, for data that is not in batches yet. Default 32.
            output: "raw", or "probabilities" or "classes" as the loss defines them (cross entropy:
                softmax and argmax; binary cross entropy: sigmoid and 0.5). With ``loss_fn=None``,
                of the ``logits`` in the output: softmax and argmax over the last dimension, or a
                sigmoid for each where ``net.config.problem_type`` is "multi_label_classification".
            with_labels: return ``(outputs, labels)``: labels as the data has them, with names and
                ids beside them; if the data's layout has none, those of ``StepRunner.forward``.
            as_numpy: return numpy arrays instead of tensors.
            stream: return a generator, one item for each batch, for outputs that do not fit in
                memory or cannot be concatenated. Until it ends or is closed, the net is on the
                accelerator; its mode is yours between two items.
            steps: the number of batches to take. Default: all.
            mixed_precision: "no", "bf16", or "fp16" on an accelerator: as in ``fit``, to get the
                same outputs. Default: "no"; in a callback, that of the run.
            cpu: use the CPU.

        Returns:
            CPU tensors, concatenated along the first dimension, in the tuples, dicts and
            dataclasses that the net returns (those of transformers too). A list with one item for
            each sample, such as the boxes of each image, becomes one list of all samples. Without
            ``stream``, a scalar ``loss`` and caches such as ``past_key_values`` are left out: they
            do not belong to single samples. Half precision is returned as float32, which holds it
            exactly; numpy has no bfloat16.

        Raises:
            TypeError: the data is of an unknown type.
            ValueError: the data is empty; the loss does not define this ``output``; the outputs are
                not one for each sample (such as shape (time, samples, ...)) or differ in shape: use
                ``stream=True``.

        Example:
            >>> import torch
            >>> model = KerasModel(torch.nn.Linear(4, 3), loss_fn="cross_entropy")
            >>> model.predict(torch.zeros(10, 4), output="classes").shape
            torch.Size([10])
        """
        outputs.check_reading(self.loss_fn, output, self.net)
        for name, value in (("with_labels", with_labels), ("as_numpy", as_numpy),
                            ("stream", stream), ("cpu", cpu)):
            check_bool(name, value)
        source = batches(data, name="data", batch_size=batch_size, steps=steps,
                         dtype=wide_dtype(self.net), draws=False)
        accelerator = self.measuring_with(mixed_precision, cpu)
        found = self.predictions(source, output, accelerator, stream=stream,
                                 with_labels=with_labels)
        convert = outputs.to_numpy if as_numpy else as_it_is
        items = (convert((one.preds, one.labels) if with_labels else one.preds) for one in found)
        if stream:
            return items
        [joined] = items
        return joined

    def predictions(self, data: Batches, output: str, accelerator: Accelerator, *, stream: bool,
                    with_labels: bool) -> Iterator[Predicted]:
        """Yield outputs and labels in main memory: batch by batch, or joined without ``stream``."""
        with session.measuring(self, data, accelerator, None) as run:
            run.strategy.shard(data, learning=False)
            predictor = Predictor(self, run)
            own = (to_main_memory(predictor(batch), self, output, stream, with_labels)
                   for batch in data)
            if stream:
                yield from run.communicator.interleave(own, 1)
            else:
                yield concatenate(run.communicator.interleave(own, None), data.samples, predictor,
                                  run.communicator, with_labels)

    @short_traceback
    def report(self, path: str | os.PathLike[str], val_data: Data = None, *,
               class_names: Sequence[str] | None = None) -> Path:
        """Write the last fit to one HTML file: curves, table, settings, summary, time, environment.

        Args:
            path: the file, its name ending in .html.
            val_data: for a classifier: data for a confusion matrix and the samples that were most
                wrong.
            class_names: names of the classes in the order of their numbers.

        Returns:
            The path.

        Raises:
            RuntimeError: there was no fit yet.
            ValueError: the path cannot be written, or is not an .html file.

        Example:
            >>> import tempfile, torch
            >>> model = KerasModel(torch.nn.Linear(3, 1), loss_fn="mse")
            >>> history = model.fit((torch.zeros(9, 3), torch.zeros(9, 1)), epochs=2,
            ...                     ckpt_path=None, quiet=True)
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.report(f"{folder}/run.html").name
            'run.html'
        """
        from torchkeras.display.report import write_report

        return write_report(self, path, val_data, class_names=class_names)

    @short_traceback
    def summary(self, *args: Value, **kwargs: Value) -> Any:
        """Print the net layer by layer; arguments as in :func:`torchkeras.summary` but ``net``."""
        from torchkeras.summary import summary

        return summary(self.net, *args, **kwargs)

    @short_traceback
    def save_ckpt(self, ckpt_path: str | os.PathLike[str] | None = None,
                  accelerator: object = None) -> None:
        """Write the net's weights to one file that ``net.load_state_dict(torch.load(...))`` reads.

        The file is written atomically. Override this, together with ``load_ckpt``, to save
        something else as the best of a run, such as adapters.

        Args:
            ckpt_path: the file; safetensors when its name ends in ``.safetensors``, else torch's
                format. Default: that of the last ``fit``, else "checkpoint".
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
        path = str(weights_path.check_writable(weights_path.or_last(self, ckpt_path)))
        weights_path.save_weights(self.net, path)
        known_files.remember(self, path)

    @short_traceback
    def load_ckpt(self, ckpt_path: str | os.PathLike[str] | None = None, *, strict: bool = True,
                  rename: Rename | None = None) -> LoadReport:
        """Load weights that ``save_ckpt`` or plain torch wrote, all or none; no code in it is run.

        Args:
            ckpt_path: the file. Default: that of the last ``fit``, else "checkpoint".
            strict: False loads only those that match by name and shape: a warm start.
            rename: maps names in the file to names in the net, see :func:`torchkeras.load_weights`.

        Returns:
            A report of what was loaded and what was not.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the weights belong to another net; the message lists the differences.
        """
        ckpt_path = weights_path.or_last(self, ckpt_path)
        report = put_matching(self.net, ckpt_path, strict, rename, "ckpt_path")
        known_files.remember(self, ckpt_path, strict=strict, rename=rename)
        return report

    # The names that callbacks written for older versions read.

    @property
    def active(self) -> bool:
        """Return whether a fit is running."""
        return self.run is not None and self.run.active

    @property
    def history(self) -> History:
        """Return the rows of the last fit."""
        return History() if self.run is None else self.run.history

    @property
    def accelerator(self) -> Any:
        """Return the Accelerator of the last fit."""
        return None if self.run is None else self.run.accelerator

    @property
    def epochs(self) -> int | None:
        """Return the number of epochs asked of the last fit."""
        return None if self.run is None else self.run.config.epochs

    @property
    def monitor(self) -> str | None:
        """Return the column that the last fit monitored."""
        return None if self.run is None else self.run.monitor.name

    @property
    def mode(self) -> str | None:
        """Return whether less or more of it is better: "min" or "max"."""
        return None if self.run is None else self.run.monitor.mode

    @property
    def ckpt_path(self) -> str | None:
        """Return the path of the best weights of the last fit."""
        return None if self.run is None else self.run.config.ckpt_path
