"""Nets with several outputs: a loss and metrics for each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from torchkeras.core.errors import bad_type, bad_value, did_you_mean
from torchkeras.data.samples import length
from torchkeras.keras.losses import loss_of, metrics_of
from torchkeras.metrics import Metric
from torchkeras.metrics.base import State
from torchkeras.metrics.shapes import wide
from torchkeras.summary.drawn import plan_of
from torchkeras.training import names
from torchkeras.training.task import task_for
from torchkeras.weighting import examination, weighing
from torchkeras.weighting.denominator import Denominator, known_denominator

TAKEN = ("loss", "logits")  # under these names the engine looks for a loss and for scores in an output


class Output(NamedTuple):
    """One of several outputs: its name, and its place where outputs are a tuple."""

    name: str
    place: int

    def of(self, values: Any, argument: str) -> Any:
        """This output's part of predictions or labels."""
        if isinstance(values, Mapping) and self.name in values:
            return values[self.name]
        if isinstance(values, (tuple, list)) and self.place < len(values):
            return values[self.place]
        known = list(values) if isinstance(values, Mapping) else []
        raise bad_value(argument, received=f"a dict of {', '.join(map(repr, known))}" if known
                        else f"a {type(values).__name__}", expected=f"a tuple or dict with a part for {self.name!r}",
                        fix=did_you_mean(self.name, map(str, known)))


class Found(dict[Output, Denominator]):
    """What losses of the user's own are means over, found out on the first batch; copies of a metric share it."""

    def __deepcopy__(self, memo: Any) -> Found:
        return self


class OutputLosses(nn.Module):
    """Learn from several outputs at once: the sum of weight x loss over them.

    Args:
        losses: a loss for each output that is learned from.
        weights: how much each counts; those not named count 1.

    Attributes:
        reduction: "mean": each loss is reduced as it is by itself.

    Example:
        >>> loss_fn = OutputLosses({Output("a", 0): nn.MSELoss(), Output("b", 1): nn.L1Loss()}, {"b": 0.5})
        >>> loss_fn((torch.zeros(2), torch.zeros(2)), (torch.ones(2), torch.ones(2))).item()
        1.5
    """

    takes_whole_outputs = True  # and not only what they have under "logits"

    def __init__(self, losses: Mapping[Output, Any], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.reduction = "mean"
        self.losses, self.weights = dict(losses), dict(weights)
        self.learning = nn.ModuleList(one for one in losses.values() if isinstance(one, nn.Module))
        self.found = Found()
        self.scales: list[Any] | None = None  # of each loss, where a batch is a part of an update
        self.terms: list[Tensor] = []  # the losses of the batch just done

    def forward(self, preds: Any, labels: Any) -> Tensor:
        """The sum over outputs."""
        return self.summed([loss(output.of(preds, "preds"), output.of(labels, "labels"))
                            for output, loss in self.losses.items()], labels)

    def weighted(self, preds: Any, labels: Any, weights: Tensor) -> Tensor:
        """Return the sum over outputs, each with a weight for every sample."""
        return self.summed([
            weighing.weighted_term(loss, output.of(preds, "preds"), output.of(labels, "labels"), weights)
            for output, loss in self.losses.items()], labels)

    def summed(self, terms: list[Tensor], labels: Any) -> Tensor:
        """Return the sum of weight x loss; an output of which no label counts in this batch adds nothing."""
        counts = self.term_counts(labels)
        terms = [term if isinstance(count, (int, float)) and count else
                 torch.where(torch.as_tensor(count, device=term.device) == 0, torch.zeros_like(term), term)
                 for term, count in zip(terms, counts, strict=True)]
        self.terms = [term.detach() for term in terms]
        if self.scales is not None:
            terms = [term * scale for term, scale in zip(terms, self.scales, strict=True)]
        return torch.stack([share * term for share, term in zip(self.shares, terms, strict=True)]).sum(0)

    @property
    def shares(self) -> list[float]:
        """How much each loss counts."""
        return [self.weights.get(output.name, 1) for output in self.losses]

    def term_counts(self, labels: Any) -> list[Any]:
        """Return what each loss of a batch is a mean over."""
        counts = []
        for output, loss in self.losses.items():
            own = output.of(labels, "labels")
            found = known_denominator(loss) or self.found.get(output) or Denominator("samples")
            counts.append(found.count(own, length(own) or 0))
        return counts

    def each_output(self, preds: Any, labels: Any) -> list[tuple[Any, Any, Any]]:
        """Return the loss of each output with what it is given, to be looked at one by one."""
        return [(loss, output.of(preds, "preds"), output.of(labels, "labels"))
                for output, loss in self.losses.items()]


class OutputLoss(Metric):
    """One output's loss beside the sum of all: the mean over all samples, or over the labels that count.

    Args:
        output: which.
        loss: its loss.
        found: what losses of the user's own are means over.
    """

    cheap, higher_is_better = True, False
    loss: Callable[..., Any]

    def __init__(self, output: Output, loss: Any, found: Found | None = None) -> None:
        super().__init__()
        self.__dict__["loss"] = loss  # its weights belong to the model
        self.found = Found() if found is None else found
        self.output = output
        self.add_sum("total", dtype=torch.float64)
        self.add_sum("seen", dtype=torch.float64)

    def counted(self, preds: Any, labels: Any) -> dict[str, Tensor | int]:
        """This output's part of a batch."""
        return super().counted(self.output.of(preds, "preds"), self.output.of(labels, "labels"))

    def count(self, preds: Tensor, labels: Tensor) -> dict[str, Tensor | int]:
        """The batch's loss, as often as what it is a mean over."""
        found, loss = known_denominator(self.loss) or self.found.get(self.output), wide(self.loss(preds, labels))
        seen = torch.as_tensor((found or Denominator("samples")).count(labels, len(preds)), dtype=loss.dtype)
        # before it is known which labels a loss leaves out, those of a batch without a loss are
        seen = seen if found is not None else torch.where(loss.isnan(), torch.zeros_like(seen), seen)
        total = loss * seen
        return {"total": torch.where(seen == 0, torch.zeros_like(total), total), "seen": seen}

    def value(self, state: State) -> Tensor:
        """The mean."""
        return state["total"] / state["seen"]


class OutputMetric(nn.Module):
    """A metric of one output.

    Args:
        output: which.
        metric: an object with ``update``, ``compute`` and ``reset``.
        found: what losses of the user's own are means over.
    """

    def __init__(self, output: Output, metric: Any, found: Found | None = None) -> None:
        super().__init__()
        self.output, self.metric = output, metric
        self.found = Found() if found is None else found
        self.higher_is_better = getattr(metric, "higher_is_better", None)
        self.cheap = getattr(metric, "cheap", False)

    def update(self, preds: Any, labels: Any) -> None:
        """Count one batch."""
        self.metric.update(self.output.of(preds, "preds"), self.output.of(labels, "labels"))

    def leave_out(self, marks: tuple[float, ...]) -> None:
        """Leave out the labels that this output's loss leaves out; what is known of the sum of all says nothing."""
        if isinstance(self.metric, Metric):
            self.metric.leave_out(examination.marks_of(self.found.get(self.output)))

    def compute(self) -> Any:
        """The number for all that was counted."""
        return self.metric.compute()

    def reset(self) -> None:
        """Forget all that was counted."""
        self.metric.reset()


def outputs_of(net: nn.Module, loss: Any) -> list[Output] | None:
    """The outputs of a drawn net, or those that a list or dict of losses names; None for one output."""
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
        raise bad_type("loss", received=f"a {type(loss).__name__}", expected="one loss: this net has one output")
    for name in found:
        if name in TAKEN or found.count(name) > 1:
            raise bad_value("outputs", received=f"the name {name!r}", expected="names that differ, and none of "
                            + ", ".join(TAKEN), fix="Draw them with Model(inputs=..., outputs={'name': ...}).")
    return [Output(name, place) for place, name in enumerate(found)]


def shared_out(argument: str, given: Any, listed: Sequence[Output]) -> dict[Output, Any]:
    """What was given for each output, in a dict by name or a list by place; outputs without anything are left out."""
    if isinstance(given, Mapping):
        known = [output.name for output in listed]
        for name in given:
            if name not in known:
                raise bad_value(argument, received=repr(name), expected="one of the outputs " + ", ".join(known),
                                fix=did_you_mean(str(name), known))
        found = {output: given.get(output.name) for output in listed}
    elif isinstance(given, (list, tuple)):
        if len(given) != len(listed):
            raise bad_value(argument, received=f"{len(given)} entries", expected=f"{len(listed)}, one for each of the "
                            "outputs " + ", ".join(output.name for output in listed))
        found = dict(zip(listed, given, strict=True))
    else:
        raise bad_type(argument, received=repr(given), expected="a list or dict with an entry for each output")
    return {output: one for output, one in found.items() if one is not None}


def losses_of(loss: Any, listed: Sequence[Output], weights: Any, from_logits: bool) -> OutputLosses:
    """The losses of all outputs as one; a single one is that of each output."""
    given = shared_out("loss", loss if isinstance(loss, (Mapping, list, tuple)) else [loss] * len(listed), listed)
    if not given:
        raise bad_value("loss", received="no loss", expected="one for at least one output")
    logits = {output: from_logits and isinstance(one, str) and (len(given) == 1 or knows_logits(one))
              for output, one in given.items()}
    shares = {} if weights is None else {
        output.name: one for output, one in shared_out("loss_weights", weights, listed).items()}
    for name, one in shares.items():
        if isinstance(one, bool) or not isinstance(one, (int, float)):
            raise bad_type("loss_weights", received=f"{one!r} for {name!r}", expected="numbers")
    found = {output: loss_of(one, logits[output]) for output, one in given.items()}
    for output, one in found.items():
        if getattr(one, "reduction", "mean") not in ("mean", "batchmean"):
            raise bad_value("loss", received=f"reduction={one.reduction!r} for {output.name!r}",
                            expected="'mean', where there are several outputs")
    return OutputLosses(found, shares)


def knows_logits(name: str) -> bool:
    """Whether this is the name of a cross entropy of Keras's."""
    return names.key_of(name) in {names.key_of(one) for one in names.KERAS_ENTROPIES}


def all_metrics(metrics: Any, losses: OutputLosses, listed: Sequence[Output], from_logits: bool) -> dict[str, Any]:
    """Columns for each output: ``<output>_loss``, then ``<output>_<metric>``."""
    found: dict[str, Any] = {f"{output.name}_loss": OutputLoss(output, loss, losses.found)
                             for output, loss in losses.losses.items()}
    if metrics is None:
        return found
    if isinstance(metrics, (list, tuple)) and not all(isinstance(one, (list, tuple, type(None))) for one in metrics):
        raise bad_type("metrics", received=repr(metrics), expected="a list of lists or a dict, by output",
                       fix="Such as {" + repr(listed[0].name) + ": ['accuracy']}.")
    for output, asked in shared_out("metrics", metrics, listed).items():
        task = task_for(losses.losses.get(output), from_logits)
        one_or_more = asked if isinstance(asked, (list, tuple, Mapping)) else [asked]
        for name, metric in metrics_of(one_or_more, task).items():
            column = f"{output.name}_{name}"
            found[column] = OutputMetric(output, names.as_metric(column, metric), losses.found)
    return found
