"""Ways to run a training step that compute the same but for rounding; each undoes what it has changed."""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from torchkeras.data import batch as batches
from torchkeras.data.tree import map_tree
from torchkeras.engine.step import StepRunner

OPTIONS: dict[str, Any] = {"fallback_random": True,  # dropout draws as it does without a graph
                           "size_asserts": False, "alignment_asserts": False}  # what comes in is checked before


class Plain:
    """The step as it is, and what all ways have in common."""

    name = "plain steps"
    compiles = 0  # how long it takes to compile, as a multiple of the usual
    at_once = 1  # the steps that were computed together
    waiting: Sequence[Any] = ()  # those of them that are still to be told

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

    def end(self) -> None:
        """Undo what was changed for this way."""


class ChannelsLast(Plain):
    """Images with their channels last: the layout in which most convolutions are faster.

    What a convolution gives has the layout of its weights, so they alone need to be laid out anew. Dropout between
    convolutions draws the same numbers in the order of memory, and so leaves out other places.
    """

    name = "channels last"

    def __init__(self, step: Any, batch: Any, pilot: Any = None) -> None:
        self.net, self.optimizer = step.net, step.optimizer
        lay_out(self.net, self.optimizer, torch.channels_last)

    @staticmethod
    def obstacle(step: Any, batch: Any, pilot: Any) -> str | None:
        """It is for nets with convolutions over images."""
        layers = [module for module in step.net.modules() if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))]
        if not layers:
            return "channels last: no convolutions"
        return None if all(layer.weight.is_contiguous() for layer in layers) else "channels last: another layout before"

    def end(self) -> None:
        """The usual layout again."""
        lay_out(self.net, self.optimizer, torch.contiguous_format)


def lay_out(net: nn.Module, optimizer: Any, layout: torch.memory_format) -> None:
    """Lay out weights of four dimensions, and what an optimizer remembers of them."""
    net.to(memory_format=layout)  # type: ignore[call-overload]
    for state in optimizer.state.values():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.dim() == 4:
                state[name] = value.contiguous(memory_format=layout)


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

    @staticmethod
    def obstacle(step: Any, batch: Any, pilot: Any) -> str | None:
        """It is for nets that are called once a step, with what a batch holds."""
        if not isinstance(step, StepRunner) or type(step).forward is not StepRunner.forward:
            return "compiled net: a forward of your own"
        if getattr(step.net, "_compiled_call_impl", None) is not None or hasattr(step.net, "_orig_mod"):
            return "compiled net: compiled before"
        return None

    def build(self, step: Any, batch: Any) -> None:
        """Compile forward and backward by a run of both, which leaves no trace in net and random numbers."""
        buffers = [(one, one.clone()) for one in self.net.buffers()]
        learning = [one for one in self.net.parameters() if one.requires_grad]
        try:
            with without_trace(learning[0].device):
                found: list[Any] = []
                with step.autocast():
                    features, *_ = batches.split(batch)
                    map_tree(found.append, self.run(batches.call, self.net, features))
                whole = sum(one.float().sum() for one in found if isinstance(one, Tensor) and one.requires_grad)
                torch.autograd.grad(whole, learning, allow_unused=True)  # type: ignore[arg-type]
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)

    def run(self, function: Any, *arguments: Any) -> Any:
        """Call something with the net compiled."""
        self.net._compiled_call_impl = self.compiled
        try:
            return function(*arguments)
        finally:
            self.net._compiled_call_impl = None

    def takes(self, batch: Any) -> bool:
        """Whether the batch has the shape that the net was compiled for."""
        return shapes_of(batch) == self.shapes

    def __call__(self, step: Any, batch: Any) -> Any:
        """One training step."""
        return self.run(step, batch)


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
    return torch.compile(copy, dynamic=False, options=OPTIONS, **options)


def shapes_of(batch: Any) -> list[Any]:
    """The shapes and types of the tensors in a batch."""
    found: list[Any] = []
    map_tree(lambda leaf: found.append((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else type(leaf)), batch)
    return found
