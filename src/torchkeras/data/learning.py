"""Samples that learn: arrays or tensors of a Dataset that require grad, such as the codes of an auto-decoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.utils.data import TensorDataset

from torchkeras.core.errors import bad_value
from torchkeras.data.arrays import ArrayDataset
from torchkeras.data.located import held_by, inside, leaves


def learning(source: Any) -> list[Tensor]:
    """The tensors in a loader's Dataset that require grad."""
    base, _ = inside(getattr(source, "dataset", None))
    if not isinstance(base, (TensorDataset, ArrayDataset)):
        return []
    return [one for one in leaves(held_by(base)[0]) if isinstance(one, Tensor) and one.requires_grad]


def check_learning(source: Any, name: str, optimizer: Any, world: int) -> list[str]:
    """Return what a reader should know of samples that learn, before the first step.

    Raises:
        ValueError: an optimizer does not have them, or there are several processes.
    """
    found = learning(source)
    if not found:
        return []
    known = {id(weight) for group in getattr(optimizer, "param_groups", ()) for weight in group["params"]}
    if not any(id(one) in known or isinstance(one, nn.Parameter) for one in found):
        return [f"{name}: samples require grad and no optimizer has them: they stay as they are"]
    if world > 1:
        raise bad_value(name, received="samples that require grad, in several processes",
                        expected="samples that stay as they are: gradients are added up for the net alone",
                        fix="Put them into the net as an nn.Embedding, and let the data give their numbers.")
    lost = [one for one in found if isinstance(one, nn.Parameter) and id(one) not in known]
    if lost:
        raise bad_value(name, received=f"{len(lost)} tensors of samples that require grad and that optimizer does not "
                        "have", expected="samples that optimizer moves, or that do not require grad",
                        fix="Add them: optimizer.add_param_group({'params': [codes]}); or pass codes.detach().")
    return [f"{name}: samples that require grad are no weights of the net: the best weights and ckpt_path do not hold "
            "them; keep them yourself, or put them into the net as an nn.Embedding"]
