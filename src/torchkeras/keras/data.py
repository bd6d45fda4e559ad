"""Data as Keras lets it be given: features and labels apart."""

from __future__ import annotations

from typing import Any

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.data.kinds import array_tree


def together(x: Any, y: Any = None, sample_weight: Any = None) -> Any:
    """Features, labels and weights as one piece of data; what holds its labels itself stays as it is."""
    if x is None:
        raise bad_type("x", received="None", expected="arrays, a Dataset or a DataLoader")
    if y is None:
        if sample_weight is not None:
            raise bad_value("sample_weight", received="weights without y", expected="y beside them",
                            fix="In a Dataset or DataLoader, give (x, y, sample_weight) there.")
        return x
    features = array_tree(x)
    if features is None:
        raise bad_value("y", received=f"labels beside x, a {type(x).__name__}", expected="None: it brings its own",
                        fix="Pass arrays for x, or leave y out.")
    labels = tuple(y) if isinstance(y, list) and array_tree(y) is not y else y
    return (features, labels) if sample_weight is None else (features, labels, sample_weight)


def features_only(x: Any) -> Any:
    """Features of which none is to be taken for labels."""
    features = array_tree(x)
    return x if features is None else (features,)


def share_to_hold_out(share: Any) -> Any:
    """Keras writes 0.0 for no validation split."""
    return None if share is not None and not isinstance(share, bool) and share == 0 else share
