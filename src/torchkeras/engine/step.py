"""One batch: forward, loss, backward, update, measure."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from torchkeras.core.accumulation import AccumulateCalls
from torchkeras.core.optimizers import clear_gradients, current_lr, needs_closure, parameters_moved
from torchkeras.core.types import Batch, Labels, LossFn, Preds, Stage, StepOutput
from torchkeras.data import batch as batches
from torchkeras.engine.checked_step import CheckedStep, prepare
from torchkeras.weighting import weighing

if TYPE_CHECKING:
    from accelerate import Accelerator

UNCHANGED = nullcontext()  # the context of a step in full precision


class StepRunner(CheckedStep):
    """Takes one batch through the net. Subclass it and override the one verb to change.

    Example:
        >>> class Clamped(StepRunner):
        ...     def loss(self, preds, labels, weights=None):
        ...         return super().loss(preds, labels, weights).clamp(max=10)
    """

    def __init__(self, net: nn.Module, loss_fn: LossFn | None, accelerator: Accelerator,
                 stage: Stage = "train", metrics_dict: Mapping[str, Any] | None = None,
                 optimizer: Any = None, lr_scheduler: Any = None) -> None:
        self.net, self.loss_fn, self.accelerator, self.stage = net, loss_fn, accelerator, stage
        self.metrics_dict = dict(metrics_dict or {})
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.per_step_schedule = lr_scheduler  # stepped after every update
        self.takes_closure = optimizer is not None and needs_closure(optimizer)
        self.training = stage == "train" and optimizer is not None
        self.full_precision = accelerator.mixed_precision == "no"
        self.current_microbatch = AccumulateCalls(accelerator)
        prepare(self, StepRunner)

    def __call__(self, batch: Batch) -> StepOutput:
        """Run a batch: forward, loss, backward, update, measure."""
        compute = self.validate_first_batch if self.rehearsing else self.forward_and_loss
        preds, labels, loss = compute(batch)
        if self.training:
            loss = self.check_finite_loss(loss, preds, batch)
            self.learning_rate = current_lr(self.optimizer)
            if self.takes_closure:
                self.optimizer.step(self.closure(batch, loss))
            else:
                self.backward(loss)
            self.update()
        return self.measure(loss, preds, labels)

    def forward(self, batch: Batch) -> tuple[Any, ...]:
        """Run the net on a batch; return ``(preds, labels)`` or ``(preds, labels, weights)``."""
        features, labels, weights = batches.split(
            batch, self.net, self.loss_fn, whole_numbers=self.whole_numbers, labelled=self.labelled)
        own_loss = self.loss_fn is None and isinstance(batch, Mapping)  # the net takes its labels
        preds = batches.call(self.net, batch if own_loss else features)
        return (preds, labels) if weights is None else (preds, labels, weights)

    def predict(self, batch: Batch) -> Preds:
        """Return the predictions for a batch, with or without labels.

        Override it to predict otherwise, for example to generate text: return tensors whose first
        dimension is the samples, or a list with an item for each sample.
        """
        return self.forward(batch)[0]

    def loss(self, preds: Preds, labels: Labels, weights: Tensor | None = None) -> Any:
        """Return the scalar to learn from, or ``(scalar, {name: part of it})``."""
        if self.loss_fn is None and (own := weighing.own_loss(preds)) is not None:
            return own
        preds = self.preds_for_loss(preds, labels)
        if self.config.class_weight is not None and self.stage == "train":
            weights = self.weights_by_class(preds, labels, weights)
        return weighing.weighted(self.loss_fn, preds, labels, weights)

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, weighted by the batch's share of its accumulation window."""
        divisor = self.current_microbatch.divisor
        if not self.full_precision:
            self.accelerator.backward(loss)  # divides by itself
        else:
            (loss if divisor is None else loss / divisor).backward()

    def update(self) -> None:
        """Clip, step optimizer and per-step schedule, clear gradients; only where a window ends."""
        if not self.current_microbatch.last:
            return
        self.process_strategy.before_update(self)
        self.note_gradient_norm()
        if not self.takes_closure:
            self.clip()
            self.optimizer.step()
        if self.per_step_schedule is not None:
            self.per_step_schedule.step()
        clear_gradients(self.optimizer)

    def clip(self) -> None:
        """Bound the gradients of the net and of all else that the optimizer moves, if requested."""
        norm, value = self.config.clip_grad_norm, self.config.clip_grad_value
        if norm is None and value is None:
            return
        weights = parameters_moved(self.net, self.optimizer)
        self.accelerator.unscale_gradients()  # a scaler allows it once an update
        if norm is not None:
            nn.utils.clip_grad_norm_(weights, norm)
        if value is not None:
            nn.utils.clip_grad_value_(weights, value)

    def measure(self, loss: Tensor, preds: Preds, labels: Labels) -> StepOutput:
        """Let the metrics count, without reading a number from the device."""
        if self.metrics_dict:
            self.update_or_hold_metrics(preds, labels)
        losses = {f"{self.stage}_loss": loss.detach()}
        if self.parts:
            losses |= self.loss_parts_by_name()
        return StepOutput(losses, {"lr": self.rate_of_batch()} if self.stage == "train" else {})

    def autocast(self) -> AbstractContextManager[Any]:
        """Compute in mixed precision where requested."""
        return UNCHANGED if self.full_precision else self.accelerator.autocast()
