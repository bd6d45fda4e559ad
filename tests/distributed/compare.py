"""Whether two sets of results are the same, and where they are not."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

FLOAT32 = "five hundred steps: float32"
CLOSE = 1e-12


def tolerance(name, key):
    """How far apart two numbers of a case may be, absolutely and as a part of them."""
    if name != FLOAT32:
        return CLOSE, CLOSE
    return (1e-4, 0.0) if key.startswith("weights") else (0.0, 1e-6)


def differences(name, one, other):
    """The results that differ, in words; those that a process has for itself are left out."""
    keys = [key for key in (*one, *(key for key in other if key not in one)) if not key.startswith("own_")]
    return [f"{key}: {short(one.get(key, 'missing'))} and {short(other.get(key, 'missing'))}" for key in keys
            if not same(one.get(key, "missing"), other.get(key, "missing"), *tolerance(name, key))]


def same(one, other, absolute=0.0, relative=0.0):
    """Whether two results are equal up to rounding: of one type and shape, and NaN where the other is."""
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and same(torch.from_numpy(one), torch.from_numpy(other), absolute, relative)
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.allclose(
            one.double(), other.double(), rtol=relative, atol=absolute, equal_nan=True)
    if isinstance(one, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key], absolute, relative) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(
            same(*pair, absolute, relative) for pair in zip(one, other, strict=True))
    if isinstance(one, float) and math.isfinite(one):
        return abs(one - other) <= absolute + relative * abs(one)
    return one == other or (one != one and other != other)


def short(value):
    text = str(value)
    return text if len(text) < 300 else f"{text[:300]}..."
