"""Parameter groups with and without ``weight_decay``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from torchkeras.core.errors import bad_type, one_of
from torchkeras.losses.penalties import is_bias
from torchkeras.losses.robust import check_number

KINDS = ("biases", "norms", "embeddings")
# others are recognised by a class name that ends in Norm, Norm1d and the like
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, nn.InstanceNorm1d,
         nn.InstanceNorm2d, nn.InstanceNorm3d, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def decay_groups(model: nn.Module, weight_decay: float,
                 no_decay: Iterable[str] = ("biases", "norms")) -> list[dict[str, Any]]:
    """Return parameter groups in which ``weight_decay`` spares biases and norm layers.

    Args:
        model: the net.
        weight_decay: the decay of the other parameters.
        no_decay: what is excluded: any of "biases", "norms" (weights and biases of normalisation
            layers, of any library) and "embeddings". A parameter that several layers share is
            excluded if one of them asks for it.

    Returns:
        Two groups for any torch optimizer, the decayed parameters first; each parameter is in one
        of them, in the order of ``model.parameters()``.

    Raises:
        TypeError: ``model`` is not a module, or ``weight_decay`` is not a number.
        ValueError: ``weight_decay`` is negative, or a word of ``no_decay`` is unknown.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 1))
        >>> optimizer = torch.optim.AdamW(decay_groups(net, weight_decay=0.01), lr=1e-3)
        >>> [(len(group["params"]), group["weight_decay"]) for group in optimizer.param_groups]
        [(2, 0.01), (4, 0.0)]
    """
    if not isinstance(model, nn.Module):
        raise bad_type("model", received=type(model).__name__, expected="an nn.Module")
    check_number("weight_decay", weight_decay, "a number of at least 0", most=float("inf"))
    spared_kinds = {no_decay} if isinstance(no_decay, str) else set(no_decay)
    for kind in spared_kinds:
        one_of("no_decay", kind, KINDS)
    spared = {
        id(weight) for module in model.modules()
        for name, weight in module.named_parameters(recurse=False)
        if kinds_of(module, name) & spared_kinds}
    weights = list(model.parameters())
    return [{
        "params": [one for one in weights if id(one) not in spared],
        "weight_decay": float(weight_decay)},
            {"params": [one for one in weights if id(one) in spared], "weight_decay": 0.0}]


def kinds_of(module: nn.Module, name: str) -> set[str]:
    """Return the kinds of ``no_decay`` that a module's parameter belongs to."""
    kind = type(module).__name__
    found = {"biases"} if is_bias(name) else set()
    if isinstance(module, NORMS) or re.search(r"Norm(\dd)?$", kind):
        found.add("norms")
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or kind.endswith("Embedding"):
        found.add("embeddings")
    return found
