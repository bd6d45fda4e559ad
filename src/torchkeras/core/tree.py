"""Nested tuples, lists, dicts and dataclasses: map over the leaves and keep the container types."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from torchkeras.core.types import Leaf, Tree


def map_tree(function: Callable[[Leaf], Leaf], node: Tree) -> Tree:
    """Return the tree with ``function`` applied to its leaves; the same object if none changed."""
    if isinstance(node, Tensor) or not is_container(node):
        return function(node)
    before = children(node)
    after = [map_tree(function, item) for item in before]
    if all(new is old for new, old in zip(after, before, strict=True)):
        return node
    return rebuild(node, after)


def leaves(node: Tree) -> Iterator[Leaf]:
    """Yield the values of a tree that are no containers."""
    if not isinstance(node, Tensor) and is_container(node):
        for item in children(node):
            yield from leaves(item)
    else:
        yield node


def is_container(node: Tree) -> bool:
    """Return whether a value is a tuple, list or dict of any type, or an object of a dataclass.

    One that has a method ``to`` is one value: a PackedSequence is a namedtuple, and a tokenizer's
    output a dict, that move themselves.
    """
    if isinstance(node, (tuple, list, Mapping)) or is_record(node):
        return not hasattr(node, "to")
    return False


def is_record(node: Tree) -> bool:
    """Return whether a value is an object of a dataclass."""
    return dataclasses.is_dataclass(node) and not isinstance(node, type)


def children(node: Tree) -> Sequence[Any]:
    """Return the values that a container holds, in its order."""
    if isinstance(node, Mapping):
        return list(node.values())
    if isinstance(node, (tuple, list)):
        return node
    return [getattr(node, one.name) for one in dataclasses.fields(node)]


def rebuild(node: Tree, items: Sequence[Any]) -> Tree:
    """Return a container like ``node`` that holds ``items``; a plain one if its type refuses."""
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
    """Return a mapping of the type of ``node`` with these values; a plain dict if its type refuses.

    A defaultdict keeps its factory, a Counter its kind. The outputs of transformers refuse
    ``update`` and are made from keywords.
    """
    kind: Any = type(node)
    makers: list[Callable[[], Any]] = [lambda: kind(**values), lambda: kind(values)]
    if isinstance(node, dict):  # a copy of another kind of mapping may share its storage
        makers.insert(0, lambda: copy_with_values(node, values))
    for make in makers:
        try:
            other = make()
            if type(other) is kind and list(other) == list(values) and all(
                    other[key] is values[key] for key in values):
                return other
        except Exception:  # a user's class may refuse in any way
            continue
    return values


def copy_with_values(node: Mapping[Any, Any], values: dict[Any, Any]) -> Any:
    """Return a shallow copy of a mapping with other values."""
    other: Any = copy.copy(node)
    for key in set(other) - set(values):
        del other[key]
    other.update(values)
    return other


def sequence_like(node: Sequence[Any], items: Sequence[Any]) -> Any:
    """Return a tuple or list of the type of ``node``; a plain one if its type refuses."""
    kind: Any = type(node)
    try:
        return node._make(items) if hasattr(node, "_make") else kind(items)
    except TypeError:  # a subclass whose constructor takes something else
        return tuple(items) if isinstance(node, tuple) else list(items)
