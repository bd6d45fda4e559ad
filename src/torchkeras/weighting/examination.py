"""Examine the loss of the first batch: what it is a mean over, and whether it is one."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.core.modes import eval_mode, with_gradients_if_needed
from torchkeras.core.rng import put_random_states, random_states
from torchkeras.core.types import Batch, Labels, LossFn, Preds
from torchkeras.data.samples import size, split_any_layout
from torchkeras.state.components import loss_modules
from torchkeras.weighting.denominator import Denominator, LossFacts, LossStep, known_denominator
from torchkeras.weighting.own_attributes import LOST, memento_of_step, must_not_be_called
from torchkeras.weighting.pieces import has_rows, take_samples, with_labels
from torchkeras.weighting.recognition import (
    MAX_SAMPLES,
    find_axes,
    is_close,
    precise,
    recognise,
    still_agrees,
)
from torchkeras.weighting.weighing import terms_of

COUNT = ("If it is a mean over something else, return the count from StepRunner.count(batch); "
         "otherwise use one process and no accumulation, with larger batches.")

DEPENDS = ("loss_fn: no mean over samples or labels (its value for the first batch is not the mean "
           "of those of its parts), so the loss of a pass depends on the batch size; if it is a "
           "mean over something else, return the count from StepRunner.count(batch)")

RANDOM = "loss_fn: draws random numbers, so it was not checked that it is a mean over samples"
FAILED = ("loss_fn: taken for a mean over samples, since it could not be examined; if it is a mean "
          "over something else, return the count from StepRunner.count(batch)")
CHECKED_FIRST = 8  # batches at the start of a pass that are all checked


def needs_examination(step: LossStep, divided: bool) -> bool:
    """Tell whether the loss of a step must be examined: its kind and its count are unknown."""
    own_call = step.loss_fn is None and step.calls_itself
    if "count" in step.own or step.facts.found is not None or own_call:
        return False
    counted_by_own_step = bool(step.own) and divided
    return known_denominator(step.loss_fn) is None or "loss" in step.own or counted_by_own_step


def find_denominator(step: LossStep, batch: Batch) -> Denominator | None:
    """Find out from the first batch what the loss is a mean over; None where that fails.

    Net, loss, random generators and the batch are restored.
    """
    if must_not_be_called(step):
        return None
    if step.process_strategy.shards_parameters and step.loss_fn is None:
        raise bad_value("StepRunner.count",
                        received="none, for a net that brings its own loss, with fsdp=True",
                        expected="what that loss is a mean over",
                        fix="Override StepRunner.count(batch).")
    terms = None if step.own else terms_of(step.loss_fn)
    found: Denominator | None = None
    each: dict[Any, Denominator] = {}
    with undisturbed(step):
        try:
            # every rank must call a sharded net equally often
            if step.process_strategy.shards_parameters:
                found = denominator_of_sharded(step, batch)
            elif terms is None:
                found = with_gradients_if_needed(
                    step.net, functools.partial(denominator_of_batch, step), batch)
            else:
                found, each = denominator_of_terms(step, terms, batch)
        except Exception as error:  # the step will raise and explain the same
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            note = f"{FAILED} ({why})"
            step.notes += [] if note in step.notes else [note]
    if terms is not None:
        terms.found.update(each)
    return found


def record_denominator(step: LossStep, found: Denominator | None, divided: bool) -> None:
    """Record what the loss was found to be a mean over.

    Args:
        step: the StepRunner; ``found`` is kept in its ``facts``.
        found: what the loss is a mean over.
        divided: whether one update is made from several batches, or on several ranks.

    Raises:
        ValueError: ``divided``, and the loss is not a known kind of mean.
    """
    if found is None or found.kind == "unseen":
        set_left_out_labels(step, step.facts.found)
        return
    if found.kind == "other" and divided:
        raise bad_value("loss_fn",
                        received="a loss which is no mean over samples or labels: that of a batch "
                        "is not the mean of those of its parts",
                        expected="such a mean, where one update is made from several batches "
                        "(gradient_accumulation_steps) or by several processes", fix=COUNT)
    step.facts.found, step.known = found, None
    unsure = RANDOM if found.kind == "random" and divided else None
    note = DEPENDS if found.kind == "other" else unsure
    if note is not None and note not in step.notes:
        step.notes.append(note)
    set_left_out_labels(step, found)


def is_check_due(number: int) -> bool:
    """Tell whether the batch with this number in its pass is checked: fewer and fewer are."""
    return 1 < number <= CHECKED_FIRST or (number & (number - 1) == 0 and number > 1)


def check_later_batch(step: LossStep, preds: Preds, labels: Labels, *, empty: bool,
                      divided: bool) -> None:
    """Check a later batch against what was found: earlier ones may not have shown everything.

    On one of several ranks, the result is kept until all ranks agree on it. In a batch that may be
    ``empty``, all labels may be ignored.

    Raises:
        ValueError: as :func:`record_denominator`.
    """
    known = step.facts.found
    if known is None or known.kind in ("other", "random") or not are_paired(preds, labels):
        return
    preds = precise(preds.detach())
    if len(labels) == 1:
        preds, labels = joined_with_previous(step.facts, preds, labels)

    def loss_of(rows: list[int], own: Tensor | None) -> float:
        return loss_value(step.loss(preds[rows], own))

    found: Denominator | None = None
    with undisturbed(step), suppress(Exception):
        if not empty and (len(labels) < 2 or still_agrees(
                known, loss_of, as_number_function(step.loss), preds, labels)):
            return
        if not bool(preds.isfinite().all()):
            return  # the net itself is at fault
        found = denominator_of_loss(step.loss, preds, labels, most=max(MAX_SAMPLES, len(labels)))
    if found is not None and found.kind == known.kind and found.ignored:
        ignored = tuple(dict.fromkeys(known.ignored + found.ignored))
        found = dataclasses.replace(found, ignored=ignored)
    if step.process_strategy.splits_batches:
        step.facts.revised = found
    else:
        revise_denominator(step, found, divided)


def joined_with_previous(facts: LossFacts, preds: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Join a sample with the last one that came alone, since one tells nothing; keep it."""
    before, facts.single = facts.single, (preds, labels)
    if before is None or before[0].shape != preds.shape or before[1].shape != labels.shape:
        return preds, labels
    return torch.cat([before[0], preds]), torch.cat([before[1], labels])


def revise_denominator(step: LossStep, found: Denominator | None, divided: bool) -> None:
    """Record what a later batch showed, unless earlier updates relied on another count.

    Raises:
        ValueError: earlier updates combined losses by another count.
    """
    known: Any = step.facts.found  # never None when a later batch is checked
    together = divided or step.process_strategy.splits_batches
    if together and found is not None and found.kind not in ("unseen", "other") and (
            (found.kind, found.ignored) != (known.kind, known.ignored)):
        raise bad_value("loss_fn",
                        received="a loss of which only a later batch showed what it is a mean "
                        "over: it leaves out labels that were in none before, or counts others",
                        expected="to know it from the start, where one update is made of several "
                        "batches (gradient_accumulation_steps) or of the parts of several "
                        "processes", fix="Return it from StepRunner.count(batch).")
    record_denominator(step, found, divided)


def set_left_out_labels(step: LossStep, found: Denominator | None) -> None:
    """Tell the metrics which labels the loss was found to leave out."""
    marks = left_out_labels(found)
    for metric in step.metrics_dict.values():
        if callable(leave_out := getattr(metric, "leave_out", None)):
            leave_out(marks)


def left_out_labels(found: Denominator | None) -> tuple[float, ...]:
    """Return the labels that a loss was found to leave out."""
    return () if found is None or found.kind not in ("valid", "shifted") else found.ignored


def hold_metrics(step: LossStep, waiting: bool) -> None:
    """Hold back metric updates while it is unknown which labels count; then make them."""
    kept = getattr(step, "waiting", None)
    if waiting:
        step.waiting = kept or []
    elif kept is not None:
        step.waiting = None
        for preds, labels in kept:
            step.update_metrics(preds, labels)


@contextmanager
def undisturbed(step: LossStep) -> Iterator[None]:
    """Run net and loss in evaluation mode; afterwards their state and the RNG are as before."""
    random, memento, losses = random_states(), memento_of_step(step), loss_modules(step.loss_fn)
    try:
        with memento, eval_mode(step.net, *losses), torch.no_grad(), step.autocast():
            yield
    finally:
        put_random_states(random)
        step.notes += [LOST] if memento.lost and LOST not in step.notes else []


def denominator_of_batch(step: LossStep, batch: Batch) -> Denominator | None:
    """Return the denominator of any loss: a function, a net's, or a step's."""
    if "loss" not in step.own and step.own and known_denominator(step.loss_fn) is not None:
        return verify_count(step, batch)
    if step.loss_fn is None or "loss" in step.own:
        return denominator_of_step(step, batch)
    preds, labels, *third = step.forward(batch)
    if third or not are_paired(preds, labels):
        return denominator_of_step(step, batch)
    step.facts.paired = True
    if len(labels) == 1:
        joined_with_previous(step.facts, precise(preds.detach()), labels)
    return denominator_of_loss(step.loss, preds, labels)


def denominator_of_sharded(step: LossStep, batch: Batch) -> Denominator | None:
    """Return the denominator of a loss, with one call of the net."""
    preds, labels, *third = step.forward(batch)
    if third or not are_paired(preds, labels):
        return None
    return denominator_of_loss(step.loss, preds, labels)


def are_paired(preds: Preds, labels: Labels) -> bool:
    """Tell whether predictions and labels are two tensors with a row for each sample."""
    tensors = all(isinstance(one, Tensor) and has_rows(one) for one in (preds, labels))
    return tensors and len(preds) == len(labels)


def denominator_of_loss(loss: LossFn, preds: Tensor, labels: Tensor,
                        most: int = MAX_SAMPLES) -> Denominator | None:
    """Return the denominator of a function of predictions and labels."""
    preds = precise(preds)

    def loss_of(rows: list[int], own: Tensor | None) -> float:
        return loss_value(loss(preds[rows], own))

    found = recognise(loss_of, labels, len(labels), most) if len(labels) else None
    if found is None or found.kind not in ("samples", "other", "sum"):
        return found
    along = find_axes(as_number_function(loss), preds, labels)
    if along is None and found.kind == "samples":  # there is one row, which tells nothing
        return Denominator("elements", dims=(0,))
    return found if along is None else along


def denominator_of_terms(
        step: LossStep, terms: Any,
        batch: Batch) -> tuple[Denominator | None, dict[Any, Denominator]]:
    """Return the denominator of each loss of several outputs, and that of their sum."""
    each: dict[Any, Denominator] = {}
    unknown = {output: loss for output, loss in terms.losses.items()
               if known_denominator(loss) is None and output not in terms.found}
    if unknown:
        preds, labels, *_ = step.forward(batch)
        for output, loss in unknown.items():
            pair = output.of(preds, "preds"), output.of(labels, "labels")
            found = denominator_of_loss(loss, *pair) if are_paired(*pair) else None
            if found is None or found.kind in ("other", "unseen"):
                return found, each
            each[output] = found
    return Denominator("samples"), each


def denominator_of_step(step: LossStep, batch: Batch) -> Denominator | None:
    """Return the denominator of a loss that a net returns or a user's step computes."""
    samples = size(batch, step.net)
    _, labels, _ = split_any_layout(batch, step.net)
    if not (isinstance(labels, Tensor) and labels.dim() and len(labels) == samples):
        labels = None

    def loss_of(rows: list[int], own: Tensor | None) -> float:
        part = with_labels(take_samples(batch, rows, samples), own, step.net)
        preds, found, *weights = step.forward(part)
        return loss_value(step.loss(preds, found, *weights))

    return recognise(loss_of, labels, samples) if samples else None


def verify_count(step: LossStep, batch: Batch) -> Denominator | None:
    """Verify that the loss of a batch is the mean of those of two parts, by ``step.count``."""
    samples = size(batch, step.net)
    if samples < 2:
        return None
    cut = max(1, samples // 3)
    parts = [take_samples(batch, list(rows), samples) for rows in (range(cut), range(cut, samples))]

    def loss_of(part: Batch) -> float:
        preds, labels, *weights = step.forward(part)
        return loss_value(step.loss(preds, labels, *weights))

    whole, again = loss_of(batch), loss_of(batch)
    if not is_close(whole, again):
        return Denominator("random")
    try:
        found = [(loss_of(part), float(step.count(part))) for part in parts]
    except Exception:  # a part has too few samples for the loss
        return Denominator("other")
    total = sum(count for _, count in found)
    if total and is_close(whole, sum(loss * count for loss, count in found if count) / total):
        return known_denominator(step.loss_fn) or Denominator("samples")
    return Denominator("sum" if is_close(whole, sum(loss for loss, _ in found)) else "other")


def as_number_function(loss: LossFn) -> Callable[[Tensor, Tensor], float]:
    """Return a loss as a function that returns a float."""
    return lambda preds, labels: loss_value(loss(preds, labels))


def loss_value(loss: Any) -> float:
    """Return a loss as a float; of ``(loss, parts)``, the loss."""
    return float((loss[0] if isinstance(loss, tuple) else loss).detach())
