"""Nested predictions and labels as a list of tensors, paired over batches by key and by place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.core.tree import rebuild


def numbered(tree: Any) -> Any:
    """Return the tree with a number in the place of each leaf.

    Keys count in the order of their texts, so that processes whose dicts are in another order give the same numbers.
    """
    numbers = iter(range(count(tree)))

    def walk(node: Any) -> Any:
        if not is_branch(node):
            return next(numbers)
        if isinstance(node, Mapping):
            found = {key: walk(node[key]) for key in sorted(node, key=repr)}
            return rebuild(node, [found[key] for key in node])
        return rebuild(node, [walk(item) for item in node])

    return walk(tree)


def count(tree: Any) -> int:
    """Return the number of leaves."""
    if not is_branch(tree):
        return 1
    return sum(map(count, tree.values() if isinstance(tree, Mapping) else tree))


def is_branch(node: Any) -> bool:
    """Return whether a value holds others; what can move itself to a device is one value."""
    return isinstance(node, (tuple, list, Mapping)) and not hasattr(node, "to")


def leaves_of(layout: Any, tree: Any, argument: str) -> dict[int, Any]:
    """Return the leaves of a batch by their numbers in the layout of the first.

    Args:
        layout: what :func:`numbered` said of the first batch.
        tree: predictions and labels of this batch.
        argument: what the message of an error is about.

    Raises:
        ValueError: the batch has other keys, another length or another nesting; or the tensors of a list have unlike
            numbers of samples, so that it is no list of outputs.
    """
    found: dict[int, Any] = {}

    def walk(known: Any, node: Any, path: str) -> None:
        if not is_branch(known):
            if is_branch(node):
                raise unlike(argument, f"a {type(node).__name__} in {path}", "a tensor")
            found[known] = node
            return
        keys = check_alike(argument, known, node, path)
        for key in keys:
            walk(known[key], node[key], f"{path}[{key!r}]")

    for part, path in enumerate(("preds", "labels")):
        walk(layout[part], tree[part], path)
    return found


def check_alike(argument: str, known: Any, node: Any, path: str) -> list[Any]:
    """Return the keys or places of a branch; refuse a branch of another kind, with other keys or another length."""
    if not is_branch(node) or isinstance(known, Mapping) != isinstance(node, Mapping):
        raise unlike(argument, f"a {type(node).__name__} in {path}", f"a {type(known).__name__}")
    if isinstance(known, Mapping):
        if set(known) != set(node):
            raise unlike(argument, f"the keys {sorted(map(str, node))} in {path}", f"{sorted(map(str, known))}")
        return list(known)
    if len(known) != len(node):
        raise unlike(argument, f"{len(node)} values in {path}", f"{len(known)}")
    sizes = {len(item) for item in node if isinstance(item, Tensor) and item.dim()}
    if isinstance(node, list) and len(sizes) > 1:
        raise bad_value(argument, received=f"a list in {path} of tensors with {sorted(sizes)} rows",
                        expected="a list of outputs with a row for each sample",
                        fix="For a list of samples, write an object with update, compute and reset.")
    return list(range(len(known)))


def unlike(argument: str, received: str, expected: str) -> ValueError:
    """Return the error for a batch whose structure is not that of the first."""
    return bad_value(argument, received=f"a batch with {received}", expected=f"{expected}, as in the first batch",
                     fix="Batches are paired by keys and places; give every batch the same.")


def paths(layout: Any) -> dict[int, str]:
    """Return where each leaf of a layout is, by its number."""
    found: dict[int, str] = {}

    def walk(node: Any, path: str) -> None:
        if not is_branch(node):
            found[node] = path
            return
        for key in node if isinstance(node, Mapping) else range(len(node)):
            walk(node[key], f"{path}[{key!r}]")

    walk(layout, "")
    return found
