"""Ways to run a training step that compute the same but for rounding; each undoes what it has changed."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.acceleration.same_modules import SameModules
from torchkeras.acceleration.trial import OtherNumbers, Trial, agree, same_places
from torchkeras.core.tree import map_tree
from torchkeras.engine.step import StepRunner

OPTIONS: dict[str, Any] = {"fallback_random": True,  # dropout draws as it does without a graph
                           "size_asserts": False, "alignment_asserts": False}  # what comes in is checked before


class Plain:
    """The step as it is, and what all ways have in common."""

    name = "plain steps"
    compiles = 0  # how long it takes to compile, as a multiple of the usual
    at_once = 1  # the steps that were computed together
    waiting: Sequence[Any] = ()  # those of them that are still to be told
    why: str | None = None  # why the last step was not run in this way, but for the shapes of its batch

    @staticmethod
    def obstacle(step: Any, batch: Any, pilot: Any) -> str | None:
        """Why a step cannot be run in this way; None when it can be tried."""
        return None

    def takes(self, batch: Any) -> bool:
        """Whether this batch can be run in this way."""
        return True

    def __call__(self, step: Any, batch: Any) -> Any:
        """One training step."""
        return step(batch)

    def around(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call something that a step does in this way."""
        return function(*arguments)

    def end(self) -> None:
        """Undo what was changed for this way."""


class ChannelsLast(Plain):
    """Images with their channels last: the layout in which most convolutions are faster.

    What a convolution gives has the layout of its weights, so they alone need to be laid out anew. Dropout between
    convolutions draws the same numbers in the order of memory, and so leaves out other places.
    """

    name = "channels last"

    def __init__(self, step: Any, batch: Any, pilot: Any = None) -> None:
        self.step = step
        lay_out(step, torch.channels_last)

    @staticmethod
    def obstacle(step: Any, batch: Any, pilot: Any) -> str | None:
        """It is for nets with convolutions over images."""
        images = of_images(step)
        if not images:
            return "channels last: no convolutions"
        if any(map(shared, images)):
            return "channels last: something else holds the memory of a weight"
        return None if all(map(Tensor.is_contiguous, images)) else "channels last: another layout before"

    def end(self) -> None:
        """The usual layout again."""
        lay_out(self.step, torch.contiguous_format)


def of_images(step: Any) -> list[Tensor]:
    """Return the weights of convolutions over images, and what the optimizer remembers of them."""
    layers = [module for module in step.net.modules() if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))]
    weights = [weight for layer in layers if (weight := layer._parameters.get("weight")) is not None]
    states = [step.optimizer.state[weight] for weight in weights if weight in step.optimizer.state]
    memories = [one for state in states for one in state.values() if isinstance(one, Tensor) and one.dim() == 4]
    return list({id(one): one for one in (*weights, *memories)}.values())


def lay_out(step: Any, layout: torch.memory_format) -> None:
    """Lay out the weights of convolutions, each as the tensor that it is."""
    for one in of_images(step):
        one.data = one.data.contiguous(memory_format=layout)


def shared(one: Tensor) -> bool:
    """Return whether another tensor lies in the same memory: it would no longer be told of what is written there."""
    count = getattr(torch._C, "_storage_Use_Count", None)
    memory = one.untyped_storage()  # which counts too
    return type(one.data) is not Tensor or (count is not None and count(memory._cdata) > 2)


class CompiledNet(Plain):
    """The net compiled in its place, for training batches of one shape; at other times it is as it was."""

    name = "compiled net"
    compiles = 1

    def __init__(self, step: Any, batch: Any, pilot: Any = None) -> None:
        self.net, self.shapes = step.net, shapes_of(batch)
        net = self.net

        def forward(*arguments: Any, **named: Any) -> Any:  # Module.compile leaves out nets of torch's own modules
            return net._call_impl(*arguments, **named)

        self.compiled = compiled(forward)
        self.build(step, batch)
        self.same = SameModules(step)

    @staticmethod
    def obstacle(step: Any, batch: Any, pilot: Any) -> str | None:
        """It is for nets that are called once a step, with what a batch holds."""
        if not isinstance(step, StepRunner) or type(step).forward is not StepRunner.forward:
            return "compiled net: a forward of your own"
        if getattr(step.net, "_compiled_call_impl", None) is not None or hasattr(step.net, "_orig_mod"):
            return "compiled net: compiled before"
        return None

    def build(self, step: Any, batch: Any) -> None:
        """Compile forward and backward by a run of both, which leaves no trace; it must compute what a plain one does.

        Raises:
            Unfit: the net changes more than its buffers, or draws random numbers that the compiler does not know.
            OtherNumbers: a loss or a gradient comes out otherwise.
        """
        learning = [one for one in self.net.parameters() if one.requires_grad]
        found: list[list[Tensor]] = []
        trials = [Trial(step), Trial(step)]
        for trial, around in zip(trials, (super().around, self.around), strict=True):
            with trial.no_trace(updates=False) as alone:
                loss = around(alone.try_out, batch)[2]
                gradients = torch.autograd.grad(loss, learning, allow_unused=True)
                found.append([loss.detach(), *(zero if one is None else one for one, zero in zip(
                    gradients, map(torch.zeros_like, learning), strict=True)), *(one.clone() for one in trial.buffers)])
        parts = [slice(0, 1), slice(1, 1 + len(learning)), slice(1 + len(learning), None)]
        coarse = 1e-3 if step.plain else 0.1
        if not (all(agree(found[1][part], found[0][part], None, coarse) for part in parts)
                and same_places(trials[0].ended, trials[1].ended)):
            raise OtherNumbers

    def around(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call something with the net compiled."""
        self.net._compiled_call_impl = self.compiled
        try:
            return function(*arguments)
        finally:
            del self.net._compiled_call_impl

    def takes(self, batch: Any) -> bool:
        """Whether the batch has the shape that the net was compiled for, and the net is made of the same parts."""
        if shapes_of(batch) != self.shapes:
            return False
        self.why = self.same.changed()
        return self.why is None

    def __call__(self, step: Any, batch: Any) -> Any:
        """One training step."""
        return self.around(step, batch)


class Recompiled(Exception):
    """A graph would have to be compiled anew: what it was made from has changed."""


@contextmanager
def once_compiled() -> Iterator[None]:
    """Raise ``Recompiled`` instead of compiling anew; nothing has been run then."""
    config = torch._dynamo.config
    before, config.error_on_recompile = config.error_on_recompile, True
    try:
        yield
    except torch._dynamo.exc.RecompileError as error:
        raise Recompiled from error
    finally:
        config.error_on_recompile = before


@contextmanager
def without_trace(device: torch.device) -> Iterator[None]:
    """For a run that only compiles: random numbers stay, and what torch says of its inner parts is not heard."""
    with torch.random.fork_rng([] if device.type == "cpu" else [device]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def compiled(function: Callable[..., Any], **options: Any) -> Any:
    """A function compiled for one set of shapes.

    torch counts what it compiled of a piece of code, over all nets, and gives up after eight: a copy is counted anew.
    """
    copy = types.FunctionType(function.__code__.replace(), function.__globals__, function.__name__,
                              function.__defaults__, function.__closure__)
    with warnings.catch_warnings():  # the first call imports the compiler, which uses what torch has deprecated
        warnings.simplefilter("ignore")
        return torch.compile(copy, dynamic=False, options=OPTIONS, **options)


def shapes_of(batch: Any) -> list[Any]:
    """The shapes and types of the tensors in a batch."""
    found: list[Any] = []
    map_tree(lambda leaf: found.append((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf)), batch)
    return found
