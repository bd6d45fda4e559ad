"""Several training steps by one call: the graph of one step, run several times in a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchkeras.acceleration.multi_step_graph import CompiledMultiStep
from torchkeras.acceleration.trial import Unfit
from torchkeras.core.types import Batch
from torchkeras.engine.callback import own_hook

if TYPE_CHECKING:
    from torchkeras.acceleration.autotuner import StepAutotuner
    from torchkeras.acceleration.step_graph import Tensors
    from torchkeras.engine.step import StepRunner


class RepeatedStep(CompiledMultiStep):
    """Compute the steps of the next batches with the graph of one step, checked before the first.

    On a CPU this is as fast as one long graph of all these steps, and there is nothing to compile.
    An accelerator would have to be waited for after each step, to see whether its loss is finite.
    From block to block of a pass, nothing that the compiler's checks look at can change where no
    callback but our displays is called in between: then they are made once a pass.
    """

    compiles = 0
    fewest = 2

    def __init__(self, step: StepRunner, batch: Batch, tuner: StepAutotuner) -> None:
        self.again: Callable[[Sequence[Tensor]], list[Any]] | None = None  # the last step, anew
        self.checked_until: tuple[int, int] | None = None  # epoch and step after the last block
        self.undisturbed = all(map(leaves_alone, tuner.callbacks.listeners))
        super().__init__(step, batch, tuner)

    def build_graph(self) -> Any:
        """Return the function that computes a block; it takes what the graph of one step takes."""
        return self.repeat

    def compute_block(self, step: StepRunner, batch: Batch) -> bool:
        """Compute the steps of a block if one begins here, and return whether it was done."""
        run = self.run
        if self.checked_until != (run.epoch, run.step):
            self.again = None
        done = super().compute_block(step, batch)
        # after a loss that is not finite, a step of the user's own code is run
        checked = done and self.undisturbed and all(map(math.isfinite, self.pending))
        self.checked_until = (run.epoch, run.step + self.at_once) if checked else None
        return done

    def repeat(self, weights: Tensors, fixed: Tensors, states: list[Any], variables: list[Any],
               features: Tensor, labels: Tensor) -> Any:
        """Run one step after another, until a loss is not finite: that step changes nothing."""
        draws = self.single.reference.draws
        first, *others = zip(torch.split(features, self.size), torch.split(labels, self.size),
                             strict=True)
        drawn = torch.get_rng_state() if draws else None
        again = self.again
        if again is None:
            again, results = self.checked_step(weights, fixed, states, variables, first)
        else:
            results = again(first)
        loss, *sums = results
        losses = [loss]
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
        return torch.stack(losses), [
            {name: next(total) for name in names} for names in self.counted]

    def checked_step(self, weights: Tensors, fixed: Tensors, states: list[Any],
                     variables: list[Any], data: Sequence[Tensor]
                     ) -> tuple[Callable[[Sequence[Tensor]], list[Any]], list[Tensor]]:
        """Run the graph after the compiler's checks; return how to run it without, and results."""
        last = self.single.last
        last.kept = True
        loss, _, counts, _ = self.single.graph(weights, fixed, states, variables, *data)
        results = [loss, *(one for each in counts for one in each.values())]
        self.counted = [list(each) for each in counts]  # names, by metric
        again = self.again = last.repeated(data, results)
        last.forget()
        if again is None:
            raise Unfit("data that is not an input of it as it is, or results that are shared")
        return again, results

    def end(self) -> None:
        """Release the tensors of the last step."""
        self.again = None


def leaves_alone(listener: object) -> bool:
    """Tell whether a callback runs no code of a user's after a step."""
    ours = type(listener).__module__.startswith("torchkeras.display.") and (
        "on_step_end" not in getattr(listener, "__dict__", {}))
    return ours or own_hook(listener, "on_step_end") is None
