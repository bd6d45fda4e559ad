"""Nested predictions and labels as numbered leaves, paired over batches by key and position."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from torchkeras.core.errors import bad_value
from torchkeras.core.tree import rebuild
from torchkeras.core.types import Tree


def number_leaves(tree: Tree) -> Tree:
    """Return the tree with a number in the place of each leaf.

    Keys are sorted by their repr, so that ranks whose dicts have another order give the same
    numbers.
    """
    numbers = iter(range(count_leaves(tree)))

    def walk(node: Tree) -> Tree:
        if not is_branch(node):
            return next(numbers)
        if isinstance(node, Mapping):
            found = {key: walk(node[key]) for key in sorted(node, key=repr)}
            return rebuild(node, [found[key] for key in node])
        return rebuild(node, [walk(item) for item in node])

    return walk(tree)


def count_leaves(tree: Tree) -> int:
    """Return the number of leaves."""
    if not is_branch(tree):
        return 1
    return sum(map(count_leaves, tree.values() if isinstance(tree, Mapping) else tree))


def is_branch(node: object) -> bool:
    """Tell whether a value is a container; an object with ``to`` is one value."""
    return isinstance(node, (tuple, list, Mapping)) and not hasattr(node, "to")


def leaves_by_number(layout: Tree, tree: Tree, argument: str) -> dict[int, Any]:
    """Return the leaves of a batch by their numbers in the layout of the first.

    Args:
        layout: the tree that :func:`number_leaves` returned for the first batch.
        tree: predictions and labels of this batch.
        argument: the name for error messages.

    Raises:
        ValueError: the batch has other keys, another length or another nesting; or the tensors of a
            list differ in their numbers of samples, so that it is not a list of outputs.
    """
    found: dict[int, Any] = {}

    def walk(known: Tree, node: Tree, path: str) -> None:
        if not is_branch(known):
            if is_branch(node):
                raise structure_error(argument, f"a {type(node).__name__} in {path}", "a tensor")
            found[known] = node
            return
        keys = check_same_structure(argument, known, node, path)
        for key in keys:
            walk(known[key], node[key], f"{path}[{key!r}]")

    for part, path in enumerate(("preds", "labels")):
        walk(layout[part], tree[part], path)
    return found


def check_same_structure(argument: str, known: Tree, node: Tree, path: str) -> list[Any]:
    """Return the keys of a container; refuse another type, other keys or another length."""
    if not is_branch(node) or isinstance(known, Mapping) != isinstance(node, Mapping):
        raise structure_error(argument, f"a {type(node).__name__} in {path}",
                              f"a {type(known).__name__}")
    if isinstance(known, Mapping):
        if set(known) != set(node):
            raise structure_error(argument, f"the keys {sorted(map(str, node))} in {path}",
                                  f"{sorted(map(str, known))}")
        return list(known)
    if len(known) != len(node):
        raise structure_error(argument, f"{len(node)} values in {path}", f"{len(known)}")
    sizes = {len(item) for item in node if isinstance(item, Tensor) and item.dim()}
    if isinstance(node, list) and len(sizes) > 1:
        raise bad_value(
            argument, received=f"a list in {path} of tensors with {sorted(sizes)} rows",
            expected="a list of outputs with a row for each sample",
            fix="For a list of samples, write an object with update, compute and reset.")
    return list(range(len(known)))


def structure_error(argument: str, received: str, expected: str) -> ValueError:
    """Return the error for a batch whose structure is not that of the first."""
    return bad_value(argument, received=f"a batch with {received}",
                     expected=f"{expected}, as in the first batch",
                     fix="Batches are paired by keys and positions; give every batch the same.")


def paths(layout: Tree) -> dict[int, str]:
    """Return the path of each leaf of a layout, by its number."""
    found: dict[int, str] = {}

    def walk(node: Tree, path: str) -> None:
        if not is_branch(node):
            found[node] = path
            return
        for key in node if isinstance(node, Mapping) else range(len(node)):
            walk(node[key], f"{path}[{key!r}]")

    walk(layout, "")
    return found
