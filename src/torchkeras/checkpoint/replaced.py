"""Follow a user's ``load_ckpt`` that puts new parameters, or a new net, in the place of the old.

Adapters do: ``self.net = self.net.from_pretrained(...)``. An optimizer would go on with the old
parameters, which nothing computes with any more.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from torchkeras.core.optimizers import Optimizers
from torchkeras.core.types import HasParts


def load_and_follow(model: HasParts, path: str | None) -> None:
    """Call the model's ``load_ckpt``; let the optimizer move the parameters that it put in place.

    A new parameter has the name and the shape of the old. It learns if that did, and gets its state
    in the optimizer.
    """
    loader: Any = model
    before = dict(model.net.named_parameters())
    loader.load_ckpt(path)
    replaced = replaced_parameters(model.net, before)
    if not replaced:
        return
    for old, new in replaced.values():
        new.requires_grad_(old.requires_grad)
    for optimizer in optimizers_of(model.optimizer):
        for group in optimizer.param_groups:
            group["params"] = [replaced[id(one)][1] if id(one) in replaced else one
                               for one in group["params"]]
        for old, new in replaced.values():
            if old in optimizer.state:
                optimizer.state[new] = optimizer.state.pop(old)


def replaced_parameters(net: nn.Module, before: dict[str, nn.Parameter],
                        ) -> dict[int, tuple[nn.Parameter, nn.Parameter]]:
    """Return old and new parameter by the identity of the old, for all that were replaced."""
    now = dict(net.named_parameters())
    return {id(old): (old, now[name]) for name, old in before.items()
            if name in now and now[name] is not old and now[name].shape == old.shape}


def optimizers_of(optimizer: Any) -> list[Any]:
    """Return the optimizers of a model one by one."""
    if isinstance(optimizer, Optimizers):
        return list(optimizer.each.values())
    return [] if optimizer is None else [optimizer]
