"""One batch: forward, loss, backward, update, measure."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from torchkeras.checks import divergence, explain, metric_checks, preflight
from torchkeras.core import modes
from torchkeras.core.optimizers import needs_closure, rate_of
from torchkeras.core.stop import NonFiniteLoss, Request
from torchkeras.core.types import Logs, Stage, StepOutput
from torchkeras.data import batch as batches
from torchkeras.data import outputs, samples
from torchkeras.data.signature import takes_third
from torchkeras.distributed import ddp
from torchkeras.distributed.communicator import Alone
from torchkeras.engine.config import FitConfig
from torchkeras.state.components import loss_modules
from torchkeras.weighting import examination, next_labels, weighing
from torchkeras.weighting.denominator import Denominator, LossFacts, is_class_loss, known_denominator

if TYPE_CHECKING:
    from accelerate import Accelerator


SAMPLES = Denominator("samples")


class StepRunner:
    """Takes one batch through the net. Designed to be subclassed: override the one verb you want changed.

    Example:
        >>> class Clamped(StepRunner):
        ...     def loss(self, preds, labels, weights=None):
        ...         return super().loss(preds, labels, weights).clamp(max=10)
    """

    config: FitConfig = FitConfig()  # set by the loop before the first batch, as all that follow
    together: Alone = Alone()  # the processes of the job
    bound, grown = 0.0, False  # losses within it are not looked at; whether one of this pass was far beyond the first
    gradient_norm: float | None = None  # at the last update, once a loss has grown
    rehearsing = False  # True for the first training batch of a run: it is looked at before anything is updated
    facts: LossFacts  # what is known of the loss, shared by the passes of a model
    notes: list[str]  # what a reader should know
    known: Denominator | None = None  # what the loss is a mean over
    weighed = False  # whether class weights were looked at
    labelled = True  # whether labels are needed: not to predict
    whole_numbers = True  # whether whole numbers as a batch's third item are weights: not where a loader gives them
    looking = False  # True for the first batch of any pass: its labels are looked at before the loss is computed
    argument = "train_data"  # what errors call the data
    waiting: list[tuple[Any, Any]] | None = None  # of metrics, until it is known which labels the loss leaves out
    measured_by: modes.UnchangedBuffers | None = None  # the buffers of the loss, as a pass that measures found them
    trouble: Exception | None = None  # what is wrong with the validation data, found before the first update
    replicas: Sequence[Any] = ()  # the modules that share their gradients with other processes

    def __init__(self, net: nn.Module, loss_fn: Any, accelerator: Accelerator, stage: Stage = "train",
                 metrics_dict: Mapping[str, Any] | None = None, optimizer: Any = None,
                 lr_scheduler: Any = None) -> None:
        self.net, self.loss_fn, self.accelerator, self.stage = net, loss_fn, accelerator, stage
        self.metrics_dict = dict(metrics_dict or {})
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.moving = lr_scheduler  # what moves with every update
        self.closing = optimizer is not None and needs_closure(optimizer)
        self.training = stage == "train" and optimizer is not None
        self.plain = accelerator.mixed_precision == "no"
        self.facts, self.notes = LossFacts(), []
        self.own = frozenset(verb for verb in ("forward", "loss", "count")
                             if getattr(type(self), verb) is not getattr(StepRunner, verb))  # what a user wrote anew
        self.calls_itself = is_own(type(self))  # whether __call__ is a user's, which may never call forward and loss
        self.number = 0  # of the batch in its pass
        self.seen: Any = None  # the labels of the batch in hand, as the loss got them
        self.parts: Logs = {}  # what the loss gave beside its value

    def __call__(self, batch: Any) -> StepOutput:
        """Forward, loss, backward, update, measure."""
        preds, labels, loss = self.rehearse(batch) if self.rehearsing else self.try_out(batch)
        if self.training:
            loss = self.guard(loss, preds, batch)
            self.learning_rate = rate_of(self.optimizer)
            if self.closing:
                self.optimizer.step(self.closure(batch, loss))
            else:
                self.backward(loss)
            self.update()
        return self.measure(loss, preds, labels)

    def try_out(self, batch: Any) -> tuple[Any, Any, Tensor]:
        """Predictions, labels and loss of a batch."""
        if self.training:
            return self.computed(batch)
        if self.measured_by is None:
            self.measured_by = modes.UnchangedBuffers(*loss_modules(self.loss_fn))
        found: tuple[Any, Any, Tensor] = modes.measured(self.net, self.computed, batch)
        self.measured_by.restore()
        return found

    def computed(self, batch: Any) -> tuple[Any, Any, Tensor]:
        """Run the net and the loss on a batch."""
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
            empty = loss.is_cpu and not math.isfinite(loss.item())  # reading it costs nothing on a CPU only
            if empty or examination.due(self.number):
                examination.look_again(self, preds, labels, empty=empty, divided=self.divided)
        return preds, labels, loss

    @property
    def divided(self) -> bool:
        """Whether an update is made of several batches, or of parts of one."""
        return self.training and (self.config.gradient_accumulation_steps > 1 or self.together.world > 1)

    def look(self, preds: Any, labels: Any, batch: Any) -> None:
        """Look at the labels of the first batch of a pass for what the loss cannot take, or would take wrongly."""
        self.looking = False
        if "forward" not in self.own:
            self.notes.extend(note for note in batches.readings(batch, self.net, self.loss_fn is not None)
                              if note not in self.notes)
        own = type(self).loss is not StepRunner.loss
        preflight.check_labels(self.loss if own else self.loss_fn, self.loss_fn,
                               outputs.scored(self.loss_fn, preds), labels, self.argument)

    def rehearse(self, batch: Any) -> tuple[Any, Any, Tensor]:
        """The same for the first batch, which is looked at for mistakes while nothing has changed yet."""
        with self.together.same_fate():
            preds, labels, loss = self.try_out(batch)
            counts = self.counts_here and not weighing.none_counts(self.weight(batch))
            preflight.check_loss(loss, lambda: divergence.why(self, batch), counts=counts)
            preflight.check_parts_of_loss(self.parts, self.metrics_dict)
            preflight.check_weighed(self.config.class_weight, self.weighed)
            ddp.check_reached(self, loss)
        with self.together.same_fate():
            watched = self.metrics_dict if type(self).measure is StepRunner.measure else {}
            whole = self.together.gather((weighing.scores(preds), labels)) if watched else []
            with explain.in_metrics(self.net, preds, labels):
                metric_checks.check_metrics(watched, *outputs.whole(whole))
        self.rehearsing = False
        if self.trouble is not None:
            raise self.trouble
        return preds, labels, loss

    def forward(self, batch: Any) -> tuple[Any, ...]:
        """Take the batch apart and run the net: ``(preds, labels)``, or ``(preds, labels, sample weights)``."""
        features, labels, weights = batches.split(batch, self.net, self.loss_fn, whole_numbers=self.whole_numbers,
                                                  labelled=self.labelled)
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
        """The scalar to learn from, or ``(scalar, {name: part of it})``; a net may bring its own."""
        own = weighing.own_loss(preds) if self.loss_fn is None else None
        if own is not None:
            return own
        preflight.check_has_loss(self.loss_fn, labels, self.argument)
        preds = outputs.scored(self.loss_fn, preds)
        if self.config.class_weight is not None and self.stage == "train":
            self.weighed = True
            if self.rehearsing:
                preflight.check_classes(labels)
            weights = weighing.by_class(self.config.class_weight, preds, labels, weights)
        if weights is None:
            return self.loss_fn(preds, labels)
        if takes_third(self.loss_fn):
            return self.loss_fn(preds, labels, weights)
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
        if not self.accelerator.sync_gradients:
            return
        if self.together.world > 1:
            ddp.check_sound(self)
        if self.grown:
            self.gradient_norm = divergence.norm(weight.grad for weight in self.net.parameters())
        if not self.closing:
            self.clip()
            self.optimizer.step()
        if self.moving is not None:
            self.moving.step()
        self.optimizer.zero_grad()

    def clip(self) -> None:
        """Bound the gradients of the net, and of all else that the optimizer moves, as it was asked for."""
        if self.config.clip_grad_norm is None and self.config.clip_grad_value is None:
            return
        weights = list(self.net.parameters())
        known = {id(one) for one in weights}
        weights += [one for group in self.optimizer.param_groups for one in group["params"] if id(one) not in known]
        if self.config.clip_grad_norm is not None:
            self.accelerator.clip_grad_norm_(weights, self.config.clip_grad_norm)
        if self.config.clip_grad_value is not None:
            self.accelerator.clip_grad_value_(weights, self.config.clip_grad_value)

    def closure(self, batch: Any, first: Tensor | None = None) -> Callable[[], Tensor]:
        """Return what an optimizer such as LBFGS calls as often as it likes: it computes the loss and its gradients.

        In a step of your own: ``self.optimizer.step(self.closure(batch))``, for SAM and others that call it too.

        Args:
            batch: the batch.
            first: its loss, where that has been computed with the weights as they are: the first call takes it.
        """
        computed = [] if first is None else [first]

        def compute() -> Tensor:
            self.optimizer.zero_grad()
            loss = computed.pop() if computed else self.loss_of(batch)
            self.backward(loss)
            self.clip()
            return loss

        return compute

    def loss_of(self, batch: Any) -> Tensor:
        """Return the loss of a batch, of which nothing is counted."""
        with self.autocast():
            preds, labels, *weights = self.forward(batch)
            found: Any = self.loss(preds, labels, *weights)
        loss: Tensor = found[0] if with_parts(found) else found
        return loss

    def measure(self, loss: Tensor, preds: Any, labels: Any) -> StepOutput:
        """Let the metrics count; no number is read from the device here."""
        if self.metrics_dict:
            preds = weighing.scores(preds)
            if self.waiting is None:
                self.update_metrics(preds, labels)
            else:
                self.waiting.append((preds, labels))
        metrics: Logs = {"lr": self.learning_rate} if self.training else {}
        parts = {f"{self.stage}_{name}": detached(value) for name, value in self.parts.items()} if self.parts else {}
        return StepOutput({f"{self.stage}_loss": loss.detach(), **parts}, metrics)

    def update_metrics(self, preds: Any, labels: Any) -> None:
        """Give a batch to each metric: what the loss compares, where that are the labels of the next place."""
        shifted = self.denominator.kind == "shifted"
        try:
            for name, metric in self.metrics_dict.items():  # noqa: B007 (the error is told it)
                metric.update(*(next_labels.beside_next(metric, preds, labels, classes_last=self.loss_fn is None)
                                if shifted else (preds, labels)))
        except Exception as error:
            explain.in_metric(error, self.net, preds, labels, name)
            raise

    def count(self, batch: Any) -> float | Tensor:
        """Return what the loss of this batch is a mean over: samples, or the labels or tokens that count in it.

        Override it for a loss of which nobody else can know. The mean of an epoch, gradient accumulation and the parts
        of several processes go by it.
        """
        return self.counted(samples.parts_of(batch, self.net)[1], batch)

    def counted(self, labels: Any, batch: Any) -> Any:
        """Return how much labels count."""
        terms = self.terms
        if terms is not None:
            size = samples.size(batch, self.net)
            return weighing.Terms(size, terms.term_counts(labels), terms.shares, terms.terms, terms.scales)
        by_labels = self.denominator.by_labels and isinstance(labels, Tensor)
        return self.denominator.count(labels, 0 if by_labels else samples.size(batch, self.net))

    def weight(self, batch: Any) -> Any:
        """Return what the loss of the batch just done was a mean over, by the labels that the loss got."""
        recounts = "forward" in self.own and "count" not in self.own and isinstance(self.seen, Tensor)
        return self.counted(self.seen, batch) if recounts else self.count(batch)

    @functools.cached_property
    def terms(self) -> Any:
        """The losses of several outputs, where the loss is their sum."""
        return weighing.terms_of(self.loss_fn)

    @property
    def denominator(self) -> Denominator:
        """What the loss is a mean over, as far as it is known."""
        if self.known is None:
            known = known_denominator(self.loss_fn)
            self.known = (self.facts.found or known) if "loss" in self.own else (known or self.facts.found)
        return self.known or SAMPLES

    def guard(self, loss: Tensor, preds: Any, batch: Any) -> Tensor:
        """Stop before a loss that is not finite spoils the weights; reading it costs nothing on a CPU only."""
        if not loss.is_cpu or -self.bound < (value := loss.item()) < self.bound:
            return loss
        if math.isfinite(value):  # the first of a pass, or one that has grown
            self.grown = self.bound > 0
            self.bound = math.inf if self.grown else divergence.GROWN * abs(value) + 1
            return loss
        if not self.counts_here or weighing.none_counts(self.weight(batch)):
            # 0/0, of which nothing counts: the gradient of torch's cross entropy is zero there, that of others is NaN
            return loss if is_class_loss(self.loss_fn) else weighing.zero_of(preds, self.loss_fn, loss)
        why = divergence.why(self, batch)
        if self.together.world == 1:
            raise NonFiniteLoss(f"{self.stage}_loss is {value}", why=why)
        ddp.spoil(self)  # the other processes wait for these gradients: all stop before the update
        self.together.request = Request(f"{self.stage}_loss is {value} in process {self.together.rank}", True, why=why)
        return loss

    @property
    def counts_here(self) -> bool:
        """Whether anything counts in this process's part of a batch; where all labels are ignored, nothing does."""
        divisor = self.accelerator.gradient_accumulation_steps
        return not (isinstance(divisor, float) and math.isinf(divisor))

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision where it was asked for."""
        return nullcontext() if self.plain else self.accelerator.autocast()


def is_own(kind: Any) -> bool:
    """Tell whether a class of steps takes a batch through the net in a way of its own."""
    return not issubclass(kind, StepRunner) or kind.__call__ is not StepRunner.__call__


def updates_itself(kind: Any) -> bool:
    """Tell whether a class of steps says itself what an update is."""
    return is_own(kind) or kind.update is not StepRunner.update


def names_scheduler(kind: Any) -> bool:
    """Tell whether the code of a user's class of steps names its schedule: it then says itself when that moves."""
    functions = [function for one in kind.__mro__ if not one.__module__.startswith("torchkeras.")
                 for name, function in vars(one).items() if name != "__init__" and hasattr(function, "__code__")]
    return any("lr_scheduler" in function.__code__.co_names for function in functions)


def with_parts(found: Any) -> bool:
    """Tell whether a loss gave ``(loss, {name: part of it})``."""
    return isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping)


def detached(value: Any) -> Any:
    """Return a part of a loss without the graph behind it."""
    return value.detach() if isinstance(value, Tensor) else value
