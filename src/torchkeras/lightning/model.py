"""LightModel: a net with a loss and metrics, trained by pytorch-lightning's Trainer."""

from __future__ import annotations

import copy
import importlib.metadata
import inspect
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from torchkeras.callbacks.needed import needed
from torchkeras.checks import preflight
from torchkeras.core.errors import bad_type, bad_value, did_you_mean
from torchkeras.core.screen import encoding
from torchkeras.core.text import encodable
from torchkeras.core.tracebacks import short_traceback
from torchkeras.core.types import Batch, Labels, LossLike, MetricsLike, Preds, Value
from torchkeras.distributed.reducible_metrics import make_reducible
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.history import History
from torchkeras.lightning.steps import (
    PLAIN,
    LightningCommunicator,
    LightStep,
    check_shared_step,
    start_pass,
)
from torchkeras.lightning.trainer_flags import where_to_compute
from torchkeras.training import names
from torchkeras.training.arguments import make_optimizer, named_metrics
from torchkeras.training.schedules import Span, check_length, interval_of
from torchkeras.weighting import weighing

if TYPE_CHECKING:
    import pandas as pd
    import pytorch_lightning as pl
else:
    pl = needed("pytorch_lightning", "LightModel", "pytorch-lightning")

SAVED = "torchkeras_history"  # the key of the history in a Lightning checkpoint


class LightModel(pl.LightningModule):
    """Train a net with pytorch-lightning's ``Trainer``, with the numbers of ``KerasModel``.

    There are two ways. Pass the parts. Or subclass: ``shared_step(batch)`` returns the loss of a
    batch (and other numbers), ``configure_optimizers()`` the optimizer; the layers may be ``net``
    or your own with a ``forward``. All of Lightning works as usual: callbacks, checkpoints and
    loggers see ``train_loss``, ``val_loss``, ``val_<metric>``. A hook that you override should call
    ``super()``.

    Numbers of an epoch are means over its samples, and metrics cover the whole epoch; with several
    processes, the samples of all (Lightning's sampler may repeat a few, to give each process the
    same number). Each epoch prints a dated rule, its number (from 0, as Lightning counts), the
    numbers of validation and those of training. After ``fit`` the net holds the last weights;
    Lightning's ``ModelCheckpoint`` keeps the best.

    Args:
        net: the module to train.
        loss_fn: ``(preds, labels) -> scalar``: a module, a function or a name such as
            ``"cross_entropy"``. None for a net whose output brings its own ``loss``.
        metrics_dict: a dict of name to metric (ours, torchmetrics', a function ``(preds, labels)``,
            or a name), or a list of names such as ``["accuracy", "auc"]``.
        optimizer: a torch optimizer on the parameters, or a name such as ``"adam"``. Default: Adam,
            lr 3e-4.
        lr_scheduler: a torch scheduler on that optimizer. OneCycleLR and CyclicLR step with every
            update, ReduceLROnPlateau with the validation loss (without validation, the training
            loss), the others with every epoch.
        quiet: print nothing.

    Raises:
        ImportError: pytorch-lightning is not installed.
        TypeError: a part is of the wrong type, such as a class instead of an object.
        ValueError: a name is unknown, or a metric's name is taken.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> data = TensorDataset(torch.randn(64, 4), torch.randint(0, 2, (64,)))
        >>> loader = DataLoader(data, batch_size=16)
        >>> class Classifier(LightModel):
        ...     def shared_step(self, batch):
        ...         features, labels = batch
        ...         preds = self(features)
        ...         return {"loss": torch.nn.functional.cross_entropy(preds, labels),
        ...                 "acc": (preds.argmax(dim=1) == labels).float().mean()}
        ...     def configure_optimizers(self):
        ...         return torch.optim.Adam(self.parameters(), lr=0.01)
        >>> list(Classifier(net=torch.nn.Linear(4, 2)).shared_step(next(iter(loader))))
        ['loss', 'acc']
        >>> model = LightModel(torch.nn.Linear(4, 2), "cross_entropy", {"acc": "accuracy"})
        >>> model.shared_step(next(iter(loader)))["loss"].shape
        torch.Size([])
    """

    @short_traceback
    def __init__(self, net: nn.Module | None = None, loss_fn: LossLike = None,
                 metrics_dict: MetricsLike = None,
                 optimizer: torch.optim.Optimizer | str | None = None,
                 lr_scheduler: LRScheduler | None = None, *, quiet: bool = False) -> None:
        super().__init__()
        loss_fn = names.loss(loss_fn) if isinstance(loss_fn, str) else loss_fn
        if isinstance(optimizer, str):
            names.look_up("optimizer", optimizer, names.torch_optimizers())
        for argument, part in (("optimizer", optimizer), ("lr_scheduler", lr_scheduler)):
            if isinstance(part, (list, tuple, Mapping)):
                raise bad_type(argument, received=f"a {type(part).__name__} of several",
                               expected="one",
                               fix="Lightning steps several by manual optimization only: override "
                                   "configure_optimizers and training_step, or use KerasModel.")
        preflight.check_parts(self if net is None else net, loss_fn,
                              None if isinstance(optimizer, str) else optimizer, lr_scheduler)
        self.net, self.loss_fn = net, loss_fn
        self.metrics_dict = named_metrics(metrics_dict, loss_fn)
        self.optimizer, self.lr_scheduler, self.quiet = optimizer, lr_scheduler, quiet
        self.history = History()
        self.stage = "train"  # of the current batch: "train", "val" or "test"
        self.passes: dict[str, EpochRunner] = {}  # the running ones, by stage
        self.measuring: dict[str,
                             dict[str,
                                  Any]] = {}  # metrics by stage: validation may come in mid-epoch
        self.validated: dict[str, float] = {}  # validation numbers of this epoch
        self.resumed: dict[str, float] = {}  # the row of the epoch of a checkpoint

    # The loss of a batch: override shared_step, or pass the parts.

    def forward(self, *args: Value, **kwargs: Value) -> Any:
        """Call the net."""
        if self.net is None:
            raise bad_type("net", received="None", expected="an nn.Module",
                           fix="Pass net=..., or write forward in your subclass.")
        return self.net(*args, **kwargs)

    def shared_step(self, batch: Batch) -> Mapping[str, Any]:
        """Return the loss of a batch under "loss", and any other numbers: override this.

        Each is averaged over the samples of the epoch. A number that is no such average (an AUC, an
        F1) belongs into ``metrics_dict``, which :meth:`measure` or ``super().shared_step(batch)``
        updates.

        Args:
            batch: a batch of training, validation or test data; ``self.stage`` says which.

        Returns:
            ``{"loss": scalar tensor, ...}``.
        """
        step = self.pass_of_stage(self.stage).step_runner
        run = step.validate_first_batch if step.rehearsing else step.forward_and_loss
        preds, labels, loss = run(batch)
        self.measure(preds, labels)
        return {"loss": loss}

    def measure(self, preds: Preds, labels: Labels) -> None:
        """Update the metrics of ``metrics_dict`` with a batch; call it in your own ``shared_step``.

        Args:
            preds: the net's output, shape (N, ...).
            labels: the targets.
        """
        runner = self.pass_of_stage(self.stage)
        preds = weighing.detach_predictions(preds)
        for metric in runner.metrics_dict.values():
            metric.update(preds, labels)
        runner.step_runner.measured = True

    def configure_optimizers(self) -> Any:
        """Return optimizer and scheduler as Lightning expects them; override this for others."""
        self.optimizer = make_optimizer(self.optimizer, self)
        if self.optimizer is None:
            raise bad_value("net", received="a net without a parameter that requires grad",
                            expected="one with a parameter to train")
        parts: Any = SimpleNamespace(net=self, loss_fn=self.loss_fn, optimizer=self.optimizer,
                                     lr_scheduler=self.lr_scheduler, step_objects={})
        for note in preflight.check_learning(parts):
            self.say(note)
        if self.lr_scheduler is None:
            return self.optimizer
        return {"optimizer": self.optimizer, "lr_scheduler": self.schedule(self.lr_scheduler)}

    def schedule(self, scheduler: LRScheduler) -> dict[str, Any]:
        """Return Lightning's settings of the scheduler: when it steps, and what it monitors."""
        updates = self.trainer.estimated_stepping_batches
        known = 0 < updates < float("inf") and (self.trainer.max_epochs or 0) > 0
        span = Span(int(self.trainer.max_epochs or 1), None, int(updates)) if known else None
        plan: dict[str, Any] = {"scheduler": scheduler,
                                "interval": interval_of(scheduler, "auto", span)}
        if isinstance(scheduler, OneCycleLR) and 0 < updates < float("inf"):
            check_length(scheduler, int(updates))
        if isinstance(scheduler, ReduceLROnPlateau):
            validates = self.trainer.enable_validation
            plan["monitor"] = "val_loss" if validates else "train_loss"
            plan["frequency"] = (self.trainer.check_val_every_n_epoch if validates else None) or 1
        return plan

    # Lightning's steps.

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a training batch and add up its numbers."""
        loss = self.count_shared_step("train", batch)
        if self.trainer.optimizers:
            self.passes["train"].last = {"lr": self.trainer.optimizers[0].param_groups[0]["lr"]}
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add up the numbers of a validation batch; several loaders count as one."""
        self.count_shared_step("val", batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add up the numbers of a test batch; several loaders count as one."""
        self.count_shared_step("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Return the net's output for a batch; labels in it are ignored."""
        return LightStep(self.forward_module, self.loss_fn, PLAIN, "val").predict(batch)

    def count_shared_step(self, stage: str, batch: Batch) -> Tensor:
        """Return the loss of a batch, after adding its numbers to those of the pass."""
        self.stage = stage
        runner = self.pass_of_stage(stage)
        numbers = self.shared_step(batch)
        check_shared_step(numbers, runner.step_runner)
        runner.losses.add({f"{stage}_{name}": value.detach() if isinstance(value, Tensor) else value
                           for name, value in numbers.items()}, runner.step_runner.weight(batch))
        communicator = runner.counting.process_strategy.communicator
        runner.counted.append(len(runner.counted) * communicator.world_size + communicator.rank)
        loss: Tensor = numbers["loss"]
        return loss

    @property
    def forward_module(self) -> nn.Module:
        """Return the net, or self if a subclass overrides ``forward``."""
        overridden = type(self).forward is not LightModel.forward
        return self if self.net is None or overridden else self.net

    # Passes over the data.

    def pass_of_stage(self, stage: str) -> EpochRunner:
        """Return the running pass of a stage; start one if there is none."""
        return self.passes[stage] if stage in self.passes else self.begin(stage)

    def begin(self, stage: str) -> EpochRunner:
        """Start a pass."""
        if stage not in self.measuring:
            metrics = make_reducible(self.metrics_dict, LightningCommunicator().world)
            self.measuring[stage] = metrics if stage == "train" else copy.deepcopy(metrics)
        self.passes[stage] = start_pass(self.forward_module, self.loss_fn, stage,
                                        self.measuring[stage], self.device,
                                        first=not self.history)
        return self.passes[stage]

    def end(self, stage: str) -> dict[str, float]:
        """End a pass: log its numbers in Lightning and return them."""
        runner = self.pass_of_stage(stage)
        several = runner.counting.process_strategy.splits_batches
        row = runner.row() if runner.counted or several else {}
        for metric in self.passes.pop(stage).metrics_dict.values():
            metric.reset()
        if self.trainer.sanity_checking:
            del self.measuring[stage]  # reset() does not clear all state of some metrics
            return {}
        self.log_dict({name: value for name, value in row.items() if name != "lr"},
                      prog_bar=stage != "test", sync_dist=several)
        return row

    def on_train_start(self) -> None:
        """Keep the epochs of a resumed run; start a new history otherwise."""
        behind = sum(epoch <= self.current_epoch for epoch in self.history.get("epoch", ()))
        self.resumed = {name: column[behind] for name, column in self.history.items()
                        if len(column) > behind}
        self.history = History({name: column[:behind] for name, column in self.history.items()}
                               if behind else {})

    def on_train_epoch_start(self) -> None:
        """Start a training pass."""
        self.validated = {}
        self.begin("train")

    def on_validation_epoch_start(self) -> None:
        """Start a validation pass."""
        self.begin("val")

    def on_test_epoch_start(self) -> None:
        """Start a test pass."""
        self.begin("test")

    def on_validation_epoch_end(self) -> None:
        """End the validation pass and keep its numbers for the epoch's row."""
        self.validated = self.end("val")

    def on_test_epoch_end(self) -> None:
        """End the test pass and log its numbers."""
        self.end("test")

    def on_train_epoch_end(self) -> None:
        """Add the epoch's row to the history and print it."""
        # a run resumed at the end of an epoch comes here again, without a batch
        over = not self.pass_of_stage("train").counted
        row = self.end("train")
        if over and self.resumed.pop("epoch", None) == self.current_epoch + 1:
            self.validated = {name: value for name, value in self.resumed.items()
                              if name.startswith("val_")}
            row = {name: value for name, value in self.resumed.items()
                   if name not in self.validated}
        self.add_row(self.history, row)
        train = {name.removeprefix("train_"): value for name, value in row.items() if name != "lr"}
        loss = {"loss": train.pop("loss")} if "loss" in train else {}
        lines = [f"\n{'=' * 80}{datetime.now():%Y-%m-%d %H:%M:%S}",
                 f"epoch = {self.current_epoch}"]
        lines += [str(rounded(one)) for one in (self.validated, train | loss) if one]
        self.say("\n".join(lines))

    def add_row(self, history: History, row: dict[str, float]) -> None:
        """Add the numbers of this epoch as a row."""
        history.open(self.current_epoch + 1)
        history.record(row | self.validated)

    def say(self, text: str) -> None:
        """Print in the main process, above Lightning's bar."""
        if not self.quiet:
            self.print(encodable(text, encoding()))

    def get_history(self) -> pd.DataFrame:
        """Return the table of the last fit, for ``plot_metric`` for instance.

        Returns:
            A DataFrame, one row for each completed epoch: ``epoch, train_loss, train_<metric>, lr,
            val_loss, val_<metric>``. ``lr`` is the rate of the epoch's last update; numbers that
            were not measured are NaN. Lightning's checkpoints contain it, so a resumed run has all
            its epochs; the row of an epoch that is resumed in the middle covers the remaining
            batches.
        """
        return self.history.to_frame()

    def summary(self, *args: Value, **kwargs: Value) -> Any:
        """Print the net layer by layer; arguments as in :func:`torchkeras.summary` but ``net``."""
        from torchkeras.summary import summary

        return summary(self.forward_module, *args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the history in a Lightning checkpoint, with the row of the running epoch."""
        history = copy.deepcopy(self.history)
        if "train" in self.passes:
            self.add_row(history, self.passes["train"].row())
        checkpoint[SAVED] = dict(history)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the history from a Lightning checkpoint."""
        self.history = History(checkpoint.get(SAVED, {}))

    @classmethod
    @short_traceback
    def load_from_checkpoint(cls, checkpoint_path: Any, *args: Value, **parts: Value) -> Any:
        """Build a model from its parts, and load a checkpoint of Lightning's into it.

        Args:
            checkpoint_path: what ``ModelCheckpoint`` or ``trainer.save_checkpoint`` wrote.
            *args: as Lightning takes them: ``map_location``, ``hparams_file``, ``strict``.
            **parts: the arguments of the class, ``net`` among them: a checkpoint holds the weights
                of a net, not the net.

        Raises:
            TypeError: no net is given, and the class makes none.

        Example:
            >>> LightModel.load_from_checkpoint("best.ckpt", net=net)  # doctest: +SKIP
        """
        if cls.__init__ is LightModel.__init__ and parts.get("net") is None:
            raise bad_type("net", received="none",
                           expected="the net whose weights the checkpoint holds",
                           fix=f"{cls.__name__}.load_from_checkpoint(path, net=net).")
        return super().load_from_checkpoint(checkpoint_path, *args, **parts)

    @staticmethod
    @short_traceback
    def Trainer(*args: Value, gpus: int | Sequence[int] | None = None,
                tpu_cores: int | Sequence[int] | None = None, **options: Value) -> pl.Trainer:
        """Build Lightning's ``Trainer``; the older arguments gpus and tpu_cores work too.

        Args:
            *args: as ``pytorch_lightning.Trainer`` takes them.
            gpus: how many GPUs: 0 for the CPU, -1 for all, or a list of their numbers.
            tpu_cores: how many TPU cores, or a list of their numbers.
            **options: the other arguments of ``pytorch_lightning.Trainer``.

        Raises:
            TypeError: a flag is neither a number nor a list of numbers, or Lightning does not know
                an argument.
            ValueError: a number is invalid, or two flags say where to compute.

        Example:
            >>> LightModel.Trainer(gpus=0, logger=False, enable_checkpointing=False).num_devices
            1
        """
        known = list(inspect.signature(pl.Trainer).parameters)
        version = importlib.metadata.version("pytorch-lightning")
        for name in options:
            if name not in known:
                raise bad_type(f"Trainer({name}=...)",
                               received="an argument that Lightning does not know",
                               expected=f"one of pytorch_lightning {version}",
                               fix=did_you_mean(name, known))
        return pl.Trainer(*args, **where_to_compute(gpus, tpu_cores, options))


def rounded(numbers: Mapping[str, float]) -> dict[str, float]:
    """Round numbers to six significant digits."""
    return {name: float(f"{value:.6g}") for name, value in numbers.items()}
