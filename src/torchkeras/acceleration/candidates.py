"""Ways to run a training step that give the same up to rounding; each can undo its changes."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from torchkeras.acceleration.same_modules import SameModules, SameStep
from torchkeras.acceleration.trial import OtherNumbers, Trial, all_equal, changes_agree
from torchkeras.core import internals
from torchkeras.core.rng import put_random_states, random_states
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Batch, StepOutput, Value
from torchkeras.engine.step import StepRunner

if TYPE_CHECKING:
    from torchkeras.acceleration.autotuner import StepAutotuner

OPTIONS: dict[str, Any] = {  # dropout draws the numbers of eager mode; inputs are checked before
    "fallback_random": True, "size_asserts": False, "alignment_asserts": False}
Result = TypeVar("Result")


class Candidate:
    """A way to run training steps, which the autotuner times; this one runs each as it is."""

    name = "plain steps"
    compiles = 0  # how long it takes to compile, as a multiple of the usual
    at_once = 1  # the number of steps that the last call computed
    pending: Sequence[float | Tensor] = ()  # the losses of those that were not returned yet
    why: str | None = None  # why the last batch was not supported, other than by its shape

    @staticmethod
    def unsupported_reason(step: StepRunner, batch: Batch, tuner: StepAutotuner) -> str | None:
        """Return why a step cannot be run in this way; None when it can be tried."""
        return None

    def supports(self, step: StepRunner, batch: Batch) -> bool:
        """Return whether this batch can be run in this way."""
        return True

    def __call__(self, step: StepRunner, batch: Batch) -> StepOutput:
        """Run one training step."""
        return step(batch)

    def apply(self, function: Callable[..., Result], *arguments: Value) -> Result:
        """Call a part of a step in this way."""
        return function(*arguments)

    def end(self) -> None:
        """Undo what was changed for this way."""


class ChannelsLast(Candidate):
    """Images with their channels last: the layout in which most convolutions are faster.

    A convolution's output has the layout of its weights, so only they have to be converted. Dropout
    between convolutions draws the same numbers in the order of memory, and so drops other places.
    """

    name = "channels last"

    def __init__(self, step: StepRunner, batch: Batch, tuner: StepAutotuner | None = None) -> None:
        self.step = step
        set_layout(step, torch.channels_last)

    @staticmethod
    def unsupported_reason(step: StepRunner, batch: Batch, tuner: StepAutotuner) -> str | None:
        """Accept nets with convolutions over images in the usual layout."""
        weights = image_weights(step)
        if not weights:
            return "channels last: no convolutions"
        if any(map(shares_memory, weights)):
            return "channels last: something else holds the memory of a weight"
        if all(map(Tensor.is_contiguous, weights)):
            return None
        return "channels last: another layout before"

    def end(self) -> None:
        """Restore the usual layout."""
        set_layout(self.step, torch.contiguous_format)


def image_weights(step: StepRunner) -> list[Tensor]:
    """Return the weights of convolutions over images, and their optimizer state."""
    layers = [module for module in step.net.modules()
              if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))]
    weights = [weight for layer in layers
               if (weight := internals.parameters(layer).get("weight")) is not None]
    states = [step.optimizer.state[weight] for weight in weights if weight in step.optimizer.state]
    moments = [one for state in states for one in state.values()
               if isinstance(one, Tensor) and one.dim() == 4]
    return list({id(one): one for one in (*weights, *moments)}.values())


def set_layout(step: StepRunner, layout: torch.memory_format) -> None:
    """Convert the weights of convolutions; each stays the same tensor object."""
    for one in image_weights(step):
        one.data = one.data.contiguous(memory_format=layout)


def shares_memory(one: Tensor) -> bool:
    """Return whether another tensor shares this one's memory: it would no longer see its writes."""
    uses = internals.num_uses(one.untyped_storage())  # the storage object counts too
    return type(one.data) is not Tensor or (uses is not None and uses > 2)


class CompiledNet(Candidate):
    """The net compiled in place, for training batches of one shape; it stays eager elsewhere."""

    name = "compiled net"
    compiles = 1

    def __init__(self, step: StepRunner, batch: Batch, tuner: StepAutotuner | None = None) -> None:
        self.net, self.shapes = step.net, shapes_of(batch)
        net: Any = self.net

        # Module.compile does not compile nets of torch's own modules
        def forward(*arguments: Value, **named: Value) -> Any:
            return internals.call(net, *arguments, **named)

        self.compiled = compiled(forward)
        self.build(step, batch)
        self.same_step, self.same = SameStep(step), SameModules(step)

    @staticmethod
    def unsupported_reason(step: StepRunner, batch: Batch, tuner: StepAutotuner) -> str | None:
        """Accept nets that are called once a step, with what a batch holds."""
        if not isinstance(step, StepRunner) or type(step).forward is not StepRunner.forward:
            return "compiled net: a forward of your own"
        if internals.has_compiled_call(step.net) or internals.is_compiled(step.net):
            return "compiled net: compiled before"
        return None

    def build(self, step: StepRunner, batch: Batch) -> None:
        """Compile forward and backward by running both in a trial, and compare with an eager run.

        Raises:
            Unfit: the net changes more than its buffers, or draws random numbers in a way that the
                compiler does not support.
            OtherNumbers: a loss, gradient or buffer differs.
        """
        learning = [one for one in self.net.parameters() if one.requires_grad]
        found: list[list[Tensor]] = []
        trials = [Trial(step), Trial(step)]
        for trial, apply in zip(trials, (super().apply, self.apply), strict=True):
            with trial.rolled_back(updates=False) as alone:
                loss = apply(alone.forward_and_loss, batch)[2]
                gradients = torch.autograd.grad(loss, learning, allow_unused=True)
                filled = [torch.zeros_like(weight) if one is None else one
                          for one, weight in zip(gradients, learning, strict=True)]
                found.append([loss.detach(), *filled, *(one.clone() for one in trial.buffers)])
        gradients_end = 1 + len(learning)
        parts = [slice(0, 1), slice(1, gradients_end), slice(gradients_end, None)]
        tolerance = 1e-3 if step.full_precision else 0.1
        if not (all(changes_agree(found[1][part], found[0][part], None, tolerance)
                    for part in parts)
                and all_equal(trials[0].rng_after, trials[1].rng_after)):
            raise OtherNumbers

    def apply(self, function: Callable[..., Result], *arguments: Value) -> Result:
        """Call a part of a step with the net compiled."""
        internals.set_compiled_call(self.net, self.compiled)
        try:
            return function(*arguments)
        finally:
            internals.set_compiled_call(self.net, None)

    def supports(self, step: StepRunner, batch: Batch) -> bool:
        """Return whether the batch has the compiled shape, and the net has the same parts."""
        if shapes_of(batch) != self.shapes:
            return False
        self.why = self.same_step.changed(step) or self.same.changed()
        return self.why is None

    def __call__(self, step: StepRunner, batch: Batch) -> StepOutput:
        """Run one training step with the net compiled."""
        return self.apply(step, batch)


class RecompilationNeeded(Exception):
    """A graph would have to be compiled anew: what it was compiled from has changed."""


@contextmanager
def quiet_compilation() -> Iterator[None]:
    """Restore the random state after a run that only compiles, and suppress torch's warnings."""
    states = random_states()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        put_random_states(states)


def compiled(function: Callable[..., Any], **options: Value) -> Any:
    """Return a function compiled for one set of shapes.

    torch counts how often it compiled a code object, over all nets, and gives up after eight: so
    each call compiles a copy of the code, with a count of its own.
    """
    copy = types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__,
                              function.__defaults__, function.__closure__)
    with warnings.catch_warnings():  # the compiler, imported now, uses deprecated parts of torch
        warnings.simplefilter("ignore")
        return torch.compile(copy, dynamic=False, options=OPTIONS, **options)


def shapes_of(batch: Batch) -> list[Any]:
    """Return the shapes and dtypes of the tensors in a batch, and the types of its other leaves."""
    found: list[Any] = []
    map_tree(lambda leaf: found.append(
        (leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf)), batch)
    return found
