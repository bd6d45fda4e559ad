"""Combine features and labels that Keras takes as separate arguments."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torchkeras.core.errors import bad_type, bad_value, whole_number
from torchkeras.core.types import Data
from torchkeras.data.arrays import is_array, is_number_list
from torchkeras.data.kinds import array_tree
from torchkeras.keras.multi_output import with_weights


def combined(x: Data, y: Data = None, sample_weight: Data = None, loss_fn: object = None) -> Data:
    """Return features, labels and weights as a tuple; data with its own labels is unchanged.

    Args:
        x: features, or data with its own labels.
        y: labels.
        sample_weight: weights; a list or dict of them by output goes along with the labels.
        loss_fn: the loss, which knows the outputs.
    """
    if x is None:
        raise bad_type("x", received="None", expected="arrays, a Dataset or a DataLoader")
    if y is None:
        if sample_weight is not None:
            raise bad_value("sample_weight", received="weights without y", expected="y beside them",
                            fix="In a Dataset or DataLoader, give (x, y, sample_weight) there.")
        return x
    features = array_tree(x)
    if features is None:
        raise bad_value("y", received=f"labels beside x, a {type(x).__name__}",
                        expected="None: it brings its own",
                        fix="Pass arrays for x, or leave y out.")
    labels = tuple(y) if isinstance(y, list) and array_tree(y) is not y else y
    if by_output(sample_weight):
        return features, with_weights(labels, sample_weight, loss_fn)
    return (features, labels) if sample_weight is None else (features, labels, sample_weight)


def by_output(weights: Data) -> bool:
    """Tell whether sample weights are a list or dict of those of each output."""
    return isinstance(weights, Mapping) or (
        isinstance(weights, (list, tuple))
        and any(one is None or is_array(one) or isinstance(one, (list, tuple)) for one in weights))


def validation_of(data: Data, loss_fn: object) -> Data:
    """Return validation data, with the weights of each output beside the labels if it has any."""
    if isinstance(data, tuple) and len(data) == 3 and data[2] is None:
        return data[:2]
    weighed = isinstance(data, tuple) and len(data) == 3 and by_output(data[2])
    return combined(data[0], data[1], data[2], loss_fn) if weighed else data


def features_only(x: Data) -> Data:
    """Wrap features so that none of them is taken for labels."""
    features = array_tree(x)
    return x if features is None else (features,)


def held_out_share(share: float | None) -> float | None:
    """Return the validation split; None for 0.0, which Keras users write for none."""
    return None if share is not None and not isinstance(share, bool) and share == 0 else share


def keras_share(data: Data, share: float | None) -> float | None:
    """Return the validation split that cuts arrays where Keras does: at ``int(n * (1 - share))``.

    Keras rounds down a product in floating point: 0.3 of 90 samples leave 62 to train on.
    """
    count = samples_of(data)
    if not isinstance(share, float) or not 0 < share < 1 or count is None:
        return share
    kept = int(count * (1.0 - share))
    # half a sample more to train on: whichever way the quotient is rounded, the cut is at kept
    return (count - kept - 0.5) / count if 0 < kept < count else share


def samples_of(data: Data) -> int | None:
    """Return the number of samples in arrays; None for other data."""
    leaf: Any = array_tree(data)
    if leaf is None:
        return None
    while isinstance(leaf, (Mapping, tuple, list)) and not is_number_list(leaf):
        leaf = next(iter(leaf.values() if isinstance(leaf, Mapping) else leaf))
    return len(leaf)


def sized(data: Data, batch_size: int | None, steps: int | None,
          name: str = "steps") -> tuple[int | None, int | None]:
    """Return batch size and steps; of arrays without a batch size, the steps take all samples."""
    whole_number(name, steps, least=1, optional=True)
    count = samples_of(data) if batch_size is None and steps is not None else None
    if count is None or steps is None or count == 0:
        return batch_size, steps
    return math.ceil(count / steps), None
