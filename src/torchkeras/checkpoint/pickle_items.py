"""Name what a pickle holds, without making it."""

from __future__ import annotations

from collections.abc import Iterable
from pickle import UnpicklingError
from typing import Any, TypeAlias

import torch

SIZES = {"Double": 8, "Float": 4, "Half": 2, "Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1,
         "Bool": 1, "BFloat16": 2, "ComplexDouble": 16, "ComplexFloat": 8, "QUInt8": 1, "QInt8": 1,
         "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1, "Untyped": 1}  # bytes of a number in a storage
MAX_KEY_DEPTH = 8  # tuples in one another, in the key of a dict
MAX_KEY_PARTS = 100  # parts of a key, each as often as it is met
MAX_ATTRIBUTES = 100  # that an object may be given
COPIED = ("list", "dict", "ordered", "counter", "set", "bytes", "bytearray")
PARAMETER_NAMES = set(dir(torch.nn.Parameter))
ATOMS = (int, str, float, bool, bytes, type(None))
Item: TypeAlias = Any  # a Placeholder, or a plain value: a number, text, bytes or None


class Placeholder:
    """Stands for a value that is not made: its kind, and what must be known of it.

    Args:
        kind: "list", "dict", "name" and so on.
        parts: the items of a list or tuple, the first keys of a dict.
        name: the full name of a global; the key of a storage.
        size: the bytes of a storage; the depth of a tuple.
        item: the bytes of one number.
    """

    __slots__ = ("item", "kind", "name", "parts", "size")

    def __init__(self, kind: str, parts: Iterable[Item] = (), name: str = "", size: int = 0,
                 item: int = 1) -> None:
        self.parts: Any = parts  # a list, except where nothing is added to it
        self.kind, self.name, self.size, self.item = kind, name, size, item


def copy_cost(value: Item) -> int:
    """Return how many objects a copy of a value counts as: it may be copied repeatedly."""
    if type(value) is str:
        return len(value) // 512
    if type(value) is not Placeholder:
        return 0
    if value.kind in COPIED:
        return max(value.size, len(value.parts)) // 4
    return len(value.parts) // 8


def kind_of(value: Item) -> str:
    """Return the kind of a placeholder; empty for a plain value."""
    return value.kind if type(value) is Placeholder else ""


def parts_of(value: Item) -> list[Item]:
    """Return the items of a tuple; refuse any other value."""
    if kind_of(value) not in ("tuple", "size"):
        raise UnpicklingError("has another value where a tuple is expected")
    parts: list[Item] = value.parts
    return parts


def is_size(value: Item) -> bool:
    """Return whether a value can be a size or an offset."""
    return type(value) is int and 0 <= value < 1 << 62


def is_shape(value: Item) -> bool:
    """Return whether a value can be the shape of a tensor."""
    return (kind_of(value) in ("tuple", "size") and all(map(is_size, value.parts))
            and len(value.parts) <= 64)


def is_view(given: list[Item]) -> bool:
    """Return whether the first four arguments are a storage, an offset, a shape and strides."""
    return (kind_of(given[0]) == "storage" and is_size(given[1])
            and is_shape(given[2]) and is_shape(given[3]))


def check_key(key: Item) -> None:
    """Refuse a key of a dict, or an item of a set, that takes long to hash."""
    left, level = [key], 0
    seen = 0
    while left:
        seen, level = seen + len(left), level + 1
        if seen > MAX_KEY_PARTS or level > MAX_KEY_DEPTH:
            raise UnpicklingError("has a key of too many parts")
        if not all(type(one) in ATOMS or kind_of(one) in ("tuple", "type", "bytes", "other")
                   for one in left):
            raise UnpicklingError("has a key that cannot be hashed")
        left = [part for one in left if kind_of(one) == "tuple"
                for part in one.parts[:MAX_KEY_PARTS + 1]]


def are_tensor_attributes(state: Item) -> bool:
    """Return whether a value holds attributes for a tensor that hide none of its own."""
    every = state.parts if kind_of(state) == "tuple" else [state]
    return all(one is None or is_small_dict(one, PARAMETER_NAMES) for one in every)


def is_small_dict(value: Item, reserved: set[str]) -> bool:
    """Return whether a value is a small dict of names, none of which is reserved."""
    return (kind_of(value) in ("dict", "ordered") and value.size <= MAX_ATTRIBUTES
            and all(type(name) is str and name not in reserved for name in value.parts))
