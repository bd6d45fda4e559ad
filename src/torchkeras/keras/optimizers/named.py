"""Find an optimizer by its name in ``compile``: Keras's names mean Keras's numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchkeras.core.errors import bad_value, did_you_mean
from torchkeras.core.types import OneOrMany
from torchkeras.keras import optimizers
from torchkeras.training.arguments import learning_weights
from torchkeras.training.names import normalize, torch_optimizers

KERAS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.01),  # the same formula without momentum
    **{name.lower(): getattr(optimizers, name) for name in optimizers.__all__}}
REFUSED = {
    "lossscaleoptimizer": "fit(..., mixed_precision='fp16') scales the loss by itself.",
    "multioptimizer": "Pass optimizers of torch as objects: "
                      "optimizer=[torch.optim.Adam(some), torch.optim.SGD(others)].",
    "sparseadam": "Pass the object, for the embeddings that have sparse gradients: "
                  "optimizer=[torch.optim.SparseAdam(embeddings), torch.optim.Adam(others)].",
}


def optimizer_of(name: str, net: nn.Module, loss_fn: object) -> OneOrMany:
    """Return an optimizer for net and loss, with Keras's defaults; None where nothing learns.

    Args:
        name: an optimizer of Keras, or else of torch (with torch's defaults), in any case.
        net: what learns.
        loss_fn: its weights learn, too.

    Raises:
        ValueError: there is no such optimizer, or it cannot be had by name.
    """
    key = normalize(name)
    if key in REFUSED:
        raise bad_value("optimizer", received=repr(name),
                        expected="an optimizer of all weights", fix=REFUSED[key])
    known = {**torch_optimizers(), **KERAS}  # both have a Muon: Keras's takes every parameter
    if key not in known:
        raise bad_value("optimizer", received=repr(name),
                        expected="one of " + ", ".join(sorted(known)),
                        fix=did_you_mean(name.lower(), known))
    weights = learning_weights(net, loss_fn)
    if not weights:
        return None
    if known[key] is optimizers.Muon:
        return optimizers.Muon(weights, for_adam=tables_of(net))
    return known[key](weights)


def tables_of(net: nn.Module) -> list[Any]:
    """Return the tables of embeddings in a net."""
    return [layer.weight for layer in net.modules()
            if isinstance(layer, (nn.Embedding, nn.EmbeddingBag))]
