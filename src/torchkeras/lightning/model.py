"""LightModel: any net with a loss and metrics, trained by pytorch-lightning's Trainer."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau

from torchkeras.callbacks.needed import needed
from torchkeras.checks import preflight
from torchkeras.core.errors import bad_type, bad_value, did_you_mean
from torchkeras.core.screen import encoding
from torchkeras.core.text import encodable
from torchkeras.core.tracebacks import short_traceback
from torchkeras.distributed.reducible_metrics import joinable
from torchkeras.engine.epoch import EpochRunner
from torchkeras.engine.history import History
from torchkeras.engine.lr_schedule import Span, check_length, interval_of
from torchkeras.lightning.steps import PLAIN, Lightnings, LightStep, begun, check_told
from torchkeras.lightning.trainer_flags import where_to_compute
from torchkeras.training import names
from torchkeras.training.arguments import make_optimizer, named_metrics
from torchkeras.weighting import weighing

if TYPE_CHECKING:
    import pandas as pd
    import pytorch_lightning as pl
else:
    pl = needed("pytorch_lightning", "LightModel", "pytorch-lightning")

SAVED = "torchkeras_history"  # where a Lightning checkpoint keeps the epochs behind it


class LightModel(pl.LightningModule):
    """Train a net with pytorch-lightning's ``Trainer``, and get the numbers and the history of ``KerasModel``.

    Two ways. Pass the parts. Or subclass: ``shared_step(batch)`` says what the loss of a batch is (and what else to
    watch), ``configure_optimizers()`` what learns; the layers may be ``net`` or your own with a ``forward``. All that
    Lightning offers stays as it is: its callbacks, checkpoints, loggers, precision and strategies watch ``train_loss``,
    ``val_loss``, ``val_<metric>``. A hook that you override should call ``super()``.

    Numbers of an epoch are means over its samples, and metrics count over the whole epoch; of several processes, over
    the samples of all (Lightning's sampler may repeat a few, to give each process as many). Each epoch prints a dated
    rule, its number (from 1), what was measured on the validation data and what on the training data. After ``fit``
    the net holds the last weights; Lightning's ``ModelCheckpoint`` keeps the best.

    Args:
        net: the module to train.
        loss_fn: ``(preds, labels) -> scalar``: a module, a function or a name such as ``"cross_entropy"``. None for a
            net whose output brings its own ``loss``.
        metrics_dict: a dict of name to metric (ours, torchmetrics', a function ``(preds, labels)``, or a name), or a
            list of names such as ``["accuracy", "auc"]``.
        optimizer: a torch optimizer on the parameters, or a name such as ``"adam"``. Default: Adam, lr 3e-4.
        lr_scheduler: a torch scheduler on that optimizer. OneCycleLR and CyclicLR move with every update,
            ReduceLROnPlateau with the validation loss (the training loss, where nothing is validated), the rest with
            every epoch.
        quiet: print nothing.

    Raises:
        ImportError: pytorch-lightning is not installed.
        TypeError: a part is of the wrong kind, such as a class where an object is meant.
        ValueError: a name is unknown, or a metric's name is taken.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> loader = DataLoader(TensorDataset(torch.randn(64, 4), torch.randint(0, 2, (64,))), batch_size=16)
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
        >>> model = LightModel(net=torch.nn.Linear(4, 2), loss_fn="cross_entropy", metrics_dict={"acc": "accuracy"})
        >>> model.shared_step(next(iter(loader)))["loss"].shape
        torch.Size([])
    """

    @short_traceback
    def __init__(self, net: nn.Module | None = None, loss_fn: Any = None,
                 metrics_dict: Mapping[str, Any] | Sequence[Any] | None = None, optimizer: Any = None,
                 lr_scheduler: Any = None, *, quiet: bool = False) -> None:
        super().__init__()
        loss_fn = names.loss(loss_fn) if isinstance(loss_fn, str) else loss_fn
        if isinstance(optimizer, str):
            names.look_up("optimizer", optimizer, names.optimizers())
        for argument, part in (("optimizer", optimizer), ("lr_scheduler", lr_scheduler)):
            if isinstance(part, (list, tuple, Mapping)):
                raise bad_type(argument, received=f"a {type(part).__name__} of several", expected="one",
                               fix="Lightning moves several by manual optimization only: override "
                                   "configure_optimizers and training_step, or use KerasModel.")
        preflight.check_parts(self if net is None else net, loss_fn,
                              None if isinstance(optimizer, str) else optimizer, lr_scheduler)
        self.net, self.loss_fn = net, loss_fn
        self.metrics_dict = named_metrics(metrics_dict, loss_fn)
        self.optimizer, self.lr_scheduler, self.quiet = optimizer, lr_scheduler, quiet
        self.history = History()
        self.stage = "train"  # of the batch in hand: "train", "val" or "test"
        self.passes: dict[str, EpochRunner] = {}  # those under way, by stage
        self.measuring: dict[str, dict[str, Any]] = {}  # metrics by stage: a validation may come in mid-epoch
        self.validated: dict[str, float] = {}  # in this epoch
        self.resumed: dict[str, float] = {}  # the row of the epoch in which a checkpoint was saved

    # What a batch is worth: override shared_step, or let the parts decide.

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the net."""
        if self.net is None:
            raise bad_type("net", received="None", expected="an nn.Module",
                           fix="Pass net=..., or write forward in your subclass.")
        return self.net(*args, **kwargs)

    def shared_step(self, batch: Any) -> Mapping[str, Any]:
        """The loss of a batch under "loss", and any other number of it: override this.

        Each is averaged over the samples of the epoch. What is no such average (an AUC, an F1) belongs into
        ``metrics_dict``, and is fed by :meth:`measure` or by ``super().shared_step(batch)``.

        Args:
            batch: what the loader gives, for training, validation and test alike; ``self.stage`` says for which.

        Returns:
            ``{"loss": scalar tensor, ...}``.
        """
        step = self.under_way(self.stage).step_runner
        preds, labels, loss = step.rehearse(batch) if step.rehearsing else step.try_out(batch)
        self.measure(preds, labels)
        return {"loss": loss}

    def measure(self, preds: Any, labels: Any) -> None:
        """Let the metrics of ``metrics_dict`` count a batch; call it in a ``shared_step`` of your own.

        Args:
            preds: the net's output, shape (N, ...).
            labels: what it should have been.
        """
        runner = self.under_way(self.stage)
        preds = weighing.scores(preds)
        for metric in runner.metrics_dict.values():
            metric.update(preds, labels)
        runner.step_runner.measured = True

    def configure_optimizers(self) -> Any:
        """The optimizer and the schedule that were passed, in Lightning's terms: override this for others."""
        self.optimizer = make_optimizer(self.optimizer, self)
        if self.optimizer is None:
            raise bad_value("net", received="a net without a parameter that requires grad",
                            expected="one that can learn")
        parts: Any = SimpleNamespace(net=self, loss_fn=self.loss_fn, optimizer=self.optimizer,
                                     lr_scheduler=self.lr_scheduler, step_objects={})
        for note in preflight.check_learning(parts):
            self.say(note)
        if self.lr_scheduler is None:
            return self.optimizer
        return {"optimizer": self.optimizer, "lr_scheduler": self.schedule()}

    def schedule(self) -> dict[str, Any]:
        """When the scheduler moves, and by what."""
        scheduler, updates = self.lr_scheduler, self.trainer.estimated_stepping_batches
        known = 0 < updates < float("inf") and (self.trainer.max_epochs or 0) > 0
        span = Span(int(self.trainer.max_epochs or 1), None, int(updates)) if known else None
        plan = {"scheduler": scheduler, "interval": interval_of(scheduler, "auto", span)}
        if isinstance(scheduler, OneCycleLR) and 0 < updates < float("inf"):
            check_length(scheduler, int(updates))
        if isinstance(scheduler, ReduceLROnPlateau):
            validates = self.trainer.enable_validation
            plan["monitor"] = "val_loss" if validates else "train_loss"
            plan["frequency"] = (self.trainer.check_val_every_n_epoch if validates else None) or 1
        return plan

    # Lightning's steps.

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss and numbers of a training batch."""
        loss = self.counted("train", batch)
        if self.trainer.optimizers:
            self.passes["train"].last = {"lr": self.trainer.optimizers[0].param_groups[0]["lr"]}
        return loss

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The same of a validation batch; several loaders count as one."""
        self.counted("val", batch)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """The same of a test batch; several loaders count as one."""
        self.counted("test", batch)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Return what the net puts out for a batch, called as for the loss of the parts; labels are left aside."""
        return LightStep(self.called, self.loss_fn, PLAIN, "val").predict(batch)

    def counted(self, stage: str, batch: Any) -> Tensor:
        """The loss of a batch, whose numbers are added to those of its pass."""
        self.stage = stage
        runner = self.under_way(stage)
        told = self.shared_step(batch)
        check_told(told, runner.step_runner)
        runner.losses.add({f"{stage}_{name}": value.detach() if isinstance(value, Tensor) else value
                           for name, value in told.items()}, runner.step_runner.weight(batch))
        together = runner.together
        runner.counted.append(len(runner.counted) * together.world + together.rank)
        loss: Tensor = told["loss"]
        return loss

    @property
    def called(self) -> nn.Module:
        """Whose forward takes the features: the net's, or the one that a subclass wrote."""
        return self if self.net is None or type(self).forward is not LightModel.forward else self.net

    # What a pass over the data comes to.

    def under_way(self, stage: str) -> EpochRunner:
        """The pass of a stage, begun if there is none."""
        return self.passes[stage] if stage in self.passes else self.begin(stage)

    def begin(self, stage: str) -> EpochRunner:
        """Start counting."""
        if stage not in self.measuring:
            metrics = joinable(self.metrics_dict, Lightnings().world)
            self.measuring[stage] = metrics if stage == "train" else copy.deepcopy(metrics)
        self.passes[stage] = begun(self.called, self.loss_fn, stage, self.measuring[stage], self.device,
                                   first=not self.history)
        return self.passes[stage]

    def end(self, stage: str) -> dict[str, float]:
        """The numbers of a pass, which is over; they go to whoever monitors and logs."""
        runner = self.under_way(stage)
        row = runner.row() if runner.counted or runner.together.world > 1 else {}
        for metric in self.passes.pop(stage).metrics_dict.values():
            metric.reset()
        if self.trainer.sanity_checking:
            del self.measuring[stage]  # some metrics remember more than reset() clears
            return {}
        self.log_dict({name: value for name, value in row.items() if name != "lr"}, prog_bar=stage != "test",
                      sync_dist=runner.together.world > 1)
        return row

    def on_train_start(self) -> None:
        """Keep the epochs that are behind: none, or those of a run that goes on."""
        behind = sum(epoch <= self.current_epoch for epoch in self.history.get("epoch", ()))
        self.resumed = {name: column[behind] for name, column in self.history.items() if len(column) > behind}
        self.history = History({name: column[:behind] for name, column in self.history.items()} if behind else {})

    def on_train_epoch_start(self) -> None:
        """A new epoch, nothing counted."""
        self.validated = {}
        self.begin("train")

    def on_validation_epoch_start(self) -> None:
        """A new validation, nothing counted."""
        self.begin("val")

    def on_test_epoch_start(self) -> None:
        """A new test, nothing counted."""
        self.begin("test")

    def on_validation_epoch_end(self) -> None:
        """Remember what was measured, for the row of the epoch."""
        self.validated = self.end("val")

    def on_test_epoch_end(self) -> None:
        """Tell Lightning what was measured."""
        self.end("test")

    def on_train_epoch_end(self) -> None:
        """Write the row of the epoch, and print it."""
        over = not self.under_way("train").counted  # what goes on from the end of an epoch comes by here once more
        row = self.end("train")
        if over and self.resumed.pop("epoch", None) == self.current_epoch + 1:
            self.validated = {name: value for name, value in self.resumed.items() if name.startswith("val_")}
            row = {name: value for name, value in self.resumed.items() if name not in self.validated}
        self.add_row(self.history, row)
        train = {name.removeprefix("train_"): value for name, value in row.items() if name != "lr"}
        loss = {"loss": train.pop("loss")} if "loss" in train else {}
        lines = [f"\n{'=' * 80}{datetime.now():%Y-%m-%d %H:%M:%S}", f"epoch = {self.current_epoch + 1}"]
        lines += [str(shortened(one)) for one in (self.validated, train | loss) if one]
        self.say("\n".join(lines))

    def add_row(self, history: History, row: dict[str, float]) -> None:
        """The numbers of this epoch as a row."""
        history.open(self.current_epoch + 1)
        history.record(row | self.validated)

    def say(self, text: str) -> None:
        """Print in the first process, beside Lightning's bar."""
        if not self.quiet:
            self.print(encodable(text, encoding()))

    def get_history(self) -> pd.DataFrame:
        """The table of the last fit, to look at or for ``plot_metric``.

        Returns:
            A DataFrame, one row an epoch that came to its end: ``epoch, train_loss, train_<metric>, lr, val_loss,
            val_<metric>``. ``lr`` is the rate of the epoch's last update; where Lightning did not validate is NaN.
            A checkpoint of Lightning carries it, so a run that goes on from one has all its epochs; of an epoch that
            it goes on in the middle of, the batches that were left are counted.
        """
        return self.history.to_frame()

    def summary(self, *args: Any, **kwargs: Any) -> Any:
        """Print the net layer by layer; the arguments are those of :func:`torchkeras.summary` without the net."""
        from torchkeras.summary import summary

        return summary(self.called, *args, **kwargs)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the epochs in a checkpoint of Lightning, that of the validation just done included."""
        history = copy.deepcopy(self.history)
        if "train" in self.passes:
            self.add_row(history, self.passes["train"].row())
        checkpoint[SAVED] = dict(history)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the epochs out of one."""
        self.history = History(checkpoint.get(SAVED, {}))

    @staticmethod
    @short_traceback
    def Trainer(*args: Any, gpus: int | Sequence[int] | None = None, tpu_cores: int | Sequence[int] | None = None,
                **options: Any) -> pl.Trainer:
        """Build Lightning's ``Trainer`` from arguments of any age.

        Args:
            *args: as ``pytorch_lightning.Trainer`` takes them.
            gpus: how many GPUs: 0 for the CPU, -1 for all, or a list of their numbers.
            tpu_cores: how many TPU cores, or a list of their numbers.
            **options: the other arguments of ``pytorch_lightning.Trainer``.

        Raises:
            TypeError: a flag is neither a number nor a list of numbers, or Lightning does not know an argument.
            ValueError: the number cannot be, or two flags say where to compute.

        Example:
            >>> LightModel.Trainer(gpus=0, logger=False, enable_checkpointing=False).num_devices
            1
        """
        known = list(inspect.signature(pl.Trainer).parameters)
        for name in options:
            if name not in known:
                raise bad_type(f"Trainer({name}=...)", received="an argument that Lightning does not know",
                               expected=f"one of pytorch_lightning {pl.__version__}", fix=did_you_mean(name, known))
        return pl.Trainer(*args, **where_to_compute(gpus, tpu_cores, options))


def shortened(numbers: Mapping[str, float]) -> dict[str, float]:
    """Numbers with six digits."""
    return {name: float(f"{value:.6g}") for name, value in numbers.items()}
