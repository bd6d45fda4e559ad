"""What a user's own class of steps does itself."""

from __future__ import annotations

import torch
from torch.optim import SGD, Optimizer

from torchkeras.engine.step import StepRunner


def is_own(kind: type) -> bool:
    """Tell whether a class of steps takes a batch through the net in a way of its own."""
    return not issubclass(kind, StepRunner) or kind.__call__ is not StepRunner.__call__


def updates_itself(kind: type) -> bool:
    """Tell whether a class of steps says itself what an update is."""
    return is_own(kind) or kind.update is not StepRunner.update  # type: ignore[attr-defined]


def names_scheduler(kind: type) -> bool:
    """Tell whether the code of a user's steps names its schedule, and so moves it itself."""
    functions = [function for one in kind.__mro__ if not one.__module__.startswith("torchkeras.")
                 for name, function in vars(one).items()
                 if name != "__init__" and hasattr(function, "__code__")]
    return any("lr_scheduler" in function.__code__.co_names for function in functions)


def idle_optimizer() -> Optimizer:
    """Return an optimizer that moves nothing, for a step that teaches its net without gradients."""
    return SGD([torch.zeros(())], lr=0.0)
