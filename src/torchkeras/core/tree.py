"""Nested tuples, lists, dicts and dataclasses: apply a function to every leaf and keep the containers' types."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor


def map_tree(function: Callable[[Any], Any], node: Any) -> Any:
    """Return the tree with ``function`` applied to its leaves; the same object when no leaf changed."""
    if isinstance(node, Tensor) or not is_container(node):
        return function(node)
    before = children(node)
    after = [map_tree(function, item) for item in before]
    if all(new is old for new, old in zip(after, before, strict=True)):
        return node
    return rebuild(node, after)


def leaves(node: Any) -> Iterator[Any]:
    """Yield the values of a tree that hold no others."""
    if not isinstance(node, Tensor) and is_container(node):
        for item in children(node):
            yield from leaves(item)
    else:
        yield node


def is_container(node: Any) -> bool:
    """Return whether a value holds others: a tuple, list or dict of any type, or an object of a dataclass.

    What can move itself (a PackedSequence is a namedtuple, a tokenizer's output a dict) is one value.
    """
    if isinstance(node, (tuple, list, Mapping)) or is_record(node):
        return not hasattr(node, "to")
    return False


def is_record(node: Any) -> bool:
    """Return whether a value is an object of a dataclass."""
    return dataclasses.is_dataclass(node) and not isinstance(node, type)


def children(node: Any) -> Sequence[Any]:
    """Return the values that a container holds, in its order."""
    if isinstance(node, Mapping):
        return list(node.values())
    return node if isinstance(node, (tuple, list)) else [getattr(node, one.name) for one in dataclasses.fields(node)]


def rebuild(node: Any, items: Sequence[Any]) -> Any:
    """Return a container of the type of ``node`` that holds ``items``; a plain one where the type cannot be made."""
    if type(node) is dict:
        return dict(zip(node, items, strict=True))
    if isinstance(node, Mapping):
        return mapping_like(node, dict(zip(node, items, strict=True)))
    if isinstance(node, (tuple, list)):
        return sequence_like(node, items)
    other: Any = copy.copy(node)
    for one, item in zip(dataclasses.fields(node), items, strict=True):
        object.__setattr__(other, one.name, item)  # a frozen one too
    return other


def mapping_like(node: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    """Return a mapping of the type of ``node`` with these values, or a plain dict where that type cannot be made.

    A defaultdict keeps its factory, a Counter its kind. The outputs of transformers refuse ``update`` and are made from
    keywords.
    """
    kind: Any = type(node)
    copied = [lambda: refilled(node, values)] if isinstance(node, dict) else []  # a copy of another may share its store
    for make in (*copied, lambda: kind(**values), lambda: kind(values)):
        try:
            other = make()
            if type(other) is kind and list(other) == list(values) and all(other[key] is values[key] for key in values):
                return other
        except Exception:  # a class of somebody else's may refuse in any way
            continue
    return values


def refilled(node: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    """Return a shallow copy of a mapping with other values."""
    other: Any = copy.copy(node)
    for key in set(other) - set(values):
        del other[key]
    other.update(values)
    return other


def sequence_like(node: Any, items: Sequence[Any]) -> Any:
    """Return a tuple or list of the type of ``node``, or a plain one where that type cannot be made."""
    kind = type(node)
    try:
        return node._make(items) if hasattr(node, "_make") else kind(items)
    except TypeError:  # a subclass whose constructor takes something else
        return tuple(items) if isinstance(node, tuple) else list(items)
