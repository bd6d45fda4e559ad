"""Say what the loss of a batch is a mean over: the part of a step that counts."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from torchkeras.core.stop import NonFiniteLoss
from torchkeras.core.types import Batch, Count, Labels
from torchkeras.data import samples
from torchkeras.weighting import weighing
from torchkeras.weighting.denominator import Denominator, LossFacts, known_denominator

SAMPLES = Denominator("samples")


class Counting:
    """Count the samples, labels or tokens that the loss is a mean over; a step is one of these."""

    net: nn.Module
    loss_fn: Any
    facts: LossFacts  # what is known of the loss, shared by the passes of a model
    known: Denominator | None = None  # what the loss is a mean over
    own: frozenset[str]  # the verbs that a subclass overrides
    seen: Any  # the labels of the batch in hand, as the loss got them
    count_undecided = False  # whether it is still to be seen what the loss is a mean over

    def count(self, batch: Batch) -> Count:
        """Return how many samples, labels or tokens the loss of this batch is a mean over.

        Override it for a loss that cannot be examined. The mean of an epoch, gradient accumulation
        and the parts of several processes depend on it.
        """
        return self.counted(samples.split_any_layout(batch, self.net)[1], batch)

    def counted(self, labels: Labels, batch: Batch) -> Any:
        """Return how much labels count."""
        terms = self.terms
        if terms is not None:
            size = samples.size(batch, self.net)
            counts = terms.term_counts(labels)
            return weighing.Terms(size, counts, terms.shares, terms.terms, terms.scales)
        denominator = self.known or self.denominator
        by_labels = denominator.by_labels and isinstance(labels, Tensor)
        return denominator.count(labels, 0 if by_labels else samples.size(batch, self.net))

    def weight(self, batch: Batch) -> Count:
        """Return the count of the finished batch, by the labels that the loss got."""
        recounts = ("forward" in self.own and "count" not in self.own
                    and isinstance(self.seen, Tensor))
        return self.counted(self.seen, batch) if recounts else self.count(batch)

    @functools.cached_property
    def terms(self) -> Any:
        """Return the losses of several outputs, where the loss is their sum."""
        return weighing.terms_of(self.loss_fn)

    @property
    def denominator(self) -> Denominator:
        """Return what the loss is a mean over, as far as it is known."""
        if self.known is None:
            known = known_denominator(self.loss_fn)
            found = self.facts.found
            self.known = (found or known) if "loss" in self.own else (known or found)
        return self.known or SAMPLES

    @property
    def loss_adds_up(self) -> bool:
        """Tell whether the loss adds up its samples; then an epoch's loss does too."""
        return bool(self.denominator.kind == "sum")

    def raise_non_finite_loss(self, error: NonFiniteLoss) -> None:
        """Raise at once: a loss that was read late is not finite."""
        raise error


def with_parts(found: Any) -> bool:
    """Tell whether a loss gave ``(loss, {name: part of it})``."""
    return isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], Mapping)
