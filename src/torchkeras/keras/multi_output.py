"""Give each of several outputs its own loss and metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchkeras.core.errors import bad_type, bad_value, did_you_mean
from torchkeras.core.types import Count, Labels, LossFn, Preds, Value
from torchkeras.data.samples import length
from torchkeras.keras.losses import loss_of, metrics_of
from torchkeras.metrics import Metric
from torchkeras.metrics.base import MetricState
from torchkeras.metrics.shapes import wide
from torchkeras.summary.drawn import plan_of
from torchkeras.training import names
from torchkeras.training.task import task_for
from torchkeras.weighting import examination, weighing
from torchkeras.weighting.denominator import Denominator, known_denominator

LABELS, WEIGHTS = "labels of the outputs", "weights of the outputs"  # where outputs have weights
TAKEN = ("loss", "logits")  # the engine looks for a loss and for scores under these names


class Output(NamedTuple):
    """One of several outputs: its name, and its index if outputs are a tuple."""

    name: str
    place: int

    def of(self, values: Preds, argument: str) -> Preds:
        """Return this output's part of predictions or labels."""
        if isinstance(values, Mapping) and LABELS in values:
            values = values[LABELS]
        if isinstance(values, Mapping) and self.name in values:
            return values[self.name]
        if isinstance(values, (tuple, list)) and self.place < len(values):
            return values[self.place]
        known = list(values) if isinstance(values, Mapping) else []
        raise bad_value(argument, received=f"a dict of {', '.join(map(repr, known))}" if known
                        else f"a {type(values).__name__}",
                        expected=f"a tuple or dict with a part for {self.name!r}",
                        fix=did_you_mean(self.name, map(str, known)))


class Found(dict[Output, Denominator]):
    """Denominators of custom losses, measured on the first batch; copies of a metric share it."""

    def __deepcopy__(self, memo: object) -> Found:
        return self


class OutputLosses(nn.Module):
    """The sum of weight x loss over several outputs.

    Args:
        losses: a loss for each output that has one.
        weights: the weight of each by output name. Default: 1.

    Attributes:
        reduction: "mean": each loss keeps its own reduction.

    Example:
        >>> losses = {Output("a", 0): nn.MSELoss(), Output("b", 1): nn.L1Loss()}
        >>> loss_fn = OutputLosses(losses, {"b": 0.5})
        >>> loss_fn((torch.zeros(2), torch.zeros(2)), (torch.ones(2), torch.ones(2))).item()
        1.5
    """

    takes_whole_outputs = True  # not only their "logits"

    def __init__(self, losses: Mapping[Output, LossFn], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.reduction = "mean"
        self.losses, self.weights = dict(losses), dict(weights)
        self.learning = nn.ModuleList(one for one in losses.values() if isinstance(one, nn.Module))
        self.found = Found()
        self.scales: list[Any] | None = None  # of each loss, if a batch is part of an update
        self.terms: list[Tensor] = []  # the losses of the last batch

    def forward(self, preds: Preds, labels: Labels) -> Tensor:
        """Return the sum over outputs."""
        weights = weights_in(labels)
        return self.summed([term(loss, output.of(preds, "preds"), output.of(labels, "labels"),
                                 weights.get(output.name))
                            for output, loss in self.losses.items()], labels)

    def weights_beside(self, labels: Labels, weights: Tensor) -> Labels:
        """Return labels that bring one weight per sample along, the same for each output."""
        return {LABELS: labels, WEIGHTS: {output.name: weights for output in self.losses}}

    def weighted(self, preds: Preds, labels: Labels, weights: Tensor) -> Tensor:
        """Return the sum over outputs, each with a weight for every sample."""
        return self.summed([
            weighing.weighted_term(loss, output.of(preds, "preds"), output.of(labels, "labels"),
                                   weights)
            for output, loss in self.losses.items()], labels)

    def summed(self, terms: list[Tensor], labels: Labels) -> Tensor:
        """Return the sum of weight x loss; an output without valid labels in this batch adds 0."""
        counts = self.term_counts(labels)
        terms = [term if isinstance(count, (int, float)) and count else
                 torch.where(torch.as_tensor(count, device=term.device) == 0,
                             torch.zeros_like(term), term)
                 for term, count in zip(terms, counts, strict=True)]
        self.terms = [term.detach() for term in terms]
        if self.scales is not None:
            terms = [term * scale for term, scale in zip(terms, self.scales, strict=True)]
        shared = [share * term for share, term in zip(self.shares, terms, strict=True)]
        return torch.stack(shared).sum(0)

    @property
    def shares(self) -> list[float]:
        """Return the weight of each loss."""
        return [self.weights.get(output.name, 1) for output in self.losses]

    def term_counts(self, labels: Labels) -> list[Count]:
        """Return the denominator of each loss of a batch."""
        counts = []
        for output, loss in self.losses.items():
            own = output.of(labels, "labels")
            found = known_denominator(loss) or self.found.get(output) or Denominator("samples")
            counts.append(found.count(own, length(own) or 0))
        return counts

    def each_output(self, preds: Preds, labels: Labels) -> list[tuple[LossFn, Preds, Labels]]:
        """Return the loss of each output with its predictions and labels."""
        return [(loss, output.of(preds, "preds"), output.of(labels, "labels"))
                for output, loss in self.losses.items()]


def weights_in(labels: Labels) -> Mapping[str, Tensor]:
    """Return the sample weights that labels bring along, by output."""
    brought: Mapping[str, Tensor] = labels.get(WEIGHTS, {}) if isinstance(labels, Mapping) else {}
    return brought


def term(loss: LossFn, preds: Preds, labels: Labels, weights: Tensor | None) -> Tensor:
    """Return the loss of one output, with its sample weights if it has any."""
    if weights is not None:
        return weighing.weighted_term(loss, preds, labels, weights)
    found: Tensor = loss(preds, labels)
    return found


class OutputLoss(Metric):
    """Measures one output's loss: the mean over samples, or over the labels that count.

    Args:
        output: the output.
        loss: its loss.
        found: denominators of custom losses.
    """

    cheap, higher_is_better = True, False
    loss: Callable[..., Any]

    def __init__(self, output: Output, loss: LossFn, found: Found | None = None) -> None:
        super().__init__()
        self.__dict__["loss"] = loss  # not registered: its weights belong to the model
        self.found = Found() if found is None else found
        self.output = output
        self.add_sum("total", dtype=torch.float64)
        self.add_sum("seen", dtype=torch.float64)

    def counted(self, preds: Preds, labels: Labels) -> dict[str, Tensor | int]:
        """Return the counts of this output's part of a batch."""
        weights = weights_in(labels).get(self.output.name)
        preds, labels = self.output.of(preds, "preds"), self.output.of(labels, "labels")
        if weights is None:
            return super().counted(preds, labels)
        return self.count(preds.detach(), labels.detach(), weights)

    def count(self, preds: Tensor, labels: Tensor,
              weights: Tensor | None = None) -> dict[str, Tensor | int]:
        """Return the batch's loss times its denominator, and the denominator."""
        found = known_denominator(self.loss) or self.found.get(self.output)
        loss = wide(term(self.loss, preds, labels, weights))
        seen = torch.as_tensor((found or Denominator("samples")).count(labels, len(preds)),
                               dtype=loss.dtype)
        # until it is known which labels a loss ignores, a NaN loss means: all of them
        if found is None:
            seen = torch.where(loss.isnan(), torch.zeros_like(seen), seen)
        total = loss * seen
        return {"total": torch.where(seen == 0, torch.zeros_like(total), total), "seen": seen}

    def value(self, state: MetricState) -> Tensor:
        """Return the mean."""
        return state["total"] / state["seen"]


class OutputMetric(nn.Module):
    """Measures one output with a metric.

    Args:
        output: the output.
        metric: an object with ``update``, ``compute`` and ``reset``.
        found: denominators of custom losses.
    """

    def __init__(self, output: Output, metric: Value, found: Found | None = None) -> None:
        super().__init__()
        self.output, self.metric = output, metric
        self.found = Found() if found is None else found
        self.higher_is_better = getattr(metric, "higher_is_better", None)
        self.cheap = getattr(metric, "cheap", False)

    def update(self, preds: Preds, labels: Labels) -> None:
        """Count one batch."""
        self.metric.update(self.output.of(preds, "preds"), self.output.of(labels, "labels"))

    def leave_out(self, marks: tuple[float, ...]) -> None:
        """Ignore the labels that this output's loss ignores; ``marks`` of the sum are not used."""
        if isinstance(self.metric, Metric):
            self.metric.leave_out(examination.left_out_labels(self.found.get(self.output)))

    def compute(self) -> Any:
        """Return the number for all batches so far."""
        return self.metric.compute()

    def reset(self) -> None:
        """Forget all batches."""
        self.metric.reset()


def outputs_of(net: nn.Module, loss: object) -> list[Output] | None:
    """Return the outputs of a drawn net, or those of a list or dict of losses; None for one."""
    plan = plan_of(net)
    drawn = getattr(plan, "outputs", None)
    if isinstance(drawn, Mapping):
        found = [str(name) for name in drawn]
    elif isinstance(drawn, (tuple, list)):
        found = [one.name for one in drawn]
    elif isinstance(loss, Mapping):
        found = list(loss)
    elif isinstance(loss, (tuple, list)):
        found = [f"output_{place}" for place in range(1, len(loss) + 1)]
    else:
        return None
    if plan is not None and not isinstance(drawn, (Mapping, tuple, list)):
        raise bad_type("loss", received=f"a {type(loss).__name__}",
                       expected="one loss: this net has one output")
    for name in found:
        if name in TAKEN or found.count(name) > 1:
            raise bad_value("outputs", received=f"the name {name!r}",
                            expected="names that differ, and none of " + ", ".join(TAKEN),
                            fix="Draw them with Model(inputs=..., outputs={'name': ...}).")
    return [Output(name, place) for place, name in enumerate(found)]


def per_output(argument: str, given: object, listed: Sequence[Output]) -> dict[Output, Any]:
    """Return what a list or dict gives for each output; outputs without entry are left out."""
    if isinstance(given, Mapping):
        known = [output.name for output in listed]
        for name in given:
            if name not in known:
                raise bad_value(argument, received=repr(name),
                                expected="one of the outputs " + ", ".join(known),
                                fix=did_you_mean(str(name), known))
        found = {output: given.get(output.name) for output in listed}
    elif isinstance(given, (list, tuple)):
        if len(given) != len(listed):
            raise bad_value(argument, received=f"{len(given)} entries",
                            expected=f"{len(listed)}, one for each of the "
                            "outputs " + ", ".join(output.name for output in listed))
        found = dict(zip(listed, given, strict=True))
    else:
        raise bad_type(argument, received=repr(given),
                       expected="a list or dict with an entry for each output")
    return {output: one for output, one in found.items() if one is not None}


def losses_of(loss: object, listed: Sequence[Output], weights: object,
              from_logits: bool) -> OutputLosses:
    """Return the losses of all outputs as one; a single loss is used for each output."""
    several = isinstance(loss, (Mapping, list, tuple))
    given = per_output("loss", loss if several else [loss] * len(listed), listed)
    if not given:
        raise bad_value("loss", received="no loss", expected="one for at least one output")
    logits = {output: from_logits and isinstance(one, str)
              and (len(given) == 1 or knows_logits(one))
              for output, one in given.items()}
    shares = {} if weights is None else {
        output.name: one for output, one in per_output("loss_weights", weights, listed).items()}
    for name, one in shares.items():
        if isinstance(one, bool) or not isinstance(one, (int, float)):
            raise bad_type("loss_weights", received=f"{one!r} for {name!r}", expected="numbers")
        if not math.isfinite(one):
            raise bad_value("loss_weights", received=f"{one!r} for {name!r}",
                            expected="finite numbers")
    found = {output: loss_of(one, logits[output]) for output, one in given.items()}
    for output, one in found.items():
        if getattr(one, "reduction", "mean") not in ("mean", "batchmean"):
            raise bad_value("loss", received=f"reduction={one.reduction!r} for {output.name!r}",
                            expected="'mean', where there are several outputs")
    return OutputLosses(found, shares)


def with_weights(labels: Labels, weights: object, loss_fn: object) -> Labels:
    """Return labels that bring the sample weights of each output along.

    Raises:
        ValueError: there is one output, or none of this name.
    """
    terms = weighing.terms_of(loss_fn)
    if terms is None:
        raise bad_value("sample_weight", received=f"a {type(weights).__name__}, as for several "
                        "outputs", expected="one weight for each sample, where there is one output")
    given = per_output("sample_weight", weights, list(terms.losses))
    return {LABELS: labels, WEIGHTS: {output.name: one for output, one in given.items()}}


def knows_logits(name: str) -> bool:
    """Return whether this is a Keras name of a cross entropy."""
    return names.normalize(name) in {names.normalize(one) for one in names.KERAS_ENTROPIES}


def all_metrics(metrics: object, losses: OutputLosses, listed: Sequence[Output],
                from_logits: bool) -> dict[str, Any]:
    """Return metrics by column: ``<output>_loss``, then ``<output>_<metric>``."""
    found: dict[str, Any] = {f"{output.name}_loss": OutputLoss(output, loss, losses.found)
                             for output, loss in losses.losses.items()}
    if metrics is None:
        return found
    if isinstance(metrics, (list, tuple)) and not all(
            isinstance(one, (list, tuple, type(None))) for one in metrics):
        raise bad_type("metrics", received=repr(metrics),
                       expected="a list of lists or a dict, by output",
                       fix="Such as {" + repr(listed[0].name) + ": ['accuracy']}.")
    for output, asked in per_output("metrics", metrics, listed).items():
        task = task_for(losses.losses.get(output), from_logits)
        one_or_more = asked if isinstance(asked, (list, tuple, Mapping)) else [asked]
        for name, metric in metrics_of(one_or_more, task).items():
            column = f"{output.name}_{name}"
            found[column] = OutputMetric(output, names.as_metric(column, metric), losses.found)
    return found
