"""Run training steps of which no trace is left, to learn what a step computes and what else it does."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from torchkeras.acceleration.same_modules import modules_of
from torchkeras.metrics.base import widest
from torchkeras.state import putting
from torchkeras.state.memento import memento_of
from torchkeras.state.rng import put_random_states, random_states


class Unfit(Exception):
    """A step does what a compiled graph would not; the text says what."""


class OtherNumbers(Exception):
    """A compiled graph does not compute what it was made from."""


class Trial:
    """Keep what a training step could change, run some, and put everything back.

    Args:
        step: the step; its schedule, its metrics and its own numbers stay out of a trial.

    Attributes:
        draws: whether random numbers of torch were drawn, known when all is put back.
        ended: where torch's random generators were in the end.
    """

    draws = False
    ended: list[Tensor]

    def __init__(self, step: Any) -> None:
        self.step, self.optimizer = step, step.optimizer
        self.weights = list({id(one): one for part in modules_of(step) for one in part.parameters()}.values())
        self.buffers = list({id(one): one for part in modules_of(step) for one in part.buffers()}.values())

    def memories(self) -> list[Tensor]:
        """Return the tensors that the optimizer remembers."""
        return [one for state in self.optimizer.state.values() for one in state.values() if isinstance(one, Tensor)]

    @contextmanager
    def no_trace(self, updates: bool = True) -> Iterator[Any]:
        """Yield a step to be run; afterwards all is as it was.

        Args:
            updates: whether the step may update the weights; if not, the optimizer's memories need not be copied.

        Raises:
            Unfit: it did what a graph would not do, or what cannot be undone.
        """
        written = [*self.buffers, *self.weights, *(self.memories() if updates else [])]
        kept = [(one, one.data_ptr(), one.data, one.detach().clone()) for one in written]
        grads = [(one, one.grad) for one in self.weights]
        states = list(self.optimizer.state.items()), [putting.in_mapping(one) for one in self.optimizer.state.values()]
        parts = [value for name, value in vars(self.step).items() if name != "metrics_dict"]
        memento = memento_of(*parts, type(self.step), but=[*self.weights, *self.buffers])
        if memento.once or memento.lend:
            raise Unfit("a net or loss that holds what can be read only once")
        generators, moved = random_states(), ""
        for one in self.weights:
            one.grad = None
        try:
            with memento, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield self.alone()
        finally:
            moved = self.put_back(kept, grads, states, generators)
        if memento.changed or memento.lost:
            raise Unfit("a net or loss that changes more than its buffers")
        if moved:
            raise Unfit(moved)

    def alone(self) -> Any:
        """Return the step without what belongs to a run."""
        step = copy.copy(self.step)
        step.moving, step.metrics_dict, step.notes, step.facts = None, {}, [], copy.copy(step.facts)
        step.looking, step.number, step.facts.paired = False, 1, False
        return step

    def put_back(self, kept: Any, grads: Any, states: Any, generators: Any) -> str:
        """Put back tensors, gradients, the optimizer's state and the global generators; return what moved, in words."""
        found = ""
        for one, place, home, before in kept:
            if one.data_ptr() != place or one.shape != before.shape:
                found, one.data = "a net or loss that gives weights or buffers other memory", home
            with torch.no_grad():
                one.detach().copy_(before)
        for one, gradient in grads:
            one.grad = gradient
        for (_, state), (names, values) in zip(*states, strict=True):
            putting.put_mapping(state, names, values)
        putting.put_mapping(self.optimizer.state, [one for one, _ in states[0]], [state for _, state in states[0]])
        now = random_states()
        put_random_states(generators)
        self.ended = places(now)
        self.draws = not same_places(self.ended, places(generators))
        if any(pickle.dumps(now[name]) != pickle.dumps(generators[name]) for name in ("python", "numpy")):
            return "random numbers of Python or numpy"
        return found


class PlainSteps(Trial):
    """Two steps as they are, and what they computed.

    Args:
        step: the step, which has run before.
        batch: the batch of both.

    Attributes:
        losses: the loss of each.
        learning: the ids of the weights that got a gradient.
        before, after: the numbers of weights, buffers and the optimizer's memories, by where they are in memory.
        draws: whether random numbers of torch were drawn.
    """

    def __init__(self, step: Any, batch: Any) -> None:
        super().__init__(step)
        self.before = self.numbers()
        used, losses = [], []
        with self.no_trace() as alone:
            update = alone.update

            def note_and_update() -> None:
                used.append({id(one) for one in self.weights if one.grad is not None})
                sparse.extend(one for one in self.weights if one.grad is not None and one.grad.is_sparse)
                update()

            sparse: list[Tensor] = []
            alone.update = note_and_update
            losses = [next(iter(alone(batch).losses.values())) for _ in range(2)]
            self.after = self.numbers()
        self.losses, self.learning = torch.stack(losses), used[0]
        if used[0] != used[1]:
            raise Unfit("weights that get a gradient in some steps only")
        if sparse:
            raise Unfit("sparse gradients")

    def forget(self) -> None:
        """Let go of all copies."""
        self.before, self.after = {}, {}

    def numbers(self) -> dict[tuple[int, int], Tensor]:
        """Return copies of all numbers that a step could write."""
        return {place_of(one): one.detach().clone() for one in [*self.weights, *self.buffers, *self.memories()]}


def place_of(one: Tensor) -> tuple[int, int]:
    """Return where a tensor is in memory, and its size."""
    return one.data_ptr(), one.numel()


def places(states: dict[str, Any]) -> list[Tensor]:
    """Return the states of torch's random generators."""
    return [states["torch"], *states["cuda"]]


def same_places(some: list[Tensor], others: list[Tensor]) -> bool:
    """Return whether random generators are at the same places."""
    return all(map(torch.equal, some, others))


def agree(found: list[Tensor], usual: list[Tensor], before: list[Tensor] | None, coarse: float = 1e-3) -> bool:
    """Return whether tensors of one kind changed as they do usually, but for rounding.

    What is compared is the change, each tensor by the largest number in its own; where that is rounding alone, as the
    gradient of a bias in front of a batch norm is, by the largest in any.

    Args:
        found: the tensors as they came out.
        usual: as they usually come out.
        before: as they were; zeros if None.
        coarse: how much of a change may be missing.
    """
    before = before or [torch.zeros_like(one) for one in usual]
    changes = [(wide(one) - wide(other), wide(other) - wide(old))
               for one, other, old in zip(found, usual, before, strict=True)]
    most = max((largest(change) for _, change in changes), default=0.0)
    for (difference, change), after in zip(changes, usual, strict=True):
        rounding = 16 * torch.finfo(after.dtype).eps * largest(wide(after)) if after.is_floating_point() else 0.0
        if not largest(difference) <= coarse * (largest(change) + 0.1 * most) + rounding:
            return False
    return True


def moved_alike(found: list[Tensor], usual: list[Tensor], before: list[Tensor]) -> bool:
    """Return whether the same tensors changed at all."""
    return all(torch.equal(one, old) == torch.equal(other, old)
               for one, other, old in zip(found, usual, before, strict=True))


def wide(one: Tensor) -> Tensor:
    """Return a tensor in the most precise type of its device; infinite numbers, as in a mask, as large ones."""
    one = torch.view_as_real(one) if one.is_complex() else one
    return one.detach().to(widest(one.device)).nan_to_num()


def largest(one: Tensor) -> float:
    """Return the largest absolute number; 0 where there is none."""
    return float(one.abs().max()) if one.numel() else 0.0
