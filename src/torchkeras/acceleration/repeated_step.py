"""Several training steps by one call: the graph of one step, run several times in a row."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchkeras.acceleration.multi_step_graph import CompiledMultiStep
from torchkeras.acceleration.trial import Unfit

if TYPE_CHECKING:
    from torchkeras.acceleration.step_graph import Tensors


class RepeatedStep(CompiledMultiStep):
    """Compute the steps of the next batches with the graph of one step, checked before the first.

    On a CPU this is as fast as one long graph of all these steps, and there is nothing to compile.
    An accelerator would have to be waited for after each step, to see whether its loss is finite.
    """

    compiles = 0
    fewest = 2

    def build_graph(self) -> Any:
        """Return the function that computes a block; it takes what the graph of one step takes."""
        return self.repeat

    def repeat(self, weights: Tensors, fixed: Tensors, states: list[Any], variables: list[Any],
               features: Tensor, labels: Tensor) -> Any:
        """Run one step after another, until a loss is not finite: that step changes nothing."""
        single, draws = self.single, self.single.reference.draws
        first, *others = zip(torch.split(features, self.size), torch.split(labels, self.size),
                             strict=True)
        drawn = torch.get_rng_state() if draws else None
        single.last.kept = True
        loss, _, counts, _ = single.graph(weights, fixed, states, variables, *first)
        again = single.last.repeated(first, [loss, *(one for each in counts
                                                     for one in each.values())])
        single.last.forget()
        if again is None:
            raise Unfit("data that is not an input of it as it is, or results that are shared")
        losses, sums = [loss], [one for each in counts for one in each.values()]
        for data in others:
            if not math.isfinite(losses[-1].item()):
                break
            drawn = torch.get_rng_state() if draws else None
            loss, *more = again(data)
            losses.append(loss)
            sums = [one + other for one, other in zip(sums, more, strict=True)]
        if drawn is not None and not math.isfinite(losses[-1].item()):
            torch.set_rng_state(drawn)
        total = iter(sums)
        return torch.stack(losses), [{name: next(total) for name in each} for each in counts]
