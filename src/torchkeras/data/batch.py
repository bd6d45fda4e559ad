"""Pure functions on one batch: take it apart, count it, move it, call a net with it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from torchkeras.data.tree import map_tree
from torchkeras.engine.checks import bad_type, bad_value

LABEL_KEYS = ("labels", "label", "y", "targets", "target")
SHAPES = "(x,), (x, y), (x, y, sample_weight), a dict or one value"
HINT = "Put several inputs into x as a tuple or a dict, or override StepRunner.forward for another layout."


def split(batch: Any) -> tuple[Any, Any, Tensor | None]:
    """Take a batch apart without knowing in which of the usual layouts it came.

    Args:
        batch: A tuple or list of one to three items, a dict, or any other value, which is all features. Only exact
            ``tuple`` and ``list`` types are taken apart; a namedtuple is one value. In a dict the labels are under the
            first of "labels", "label", "y", "targets", "target" that is there.

    Returns:
        ``(features, labels, weights)``; labels and weights are None where the batch has none.

    Raises:
        ValueError: More than three items or none, or a third item which is no weight per sample.

    Example:
        >>> import torch
        >>> x, y = torch.ones(4, 3), torch.zeros(4)
        >>> features, labels, weights = split([x, y])
        >>> features is x, labels is y, weights
        (True, True, None)
        >>> split({"image": x, "label": y})[0].keys()
        dict_keys(['image'])
    """
    if isinstance(batch, Tensor):
        return batch, None, None
    if isinstance(batch, Mapping):
        return _split_dict(batch)
    if type(batch) not in (tuple, list):
        return batch, None, None
    if not 1 <= len(batch) <= 3:
        raise bad_value("batch", received=f"{len(batch)} items", expected=SHAPES, fix=HINT)
    features, labels, weights = (*batch, None, None)[:3]
    if weights is not None:
        _check_weights(weights, labels)
    return features, labels, weights


def _split_dict(batch: Mapping[Any, Any]) -> tuple[dict[Any, Any], Any, None]:
    label_key = next((key for key in LABEL_KEYS if key in batch), None)
    features = {key: value for key, value in batch.items() if key != label_key}
    return features, None if label_key is None else batch[label_key], None


def _check_weights(weights: Any, labels: Any) -> None:
    """One real number a sample: shape (N,) or (N, 1)."""
    expected = f"{SHAPES}, where sample_weight is a float or int tensor of shape (N,) or (N, 1)"
    if not isinstance(weights, Tensor):
        raise bad_value("batch", received=f"a {type(weights).__name__} as third item", expected=expected, fix=HINT)
    one_each = weights.ndim == 1 or (weights.ndim == 2 and weights.shape[1] == 1)
    real = weights.dtype != torch.bool and not weights.is_complex()
    fits = not isinstance(labels, Tensor) or labels.shape[:1] == weights.shape[:1]
    if not (one_each and real and fits):
        found = f"a third item of shape {tuple(weights.shape)} and type {weights.dtype}"
        beside = f" beside labels of shape {tuple(labels.shape)}" if isinstance(labels, Tensor) else ""
        raise bad_value("batch", received=found + beside, expected=expected, fix=HINT)


def size(batch: Any) -> int:
    """Count the samples of a batch, so that means over an epoch weigh each sample once.

    Args:
        batch: Any nesting of tuples, lists and dicts; the first tensor or array in it that has a dimension decides.

    Returns:
        The length of that tensor's dimension 0; for a ``PackedSequence`` the number of its sequences.

    Raises:
        ValueError: There is no such tensor.

    Example:
        >>> import torch
        >>> size({"scale": torch.tensor(2.0), "image": torch.ones(5, 3)})
        5
    """
    if type(batch) is list and batch and isinstance(batch[0], Tensor) and batch[0].ndim:
        return batch[0].shape[0]  # what a DataLoader gives, without a walk through it
    length = _first_length(batch)
    if length is None:
        raise bad_value("batch", received=f"a {type(batch).__name__} without a tensor that has a batch dimension",
                        expected="a tensor of shape (N, ...) somewhere in it", fix="Let collate_fn return tensors.")
    return length


def _first_length(node: Any) -> int | None:
    if isinstance(node, (Tensor, np.ndarray)):
        return int(node.shape[0]) if node.ndim else None
    if isinstance(node, PackedSequence):
        return int(node.batch_sizes[0])
    if isinstance(node, Mapping):
        node = list(node.values())
    if not isinstance(node, (tuple, list)):
        return None
    lengths = (_first_length(item) for item in node)
    return next((length for length in lengths if length is not None), None)


def to_device(batch: Any, device: torch.device | str) -> Any:
    """Move every tensor of a batch, whatever containers it sits in.

    Args:
        batch: Any nesting of containers; their types are kept. Arrays and numbers stay as they are.
        device: Where to move to.

    Returns:
        The moved batch, or the same object when everything was there already.

    Example:
        >>> import torch
        >>> batch = (torch.ones(2), {"name": "a"})
        >>> to_device(batch, "cpu") is batch
        True
        >>> to_device(batch, "meta")[0].device
        device(type='meta')
    """
    device = torch.device(device)
    # A copy to the CPU that does not block can be read before it is complete.
    non_blocking = device.type != "cpu"

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return leaf.to(device, non_blocking=non_blocking)
        return leaf.to(device) if callable(getattr(leaf, "to", None)) else leaf

    return map_tree(move, batch)


def call(net: nn.Module, features: Any) -> Any:
    """Call a net with the features of a batch: one input, several, or named ones.

    Args:
        net: Called as ``net(...)``, so its hooks run.
        features: A tuple or list gives several inputs; a dict gives keywords, or the one input of a net whose forward
            does not take these keywords; anything else is the one input.

    Returns:
        What the net returns.

    Raises:
        TypeError: The net takes neither the keywords nor one dict.

    Example:
        >>> import torch
        >>> call(torch.nn.Bilinear(2, 3, 1), {"input1": torch.ones(4, 2), "input2": torch.ones(4, 3)}).shape
        torch.Size([4, 1])
    """
    if isinstance(features, Tensor):
        return net(features)
    if type(features) in (tuple, list):
        return net(*features)
    if isinstance(features, Mapping):
        return _call_with_dict(net, features)
    return net(features)


def _call_with_dict(net: nn.Module, features: Mapping[Any, Any]) -> Any:
    try:
        # what wraps a net for several devices takes anything and passes it on
        inner = net.module if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)) else net
        signature = inspect.signature(inner.forward)
    except (TypeError, ValueError):  # compiled code can hide its signature
        return net(**features)
    if _binds(lambda: signature.bind(**features)):
        return net(**features)
    refusal = bad_type("features", received="a dict with the keys " + ", ".join(map(repr, features)),
                       expected=f"the inputs of {type(net).__name__}.forward{signature}",
                       fix="Rename the keys of the batch to these, or override StepRunner.forward.")
    if not _binds(lambda: signature.bind(features)):
        raise refusal
    try:
        return net(features)
    except TypeError as error:  # a net that wants a tensor, and not the dict it was given whole
        raise (refusal if "dict" in str(error) else error) from error


def _binds(bind: Callable[[], Any]) -> bool:
    try:
        bind()
    except TypeError:
        return False
    return True
