"""Nested tuples, lists and dicts: apply a function to every leaf and keep the containers' types."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def map_tree(function: Callable[[Any], Any], node: Any) -> Any:
    """The tree with ``function`` applied to its leaves; the same object when no leaf changed."""
    # What can move itself (a PackedSequence is a namedtuple, a tokenizer's output a dict) is one value.
    if not isinstance(node, (tuple, list, Mapping)) or hasattr(node, "to"):
        return function(node)
    before = list(node.values()) if isinstance(node, Mapping) else node
    after = [map_tree(function, item) for item in before]
    if all(new is old for new, old in zip(after, before, strict=True)):
        return node
    return rebuild(node, after)


def rebuild(node: Any, items: Sequence[Any]) -> Any:
    """A container of the type of ``node`` that holds ``items``."""
    if type(node) is dict:
        return dict(zip(node, items, strict=True))
    if isinstance(node, Mapping):
        other: Any = copy.copy(node)  # a defaultdict keeps its factory
        other.update(zip(node, items, strict=True))
        return other
    if hasattr(node, "_make"):  # a namedtuple
        return node._make(items)
    return type(node)(items)
