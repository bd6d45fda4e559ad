"""Where torch keeps the hooks that users register on modules, weights and optimizers."""

from __future__ import annotations

from collections.abc import Iterable, Sized

from torch import Tensor, nn
from torch.nn.modules import module as modules
from torch.optim import Optimizer
from torch.optim import optimizer as optimizers

OF_A_MODULE = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
OF_ALL_MODULES = ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks",
                  "_global_backward_pre_hooks")
OF_AN_OPTIMIZER = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
OF_ALL_OPTIMIZERS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")


def module_hooks(parts: Iterable[nn.Module]) -> list[Sized]:
    """Return the dicts that hold the hooks of some modules, and torch's global module hooks."""
    return [*(vars(modules)[name] for name in OF_ALL_MODULES),
            *(vars(part)[name] for part in parts for name in OF_A_MODULE)]


def optimizer_hooks(optimizer: Optimizer) -> list[Sized]:
    """Return the dicts that hold the hooks of an optimizer, and torch's global optimizer hooks."""
    return [*(vars(optimizers)[name] for name in OF_ALL_OPTIMIZERS),
            *(vars(optimizer)[name] for name in OF_AN_OPTIMIZER)]


def has_gradient_hooks(weight: Tensor) -> bool:
    """Return whether a weight has hooks that are called with its gradient."""
    return bool(weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None))
