"""Samples that require grad, such as the codes of an auto-decoder, in arrays or a Dataset."""

from __future__ import annotations

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import TensorDataset

from torchkeras.core.errors import bad_value
from torchkeras.core.optimizers import Optimizers
from torchkeras.core.types import Source
from torchkeras.data.arrays import ArrayDataset
from torchkeras.data.located import held_tensors, tensors_in, unwrap_subsets


def learning(source: Source) -> list[Tensor]:
    """Return the tensors in a loader's Dataset that require grad."""
    base, _ = unwrap_subsets(getattr(source, "dataset", None))
    if not isinstance(base, (TensorDataset, ArrayDataset)):
        return []
    held = tensors_in(held_tensors(base)[0])
    return [one for one in held if isinstance(one, Tensor) and one.requires_grad]


def check_learning(source: Source, name: str, optimizer: Optimizer | Optimizers | None,
                   world: int) -> list[str]:
    """Return notes on samples that require grad, before the first step.

    Raises:
        ValueError: an optimizer does not have them, or the world size is above 1.
    """
    found = learning(source)
    if not found:
        return []
    known = {id(weight) for group in getattr(optimizer, "param_groups", ())
             for weight in group["params"]}
    if not any(id(one) in known or isinstance(one, nn.Parameter) for one in found):
        return [f"{name}: samples require grad and no optimizer has them: they stay as they are"]
    if world > 1:
        raise bad_value(
            name, received="samples that require grad, in several processes",
            expected="samples that stay as they are: gradients are added up for the net alone",
            fix="Put them into the net as an nn.Embedding, and let the data give their numbers.")
    lost = [one for one in found if isinstance(one, nn.Parameter) and id(one) not in known]
    if lost:
        raise bad_value(
            name, received=f"{len(lost)} tensors of samples that require grad and that optimizer "
            "does not have",
            expected="samples that optimizer moves, or that do not require grad",
            fix="Add them: optimizer.add_param_group({'params': [codes]}); or pass "
                "codes.detach().")
    return [f"{name}: samples that require grad are no weights of the net: the best weights and "
            "ckpt_path do not hold them; keep them yourself, or put them into the net as an "
            "nn.Embedding"]
