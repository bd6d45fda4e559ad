"""One batch: forward, loss, backward, update, measure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from torchkeras import outputs
from torchkeras.data import batch as batches
from torchkeras.engine import gradients, preflight, weighing
from torchkeras.engine.config import FitConfig
from torchkeras.engine.ending import NonFiniteLoss, Request
from torchkeras.engine.together import Alone
from torchkeras.engine.words import Logs, Stage, StepOutput

if TYPE_CHECKING:
    from accelerate import Accelerator


class StepRunner:
    """Takes one batch through the net. Designed to be subclassed: override the one verb you want changed.

    Example:
        >>> class Clamped(StepRunner):
        ...     def loss(self, preds, labels, weights=None):
        ...         return super().loss(preds, labels, weights).clamp(max=10)
    """

    config: FitConfig = FitConfig()  # set by the loop before the first batch
    together: Alone = Alone()  # the processes of the job, set by the loop too
    rehearsing = False  # True for the first training batch of a run: it is looked at before anything is updated

    def __init__(self, net: nn.Module, loss_fn: Any, accelerator: Accelerator, stage: Stage = "train",
                 metrics_dict: Mapping[str, Any] | None = None, optimizer: Any = None,
                 lr_scheduler: Any = None) -> None:
        self.net, self.loss_fn, self.accelerator, self.stage = net, loss_fn, accelerator, stage
        self.metrics_dict = dict(metrics_dict or {})
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.training = stage == "train" and optimizer is not None
        self.plain = accelerator.mixed_precision == "no"

    def __call__(self, batch: Any) -> StepOutput:
        """Forward, loss, backward, update, measure."""
        preds, labels, loss = self.rehearse(batch) if self.rehearsing else self.try_out(batch)
        if self.training:
            self.guard(loss)
            self.backward(loss)
            self.update()
        return self.measure(loss, preds, labels)

    def try_out(self, batch: Any) -> tuple[Any, Any, Tensor]:
        """Predictions, labels and loss of a batch."""
        with self.autocast():
            preds, labels, *weights = self.forward(batch)
            if self.rehearsing:
                preflight.check_labels(self.loss_fn, outputs.scored(self.loss_fn, preds), labels)
            return preds, labels, self.loss(preds, labels, *weights)

    def rehearse(self, batch: Any) -> tuple[Any, Any, Tensor]:
        """The same for the first batch, which is looked at for mistakes while nothing has changed yet."""
        with self.together.same_fate():
            preds, labels, loss = self.try_out(batch)
            preflight.check_loss(loss, self.net, batch, counts=self.counts_here)
            gradients.check_reached(self, loss)
        with self.together.same_fate():
            whole = self.together.gather((weighing.scores(preds), labels)) if self.metrics_dict else []
            preflight.check_metrics(self.metrics_dict, *outputs.whole(whole))
        self.rehearsing = False
        return preds, labels, loss

    def forward(self, batch: Any) -> tuple[Any, ...]:
        """Take the batch apart and run the net: ``(preds, labels)``, or ``(preds, labels, sample weights)``."""
        features, labels, weights = batches.split(batch)
        own_loss = self.loss_fn is None and isinstance(batch, Mapping)  # then the net takes its labels itself
        preds = batches.call(self.net, batch if own_loss else features)
        return (preds, labels) if weights is None else (preds, labels, weights)

    def predict(self, batch: Any) -> Any:
        """Return what the net predicts for a batch, with or without labels: the preds of ``forward``.

        Override it where that is something else, such as text that a net generates: return tensors whose first
        dimension is the samples, or a list with an item for each sample.
        """
        return self.forward(batch)[0]

    def loss(self, preds: Any, labels: Any, weights: Tensor | None = None) -> Tensor:
        """The scalar to learn from; a net that brings its own loss is taken at its word."""
        own = weighing.own_loss(preds) if self.loss_fn is None else None
        if own is not None:
            return own
        preflight.check_has_loss(self.loss_fn, labels)
        preds = outputs.scored(self.loss_fn, preds)
        if self.config.class_weight is not None and self.stage == "train":
            weights = weighing.by_class(self.config.class_weight, preds, labels, weights)
        if weights is None:
            return self.loss_fn(preds, labels)
        return weighing.weighted_loss(self.loss_fn, preds, labels, weights)

    def backward(self, loss: Tensor) -> None:
        """Gradients; in an accumulation window, each part counts by its share of the window's samples."""
        if not self.plain:
            self.accelerator.backward(loss)
        elif self.accelerator.gradient_accumulation_steps == 1:
            loss.backward()
        else:
            (loss / self.accelerator.gradient_accumulation_steps).backward()

    def update(self) -> None:
        """At the end of a window: clip on request, step the optimizer and a per-step schedule, clear gradients."""
        self.learning_rate = self.optimizer.param_groups[0]["lr"]
        if not self.accelerator.sync_gradients:
            return
        if self.together.world > 1:
            gradients.check_sound(self)
        if self.config.clip_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.net.parameters(), self.config.clip_grad_norm)
        if self.config.clip_grad_value is not None:
            self.accelerator.clip_grad_value_(self.net.parameters(), self.config.clip_grad_value)
        self.optimizer.step()
        if self.lr_scheduler is not None:
            self.lr_scheduler.step()
        self.optimizer.zero_grad()

    def measure(self, loss: Tensor, preds: Any, labels: Any) -> StepOutput:
        """Let the metrics count; no number is read from the device here."""
        if self.metrics_dict:
            preds = weighing.scores(preds)
            for metric in self.metrics_dict.values():
                metric.update(preds, labels)
        metrics: Logs = {"lr": self.learning_rate} if self.training else {}
        return StepOutput({f"{self.stage}_loss": loss.detach()}, metrics)

    def count(self, batch: Any) -> float | Tensor:
        """What the loss of this batch is a mean over: its samples, or their class weights, or its tokens."""
        if self.config.class_weight is not None and self.stage == "train":
            return batches.size(batch)
        return weighing.mean_over(self.loss_fn, batch)

    def guard(self, loss: Tensor) -> None:
        """Stop before a loss that is not finite spoils the weights; reading it costs nothing on a CPU only."""
        if loss.is_cpu and not math.isfinite(value := loss.item()):
            if self.together.world == 1:
                raise NonFiniteLoss(f"{self.stage}_loss is {value}")
            if self.counts_here:  # else it is 0/0, times 0
                gradients.spoil(self)  # the other processes wait for these gradients: all stop before the update
                self.together.request = Request(f"{self.stage}_loss is {value} in process {self.together.rank}", True)

    @property
    def counts_here(self) -> bool:
        """Whether anything counts in this process's part of a batch; where all labels are ignored, nothing does."""
        divisor = self.accelerator.gradient_accumulation_steps
        return not (isinstance(divisor, float) and math.isinf(divisor))

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision where it was asked for."""
        return nullcontext() if self.plain else self.accelerator.autocast()
