"""Run training steps and undo everything they did, to learn what a step computes and changes."""

from __future__ import annotations

import copy
import pickle
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from torchkeras.acceleration.same_modules import modules_of
from torchkeras.core.rng import put_random_states, random_states
from torchkeras.core.types import Batch, State
from torchkeras.engine.step import StepRunner
from torchkeras.metrics.base import widest
from torchkeras.state import putting
from torchkeras.state.memento import memento_of


class Unfit(Exception):
    """A step does something that a compiled graph would not do; the text names it."""


class OtherNumbers(Exception):
    """A compiled graph computes other numbers than the code it was compiled from."""


class Trial:
    """Save what a training step can change, run some steps, and restore everything.

    Args:
        step: the step; its schedule, metrics and counters take no part in a trial.

    Attributes:
        draws: whether random numbers of torch were drawn, known once everything is restored.
        rng_after: the states of torch's random generators after the steps.
    """

    draws = False
    rng_after: list[Tensor]

    def __init__(self, step: StepRunner) -> None:
        self.step, self.optimizer = step, step.optimizer
        parts = modules_of(step)
        weights = (one for part in parts for one in part.parameters())
        buffers = (one for part in parts for one in part.buffers())
        self.weights = list({id(one): one for one in weights}.values())
        self.buffers = list({id(one): one for one in buffers}.values())

    def optimizer_tensors(self) -> list[Tensor]:
        """Return the tensors in the optimizer's state."""
        return [one for state in self.optimizer.state.values() for one in state.values()
                if isinstance(one, Tensor)]

    @contextmanager
    def rolled_back(self, updates: bool = True) -> Iterator[StepRunner]:
        """Yield a step to run; restore everything afterwards.

        Args:
            updates: whether the step may update the weights; if not, the tensors of the
                optimizer's state need not be copied.

        Raises:
            Unfit: the step did what a graph would not do, or what cannot be undone.
        """
        optimizer_tensors = self.optimizer_tensors() if updates else []
        saved = [(one, one.data_ptr(), one.data, one.detach().clone())
                 for one in (*self.buffers, *self.weights, *optimizer_tensors)]
        grads = [(one, one.grad) for one in self.weights]
        states = (list(self.optimizer.state.items()),
                  [putting.items_of(one) for one in self.optimizer.state.values()])
        parts = [value for name, value in vars(self.step).items() if name != "metrics_dict"]
        memento = memento_of(*parts, type(self.step), but=[*self.weights, *self.buffers])
        if memento.one_shot or memento.substitutes:
            raise Unfit("a net or loss that holds what can be read only once")
        generators, moved = random_states(), ""
        for one in self.weights:
            one.grad = None
        try:
            with memento, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield self.step_without_run()
        finally:
            moved = self.restore(saved, grads, states, generators)
        if memento.changed or memento.lost:
            raise Unfit("a net or loss that changes more than its buffers")
        if moved:
            raise Unfit(moved)

    def step_without_run(self) -> Any:
        """Return a copy of the step without the schedule, metrics and counters of the run."""
        step = copy.copy(self.step)
        step.per_step_schedule, step.metrics_dict, step.notes = None, {}, []
        step.facts = copy.copy(step.facts)
        step.looking, step.number, step.facts.paired = False, 1, False
        return step

    def restore(self, saved: list[tuple[Tensor, int, Tensor, Tensor]],
                grads: Sequence[tuple[Tensor, Tensor | None]], states: tuple[list[Any], list[Any]],
                generators: State) -> str:
        """Restore tensors, gradients, optimizer state and global generators.

        Returns:
            What a graph could not have done, in words; empty if there was nothing of the kind.
        """
        found = ""
        for one, address, memory, before in saved:
            if one.data_ptr() != address or one.shape != before.shape:
                found, one.data = "a net or loss that gives weights or buffers other memory", memory
            with torch.no_grad():
                one.detach().copy_(before)
        for one, gradient in grads:
            one.grad = gradient
        for (_, state), (names, values) in zip(*states, strict=True):
            putting.restore_mapping(state, names, values)
        keys, values = [one for one, _ in states[0]], [state for _, state in states[0]]
        putting.restore_mapping(self.optimizer.state, keys, values)
        now = random_states()
        put_random_states(generators)
        self.rng_after = torch_generators(now)
        self.draws = not all_equal(self.rng_after, torch_generators(generators))
        if any(pickle.dumps(now[name]) != pickle.dumps(generators[name])
               for name in ("python", "numpy")):
            return "random numbers of Python or numpy"
        return found


class ReferenceSteps(Trial):
    """Two eager steps and their results, with which a graph is compared.

    Args:
        step: the step, which has run before.
        batch: the batch of both.

    Attributes:
        losses: the loss of each.
        learning: the ids of the weights that got a gradient.
        before, after: copies of weights, buffers and optimizer tensors, by their memory.
        draws: whether random numbers of torch were drawn.
    """

    def __init__(self, step: StepRunner, batch: Batch) -> None:
        super().__init__(step)
        self.before = self.copies()
        used, losses = [], []
        with self.rolled_back() as alone:
            update = alone.update

            def note_and_update() -> None:
                gradients = {id(one): one.grad for one in self.weights if one.grad is not None}
                used.append(set(gradients))
                sparse.extend(one for one in gradients.values() if one.is_sparse)
                update()

            sparse: list[Tensor] = []
            alone.update = note_and_update  # type: ignore[method-assign]
            losses = [next(iter(alone(batch).losses.values())) for _ in range(2)]
            self.after = self.copies()
        self.losses, self.learning = torch.stack(losses), used[0]
        if used[0] != used[1]:
            raise Unfit("weights that get a gradient in some steps only")
        if sparse:
            raise Unfit("sparse gradients")

    def free(self) -> None:
        """Release all copies."""
        self.before, self.after = {}, {}

    def copies(self) -> dict[tuple[int, int], Tensor]:
        """Return copies of all tensors that a step can write to."""
        return {memory_of(one): one.detach().clone()
                for one in [*self.weights, *self.buffers, *self.optimizer_tensors()]}


def memory_of(one: Tensor) -> tuple[int, int]:
    """Return the address of a tensor's memory, and its size."""
    return one.data_ptr(), one.numel()


def torch_generators(states: State) -> list[Tensor]:
    """Return the states of torch's random generators."""
    return [states["torch"], *(one for each in states["accelerator"].values() for one in each)]


def all_equal(some: list[Tensor], others: list[Tensor]) -> bool:
    """Return whether two lists hold equal tensors."""
    return all(map(torch.equal, some, others))


def changes_agree(found: list[Tensor], expected: list[Tensor], before: list[Tensor] | None,
                  tolerance: float = 1e-3) -> bool:
    """Return whether tensors of one kind changed as expected, up to rounding.

    The changes are compared, each tensor's relative to its own largest change; where that is
    rounding alone (the gradient of a bias before a batch norm), to the largest of all tensors.

    Args:
        found: the tensors as they came out.
        expected: as they should come out.
        before: as they were; zeros if None.
        tolerance: how large a part of a change may be missing.
    """
    before = before or [torch.zeros_like(one) for one in expected]
    changes = [(widened(one) - widened(other), widened(other) - widened(old))
               for one, other, old in zip(found, expected, before, strict=True)]
    most = max((max_abs(change) for _, change in changes), default=0.0)
    for (difference, change), after in zip(changes, expected, strict=True):
        rounding = (16 * torch.finfo(after.dtype).eps * max_abs(widened(after))
                    if after.is_floating_point() else 0.0)
        if not max_abs(difference) <= tolerance * (max_abs(change) + 0.1 * most) + rounding:
            return False
    return True


def same_tensors_changed(found: list[Tensor], expected: list[Tensor], before: list[Tensor]) -> bool:
    """Return whether the same tensors changed, whatever the amounts."""
    return all(torch.equal(one, old) == torch.equal(other, old)
               for one, other, old in zip(found, expected, before, strict=True))


def widened(one: Tensor) -> Tensor:
    """Return a tensor in its device's widest dtype; infinities, as in a mask, become finite."""
    one = torch.view_as_real(one) if one.is_complex() else one
    return one.detach().to(widest(one.device)).nan_to_num()


def max_abs(one: Tensor) -> float:
    """Return the largest absolute value; 0 for an empty tensor."""
    return float(one.abs().max()) if one.numel() else 0.0
