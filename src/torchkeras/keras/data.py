"""Combine features and labels that Keras takes as separate arguments."""

from __future__ import annotations

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.types import Data
from torchkeras.data.kinds import array_tree


def combined(x: Data, y: Data = None, sample_weight: Data = None) -> Data:
    """Return features, labels and weights as a tuple; data with its own labels is unchanged."""
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
    return (features, labels) if sample_weight is None else (features, labels, sample_weight)


def features_only(x: Data) -> Data:
    """Wrap features so that none of them is taken for labels."""
    features = array_tree(x)
    return x if features is None else (features,)


def held_out_share(share: float | None) -> float | None:
    """Return the validation split; None for 0.0, which Keras users write for none."""
    return None if share is not None and not isinstance(share, bool) and share == 0 else share
