"""Where torch keeps the hooks that users hang on modules, weights and optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Sized
from typing import Any

from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.optim import optimizer as optimizers

OF_A_MODULE = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
OF_ALL_MODULES = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks",
                  "_global_backward_pre_hooks")
OF_AN_OPTIMIZER = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
OF_ALL_OPTIMIZERS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")


def of_modules(parts: Iterable[nn.Module]) -> list[Sized]:
    """Return the dicts that hold the hooks of some modules, and those of all modules."""
    return [*(vars(modules)[name] for name in OF_ALL_MODULES),
            *(vars(part)[name] for part in parts for name in OF_A_MODULE)]


def of_optimizer(optimizer: Any) -> list[Sized]:
    """Return the dicts that hold the hooks of an optimizer, and those of all optimizers."""
    return [*(vars(optimizers)[name] for name in OF_ALL_OPTIMIZERS),
            *(vars(optimizer)[name] for name in OF_AN_OPTIMIZER)]


def hooked(weight: Tensor) -> bool:
    """Return whether something hears of the gradient of a weight."""
    return bool(weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None))
