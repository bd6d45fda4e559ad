"""Check the first batch of a step, and explain what goes wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from torchkeras.checks import divergence, explain, label_checks, metric_checks, preflight
from torchkeras.core import modes
from torchkeras.core.optimizers import current_lr
from torchkeras.core.types import WHOLE, Batch, Labels, Logs, Preds
from torchkeras.data import batch as batches
from torchkeras.data import outputs
from torchkeras.engine.config import FitConfig
from torchkeras.engine.strategy import SingleProcess
from torchkeras.state.components import loss_modules
from torchkeras.weighting import examination, next_labels, weighing
from torchkeras.weighting.counting import Counting, with_parts
from torchkeras.weighting.denominator import LossFacts, is_class_loss

if TYPE_CHECKING:
    from accelerate import Accelerator

    from torchkeras.core.types import Stage

VERBS = ("forward", "loss", "count")  # overriding one changes what a batch counts


class CheckedStep(Counting):
    """A step whose batches are checked. The loop sets these attributes before each pass."""

    accelerator: Accelerator
    stage: Stage
    training: bool
    calls_itself: bool  # whether a user's __call__ takes the batch through the net
    measures_itself: bool  # whether a user's measure feeds the metrics
    optimizer: Any
    lr_scheduler: Any
    metrics_dict: dict[str, Any]
    config: FitConfig = FitConfig()
    process_strategy: SingleProcess = SingleProcess()  # how several processes share the work
    # the batch's place in its optimizer update; until it is known, what accelerate says
    current_microbatch: Any = WHOLE
    bound = 0.0  # losses below it are not checked
    grown = False  # whether a loss was far above the first of its pass
    gradient_norm: float | None = None  # at the last update, once a loss has grown
    rehearsing = False  # True for the first training batch of a run: validated before any update
    notes: list[str]  # what a reader should know
    weighed = False  # whether class weights were looked at
    labelled = True  # whether labels are needed: not to predict
    whole_numbers = True  # whether a third item of whole numbers is weights: not from a loader
    looking = False  # True for the first batch of any pass: its labels are checked before the loss
    argument = "train_data"  # what errors call the data
    waiting: list[tuple[Any, Any]] | None = None  # for metrics, until the left-out labels are known
    measured_by: modes.UnchangedBuffers | None = None  # of the loss, as before a measuring pass
    trouble: Exception | None = None  # an error of the validation data, raised before an update
    number = 0  # of the batch in its pass
    parts: Logs  # what the loss gave beside its value
    learning_rate: Any = None  # before the update; None until a user's __call__ calls update

    def forward(self, batch: Batch) -> tuple[Any, ...]:
        """Take the batch apart and run the net."""
        raise NotImplementedError

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        raise NotImplementedError

    def clip(self) -> None:
        """Bound the gradients."""
        raise NotImplementedError

    def loss(self, preds: Preds, labels: Labels, weights: Tensor | None = None) -> Any:
        """Compute the loss."""
        raise NotImplementedError

    def autocast(self) -> Any:
        """Compute in the requested precision."""
        raise NotImplementedError

    def forward_and_loss(self, batch: Batch) -> tuple[Preds, Labels, Tensor]:
        """Return predictions, labels and loss of a batch; measuring leaves buffers as they were."""
        if self.training:
            return self.computed(batch)
        if self.measured_by is None:
            self.measured_by = modes.UnchangedBuffers(*loss_modules(self.loss_fn))
        found: tuple[Any, Any, Tensor] = modes.with_gradients_if_needed(
            self.net, self.computed, batch)
        self.measured_by.restore()
        return found

    def computed(self, batch: Batch) -> tuple[Preds, Labels, Tensor]:
        """Run the net and the loss on a batch; explain an error that they raise."""
        preds = labels = None
        try:
            with self.autocast():
                preds, labels, *weights = self.forward(batch)
                if self.looking:
                    self.look(preds, labels, batch)
                found: Any = self.loss(preds, labels, *weights)
        except Exception as error:
            explain.in_step(error, self, batch, preds, labels)
            raise
        self.seen, self.number = labels, self.number + 1
        loss, self.parts = found if with_parts(found) else (found, {})
        if self.number == 1:
            preflight.check_number(loss)
        elif self.facts.paired and not weights:
            empty = loss.is_cpu and not math.isfinite(loss.item())  # costs nothing on a CPU only
            if empty or examination.is_check_due(self.number):
                examination.check_later_batch(
                    self, preds, labels, empty=empty, divided=self.divided)
        return preds, labels, loss

    @property
    def divided(self) -> bool:
        """Tell whether an update is made of several batches, or of parts of one."""
        return self.training and (self.config.gradient_accumulation_steps > 1
                                  or self.process_strategy.splits_batches)

    def look(self, preds: Preds, labels: Labels, batch: Batch) -> None:
        """Check the labels of a pass's first batch: the loss may refuse or misread them."""
        self.looking = False
        if "forward" not in self.own:
            self.notes.extend(
                note for note in batches.layout_notes(batch, self.net, self.loss_fn is not None)
                if note not in self.notes)
        loss: Callable[..., Any] = self.loss if "loss" in self.own else self.loss_fn
        label_checks.check_labels(
            loss, self.loss_fn, outputs.loss_inputs(self.loss_fn, preds), labels, self.argument)

    def validate_first_batch(self, batch: Batch) -> tuple[Preds, Labels, Tensor]:
        """Run :meth:`forward_and_loss` and all checks before the first update."""
        strategy = self.process_strategy
        with strategy.raise_on_all_ranks():
            preds, labels, loss = self.forward_and_loss(batch)
            microbatch, weight = self.current_microbatch, self.weight(batch)
            counts = microbatch.has_labels and not weighing.none_counts(weight)
            preflight.check_loss(
                loss, lambda: divergence.why(self, batch), self.argument, counts=counts)
            preflight.check_parts_of_loss(self.parts, self.metrics_dict)
            preflight.check_weighed(self.config.class_weight, self.weighed)
            strategy.check_calls_modules(self, loss)
        with strategy.raise_on_all_ranks():
            watched = {} if self.measures_itself else self.metrics_dict
            whole = strategy.all_gather(
                (weighing.detach_predictions(preds), labels)) if watched else []
            with explain.in_metrics(self.net, preds, labels):
                metric_checks.check_metrics(watched, *outputs.merge_parts(whole))
        self.rehearsing = False
        if self.trouble is not None:
            raise self.trouble
        return preds, labels, loss

    def preds_for_loss(self, preds: Preds, labels: Labels) -> Preds:
        """Return the part of the net's output that the loss compares with the labels."""
        if self.loss_fn is None or labels is None:
            preflight.check_has_loss(self.loss_fn, labels, self.argument)
        return preds if type(preds) is Tensor else outputs.loss_inputs(self.loss_fn, preds)

    def weights_by_class(self, preds: Preds, labels: Labels, weights: Tensor | None) -> Tensor:
        """Return the weight of each sample by its class, as ``class_weight`` asks."""
        self.weighed = True
        if self.rehearsing:
            preflight.check_classes(labels)
        table: Any = self.config.class_weight
        return weighing.class_weights_of(table, preds, labels, weights)

    def check_finite_loss(self, loss: Tensor, preds: Preds, batch: Batch) -> Tensor:
        """Stop before a non-finite loss spoils the weights, on a CPU: reading it is free there."""
        if not loss.is_cpu or -self.bound < (value := loss.item()) < self.bound:
            return loss
        if math.isfinite(value):  # the first of a pass, or one that has grown
            self.grown = self.bound > 0
            self.bound = math.inf if self.grown else divergence.GROWN * abs(value) + 1
            return loss
        if not self.current_microbatch.has_labels or weighing.none_counts(self.weight(batch)):
            # 0/0: the gradient of torch's cross entropy is zero there, that of others is NaN
            return loss if is_class_loss(self.loss_fn) else (
                weighing.zero_of(preds, self.loss_fn, loss))
        self.process_strategy.report_non_finite(
            self, f"{self.stage}_loss is {value}", divergence.why(self, batch))
        return loss

    def note_gradient_norm(self) -> None:
        """Measure the gradients once a loss has grown, for the message if it becomes NaN."""
        if self.calls_itself:
            self.learning_rate = current_lr(self.optimizer)
        if self.grown:
            self.gradient_norm = divergence.norm(weight.grad for weight in self.net.parameters())

    def rate_of_batch(self) -> Any:
        """Return the rate with which the batch was learned; epoch 0 only measures."""
        if self.training and self.learning_rate is None:
            return current_lr(self.optimizer)
        return self.learning_rate if self.training else 0.0

    def update_metrics(self, preds: Preds, labels: Labels) -> None:
        """Give a batch to each metric, aligned like the loss where that predicts the next label."""
        shifted = self.denominator.kind == "shifted"
        try:
            for name, metric in self.metrics_dict.items():  # noqa: B007 (the error names it)
                given = next_labels.align_with_next(
                    metric, preds, labels, classes_last=self.loss_fn is None) if shifted else (
                        preds, labels)
                metric.update(*given)
        except Exception as error:
            explain.in_metric(error, self.net, preds, labels, name)
            raise

    def update_or_hold_metrics(self, preds: Preds, labels: Labels) -> None:
        """Let the metrics count a batch, or keep it until the loss's left-out labels are known."""
        preds = weighing.detach_predictions(preds)
        if self.waiting is None:
            self.update_metrics(preds, labels)
        else:
            self.waiting.append((preds, labels))

    def closure(self, batch: Batch, first: Tensor | None = None) -> Callable[[], Tensor]:
        """Return a function that computes loss and gradients, for LBFGS, SAM and their like.

        In your own step: ``self.optimizer.step(self.closure(batch))``. The first call takes the
        loss ``first``, if the current weights have computed it already.
        """
        computed = [] if first is None else [first]

        def compute() -> Tensor:
            self.optimizer.zero_grad()
            loss = computed.pop() if computed else self.loss_of(batch)
            self.backward(loss)
            self.clip()
            return loss

        return compute

    def loss_of(self, batch: Batch) -> Tensor:
        """Return the loss of a batch without counting it."""
        with self.autocast():
            preds, labels, *weights = self.forward(batch)
            found: Any = self.loss(preds, labels, *weights)
        loss: Tensor = found[0] if with_parts(found) else found
        return loss

    def loss_parts_by_name(self) -> Logs:
        """Return the detached parts of the loss by the names of their columns."""
        return {f"{self.stage}_{name}": value.detach() if isinstance(value, Tensor) else value
                for name, value in self.parts.items()}


def prepare(step: Any, ours: type) -> None:
    """Note which methods of our own step a user's class overrides, and begin to count batches."""
    kind = type(step)
    step.facts, step.notes = LossFacts(), []
    step.own = frozenset(verb for verb in VERBS if getattr(kind, verb) is not getattr(ours, verb))
    step.calls_itself = kind.__call__ is not ours.__call__  # may never call forward and loss
    step.measures_itself = getattr(kind, "measure", None) is not getattr(ours, "measure", None)
    step.number, step.seen, step.parts = 0, None, {}
