"""Find out, on the first batches of a pass, what its loss is a mean over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torchkeras.core.types import Batch
from torchkeras.weighting import examination
from torchkeras.weighting.counting import Counting


def examined(step: Any, source: Iterator[Batch], hold: Callable[[Batch], Batch], *,
             divided: bool) -> Iterator[Batch]:
    """Yield the batches; find out from the first how the loss of the step counts, if unknown.

    It stays unknown, and ``step.count_undecided`` True, as long as all labels are ignored.

    Args:
        step: the step; one of a user's own make is left alone.
        source: the batches.
        hold: returns a batch that stays as it is while the next ones are read.
        divided: whether losses of several batches, or of parts of one, make one update.
    """
    if not isinstance(step, Counting):
        return source
    ours: Any = step
    found = ours.facts.found
    if found is not None:
        examination.record_denominator(ours, found, divided)
    elif examination.needs_examination(ours, divided):
        return looked_at(ours, source, hold, divided)
    else:
        examination.set_left_out_labels(ours, found)
    return source


def looked_at(step: Any, source: Iterator[Batch], hold: Callable[[Batch], Batch],
              divided: bool) -> Iterator[Batch]:
    """Examine batches until one has a label that counts; yield these and the rest."""
    held: list[Batch] = []
    more = True
    while more:
        first = list(islice(source, 1))
        with step.process_strategy.raise_on_all_ranks():
            found = examination.find_denominator(step, first[0]) if first else None
            found, step.facts.paired = step.process_strategy.broadcast((found, step.facts.paired))
            examination.record_denominator(step, found, divided)
        unseen = found is not None and found.kind == "unseen"
        alone = not step.process_strategy.splits_batches
        step.count_undecided = more = bool(first) and unseen and alone
        examination.hold_metrics(step, more)
        held += map(hold, first) if more else first
        if not more or not divided:  # a window has to know how its batches count
            yield from held
            held = []
    yield from source
