"""Undo a run that failed before its first update."""

from __future__ import annotations

from torch import nn

from torchkeras.core.rng import put_random_states, random_states
from torchkeras.state.weights import Weights


class Rollback:
    """The state before a run, to restore when the run fails before its first update."""

    def __init__(self, *modules: nn.Module) -> None:
        # where nothing learns by gradients, a step of the user's may write into the weights
        every = not any(weight.requires_grad for one in modules for weight in one.parameters())
        self.weights, self.random = Weights(*modules, every=every), random_states()

    def restore(self) -> list[str]:
        """Restore weights, buffers and random generators, and clear gradients.

        Return the names of frozen weights that have changed, since there is no copy of them.
        """
        self.weights.restore()
        for module in self.weights.modules:
            module.zero_grad()
        put_random_states(self.random)
        return [name for number in range(len(self.weights.modules))
                for name in self.weights.moved(number).values()]
