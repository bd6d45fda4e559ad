"""Look at the loss of the first batch: what it is a mean over, and whether batches can be divided at all."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.core.modes import evaluating, measured
from torchkeras.data.samples import parts_of, size
from torchkeras.distributed.ddp import is_sharded
from torchkeras.state.components import loss_modules
from torchkeras.state.rng import put_random_states, random_states
from torchkeras.weighting.denominator import Denominator, known_denominator
from torchkeras.weighting.own_attributes import LOST, left_alone, memento_of_step
from torchkeras.weighting.pieces import has_rows, some, with_labels
from torchkeras.weighting.recognition import MOST, axes, close, recognise, still
from torchkeras.weighting.weighing import terms_of

COUNT = ("Where it is a mean over something else, say over what in StepRunner.count(batch); else use one process and "
         "no accumulation, with larger batches.")

DEPENDS = ("loss_fn: no mean over samples or labels (its value for the first batch is not the mean of those of its "
           "parts), so the loss of a pass depends on the batch size; where it is a mean over something else, say over "
           "what in StepRunner.count(batch)")

RANDOM = "loss_fn: draws random numbers, so it was not checked that it is a mean over samples"
FAILED = ("loss_fn: taken for a mean over samples, since it could not be looked at; where it is a mean over something "
          "else, say over what in StepRunner.count(batch)")
MANY = 8  # batches of a pass that are all compared with what was found out


def needed(step: Any, divided: bool) -> bool:
    """Tell whether the loss of a step has to be looked at: it is of unknown make, and nobody has said how it counts."""
    if "count" in step.own or step.facts.found is not None or (step.loss_fn is None and step.calls_itself):
        return False
    return known_denominator(step.loss_fn) is None or "loss" in step.own or (bool(step.own) and divided)


def look(step: Any, batch: Any) -> Denominator | None:
    """Find out what the loss of a step is a mean over, by the first batch; None where it cannot tell.

    Net, loss, random generators and the batch are as before.
    """
    if left_alone(step):
        return None
    if is_sharded(step.net) and step.loss_fn is None:
        raise bad_value("StepRunner.count", received="none, for a net that brings its own loss, with fsdp=True",
                        expected="what that loss is a mean over", fix="Override StepRunner.count(batch).")
    terms = None if step.own else terms_of(step.loss_fn)
    found: Denominator | None = None
    each: dict[Any, Denominator] = {}
    with undisturbed(step):
        try:
            if is_sharded(step.net):  # every process has to run a net that is divided equally often
                found = of_sharded(step, batch)
            elif terms is None:
                found = measured(step.net, functools.partial(found_out, step), batch)
            else:
                found, each = of_terms(step, terms, batch)
        except Exception as error:  # what is wrong with the batch the step itself will meet, and explain
            note = f"{FAILED} ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
            step.notes += [] if note in step.notes else [note]
    if terms is not None:
        terms.found.update(each)
    return found


def accept(step: Any, found: Denominator | None, divided: bool) -> None:
    """Keep what was found out.

    Args:
        step: the StepRunner; its ``facts`` keep it.
        found: what the loss is a mean over.
        divided: whether losses of several batches, or of parts of one, make one update.

    Raises:
        ValueError: ``divided``, and the loss is no mean over anything that is known.
    """
    if found is None or found.kind == "unseen":
        tell_metrics(step, step.facts.found)
        return
    if found.kind == "other" and divided:
        raise bad_value("loss_fn", received="a loss which is no mean over samples or labels: that of a batch is not "
                        "the mean of those of its parts", expected="such a mean, where one update is made of several "
                        "batches (gradient_accumulation_steps) or of the parts of several processes", fix=COUNT)
    step.facts.found, step.known = found, None
    note = DEPENDS if found.kind == "other" else RANDOM if found.kind == "random" and divided else None
    if note is not None and note not in step.notes:
        step.notes.append(note)
    tell_metrics(step, found)


def due(number: int) -> bool:
    """Tell whether the batch with this number in its pass is compared with what was found out: fewer and fewer are."""
    return 1 < number <= MANY or (number & (number - 1) == 0 and number > 1)


def look_again(step: Any, preds: Any, labels: Any, *, empty: bool, divided: bool) -> None:
    """Compare a later batch with what was found out: what is left out or weighed may have been in none before.

    One of several processes keeps what it found until all of them agree on it. Of a batch that may be
    ``empty`` all labels may be left out.

    Raises:
        ValueError: as :func:`accept`.
    """
    known = step.facts.found
    if known is None or known.kind in ("other", "random") or not paired(preds, labels):
        return
    preds = precise(preds.detach())
    if len(labels) == 1:
        preds, labels = with_the_one_before(step.facts, preds, labels)

    def loss_of(rows: list[int], own: Tensor | None) -> float:
        return scalar(step.loss(preds[rows], own))

    found: Denominator | None = None
    with undisturbed(step), suppress(Exception):
        if not empty and (len(labels) < 2 or still(known, loss_of, numbers_of(step.loss), preds, labels)):
            return
        if not bool(preds.isfinite().all()):
            return  # the net's own
        found = of_loss(step.loss, preds, labels, most=max(MOST, len(labels)))
    if found is not None and found.kind == known.kind and found.ignored:
        found = dataclasses.replace(found, ignored=tuple(dict.fromkeys(known.ignored + found.ignored)))
    if step.together.world > 1:
        step.facts.revised = found
    else:
        revise(step, found, divided)


def with_the_one_before(facts: Any, preds: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return a sample together with the last one that came alone: one by itself tells nothing; keep it for the next."""
    before, facts.single = facts.single, (preds, labels)
    if before is None or before[0].shape != preds.shape or before[1].shape != labels.shape:
        return preds, labels
    return torch.cat([before[0], preds]), torch.cat([before[1], labels])


def revise(step: Any, found: Denominator | None, divided: bool) -> None:
    """Keep what a later batch showed, where nothing was put together by what was known before.

    Raises:
        ValueError: losses of several batches, or of parts of one, were put together by another count.
    """
    known, together = step.facts.found, divided or step.together.world > 1
    if together and found is not None and found.kind not in ("unseen", "other") and (
            (found.kind, found.ignored) != (known.kind, known.ignored)):
        raise bad_value("loss_fn", received="a loss of which only a later batch showed what it is a mean over: it "
                        "leaves out labels that were in none before, or counts others", expected="to know it from the "
                        "start, where one update is made of several batches (gradient_accumulation_steps) or of the "
                        "parts of several processes", fix="Say it in StepRunner.count(batch).")
    accept(step, found, divided)


def tell_metrics(step: Any, found: Denominator | None) -> None:
    """Let the metrics that go by the loss leave out the labels that it was found to leave out."""
    marks = marks_of(found)
    for metric in step.metrics_dict.values():
        if callable(told := getattr(metric, "leave_out", None)):
            told(marks)


def marks_of(found: Denominator | None) -> tuple[float, ...]:
    """Return the labels that a loss was found to leave out."""
    return () if found is None or found.kind not in ("valid", "shifted") else found.ignored


def wait_with_metrics(step: Any, waiting: bool) -> None:
    """Let metrics wait as long as it is not known which labels the loss leaves out; then they count what came."""
    kept = getattr(step, "waiting", None)
    if waiting:
        step.waiting = kept or []
    elif kept is not None:
        step.waiting = None
        for preds, labels in kept:
            step.update_metrics(preds, labels)


@contextmanager
def undisturbed(step: Any) -> Iterator[None]:
    """Run a step's net and loss in evaluation mode, without a trace in what they remember and in random generators."""
    random, memento = random_states(), memento_of_step(step)
    try:
        with memento, evaluating(step.net, *loss_modules(step.loss_fn)), torch.no_grad(), step.autocast():
            yield
    finally:
        put_random_states(random)
        step.notes += [LOST] if memento.lost and LOST not in step.notes else []


def found_out(step: Any, batch: Any) -> Denominator | None:
    """Return what a loss is a mean over: a function of the user's, a net's own, or that of a step of the user's."""
    if "loss" not in step.own and step.own and known_denominator(step.loss_fn) is not None:
        return verified(step, batch)
    if step.loss_fn is None or "loss" in step.own:
        return of_step(step, batch)
    preds, labels, *third = step.forward(batch)
    if third or not paired(preds, labels):
        return of_step(step, batch)
    step.facts.paired = True
    if len(labels) == 1:
        with_the_one_before(step.facts, precise(preds.detach()), labels)
    return of_loss(step.loss, preds, labels)


def of_sharded(step: Any, batch: Any) -> Denominator | None:
    """Return what a loss is a mean over, with one call of the net."""
    preds, labels, *third = step.forward(batch)
    return of_loss(step.loss, preds, labels) if not third and paired(preds, labels) else None


def paired(preds: Any, labels: Any) -> bool:
    """Tell whether predictions and labels are two tensors with a row for each sample."""
    return all(isinstance(one, Tensor) and has_rows(one) for one in (preds, labels)) and len(preds) == len(labels)


def precise(preds: Tensor) -> Tensor:
    """Return predictions whose rounding does not hide a difference: halves as float32."""
    return preds.float() if preds.is_floating_point() and preds.element_size() < 4 else preds


def of_loss(loss: Any, preds: Tensor, labels: Tensor, most: int = MOST) -> Denominator | None:
    """Return what a function of predictions and labels is a mean over."""
    preds = precise(preds)

    def loss_of(rows: list[int], own: Tensor | None) -> float:
        return scalar(loss(preds[rows], own))

    found = recognise(loss_of, labels, len(labels), most) if len(labels) else None
    if found is None or found.kind not in ("samples", "other", "sum"):
        return found
    along = axes(numbers_of(loss), preds, labels)
    if along is None and found.kind == "samples":  # one row, which tells nothing
        return Denominator("elements", dims=(0,))
    return found if along is None else along


def of_terms(step: Any, terms: Any, batch: Any) -> tuple[Denominator | None, dict[Any, Denominator]]:
    """Return what each of the losses of several outputs is a mean over; with all of them, their sum is known."""
    each: dict[Any, Denominator] = {}
    unknown = {output: loss for output, loss in terms.losses.items()
               if known_denominator(loss) is None and output not in terms.found}
    if unknown:
        preds, labels, *_ = step.forward(batch)
        for output, loss in unknown.items():
            pair = output.of(preds, "preds"), output.of(labels, "labels")
            found = of_loss(loss, *pair) if paired(*pair) else None
            if found is None or found.kind in ("other", "unseen"):
                return found, each
            each[output] = found
    return Denominator("samples"), each


def of_step(step: Any, batch: Any) -> Denominator | None:
    """Return what the loss that a net brings, or that a step computes in its own way, is a mean over."""
    samples = size(batch, step.net)
    _, labels, _ = parts_of(batch, step.net)
    labels = labels if isinstance(labels, Tensor) and labels.dim() and len(labels) == samples else None

    def loss_of(rows: list[int], own: Tensor | None) -> float:
        preds, found, *weights = step.forward(with_labels(some(batch, rows, samples), own, step.net))
        return scalar(step.loss(preds, found, *weights))

    return recognise(loss_of, labels, samples) if samples else None


def verified(step: Any, batch: Any) -> Denominator | None:
    """Check that the loss of a batch is the mean of those of two parts, as the step counts them."""
    samples = size(batch, step.net)
    if samples < 2:
        return None
    cut = max(1, samples // 3)
    parts = [some(batch, list(rows), samples) for rows in (range(cut), range(cut, samples))]

    def loss_of(part: Any) -> float:
        preds, labels, *weights = step.forward(part)
        return scalar(step.loss(preds, labels, *weights))

    whole, again = loss_of(batch), loss_of(batch)
    if not close(whole, again):
        return Denominator("random")
    try:
        found = [(loss_of(part), float(step.count(part))) for part in parts]
    except Exception:  # a loss that needs more samples than a part has
        return Denominator("other")
    total = sum(count for _, count in found)
    if total and close(whole, sum(loss * count for loss, count in found if count) / total):
        return known_denominator(step.loss_fn) or Denominator("samples")
    return Denominator("sum" if close(whole, sum(loss for loss, _ in found)) else "other")


def numbers_of(loss: Any) -> Callable[[Tensor, Tensor], float]:
    """Return a loss as a function that gives a number."""
    return lambda preds, labels: scalar(loss(preds, labels))


def scalar(loss: Any) -> float:
    """Return a loss as a number; of a loss with parts, the loss."""
    return float((loss[0] if isinstance(loss, tuple) else loss).detach())
