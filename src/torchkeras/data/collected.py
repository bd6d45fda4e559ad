"""Collect the outputs of a pass batch by batch, as far as possible in room that is made once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from torchkeras.core.tree import children, is_container, rebuild
from torchkeras.core.types import Labels, Tree, Value
from torchkeras.data.joined import OneEach, Path, join, part_at


class OutputCollector:
    """Collects the values of one batch after the other, and returns them joined.

    If the number of samples is known and the values are tensors, or dicts, dataclasses and several
    outputs of tensors, each is written into one tensor for all samples as it comes, so that they
    are not in memory twice.

    Args:
        name: the name of the values in errors: "outputs" or "labels".
        total: the number of samples of all batches, None when not known.

    Example:
        >>> collected = OutputCollector("outputs", 3)
        >>> collected.add({"a": torch.tensor([1, 2])}, 2)
        >>> collected.add({"a": torch.tensor([3])}, 1)
        >>> collected.result()
        {'a': tensor([1, 2, 3])}
    """

    def __init__(self, name: str, total: int | None) -> None:
        self.name, self.total = name, total
        self.parts: list[Any] = []
        self.counts: list[int | None] = []
        self.room: Any = None  # tensors for all samples, nested like the first value
        self.filled = 0

    def add(self, value: Value, count: int | None) -> None:
        """Add the value of a batch; raise with the first batch for values that cannot be joined."""
        if not self.counts:
            join([value], [count], self.name)
            self.make_room(value, count)
        if self.room is None or not self.write(value, count):
            self.release_room()
            self.parts.append(value)
        self.counts.append(count)

    def make_room(self, value: Value, count: int | None) -> None:
        """Allocate tensors for all samples, if the first value tells their shapes."""
        def empty(tensor: Tensor) -> Tensor:
            return torch.empty((self.total or 0, *tensor.shape[1:]), dtype=tensor.dtype)

        if self.total is not None and count is not None and count < self.total and has_rows(
                value, count):
            room = map_tensors(empty, value)
            # None: a container type that cannot be made
            self.room = None if pair_leaves(room, value) is None else room

    def write(self, value: Value, count: int | None) -> bool:
        """Write a value after the last one; return False if it is unlike those before."""
        places = pair_leaves(self.room, value)
        if places is None or count is None or self.filled + count > (self.total or 0):
            return False
        if not all(matches_room(room, part, count) for room, part in places):
            return False
        for room, part in places:
            if room is not None:
                room[self.filled:self.filled + count] = part
        self.filled += count
        return True

    def release_room(self) -> None:
        """Take the values out of the allocated tensors, to join them with others unlike them."""
        if isinstance(self.room, Tensor):
            self.parts, self.counts = [self.room[:self.filled]], [self.filled]
        elif self.room is not None:  # batch by batch, so that errors can name the batches
            ends = list(itertools.accumulate(count or 0 for count in self.counts))
            self.parts = [slice_rows(self.room, *ends) for ends in itertools.pairwise([0, *ends])]
        self.room = None

    def result(self, one_each: OneEach | None = None) -> Any:
        """Return all values as one; ``one_each`` decides how ambiguous lists are read."""
        if self.room is None:
            return join(self.parts, self.counts, self.name, one_each)
        if self.filled == self.total:
            return self.room
        return map_tensors(Tensor.clone, slice_rows(self.room, 0, self.filled))


def has_rows(value: Value, count: int) -> bool:
    """Return whether a value is ordinary tensors with a row per sample, readable in one way only.

    A list of as many items as samples can also be one item per sample, and any value can be that
    of a single sample.
    """
    if not is_container(value):
        return is_row_tensor(value, count)
    if count == 1 or (isinstance(value, (tuple, list)) and len(value) >= count):
        return False
    return all(item is None or has_rows(item, count) for item in children(value))


def pair_leaves(room: Tree, value: Tree) -> list[tuple[Any, Any]] | None:
    """Return pairs of the leaves of two trees; None if their containers differ."""
    if not is_container(room):
        return [(room, value)]
    if type(value) is not type(room) or len(children(value)) != len(children(room)) or (
            isinstance(room, Mapping) and list(value) != list(room)):
        return None
    found = [pair_leaves(*pair) for pair in zip(children(room), children(value), strict=True)]
    return None if None in found else [pair for pairs in found for pair in pairs or ()]


def matches_room(room: Tensor | None, part: Value, count: int) -> bool:
    """Return whether a part of a value has the dtype and shape of the earlier ones."""
    if room is None or part is None:
        return room is part
    alike = is_row_tensor(part, count) and part.dtype == room.dtype
    return alike and part.shape[1:] == room.shape[1:]


def slice_rows(room: Tree, first: int, end: int) -> Any:
    """Return the same rows of each tensor in a tree."""
    return map_tensors(lambda tensor: tensor[first:end], room)


def map_tensors(function: Callable[[Tensor], Tensor], node: Tree) -> Any:
    """Return a new tree of tensors and None, with a function applied to each tensor."""
    if is_container(node):
        return rebuild(node, [map_tensors(function, item) for item in children(node)])
    return node if node is None else function(node)


def is_row_tensor(value: object, count: int | None) -> bool:
    """Return whether a value is an ordinary tensor with a row per sample."""
    return type(value) is Tensor and value.layout == torch.strided and value.dim() > 0 and (
        not value.is_nested and len(value) == count)


def collect_outputs(values: Iterable[tuple[Any, Any, int | None]], total: int | None,
                    one_each: OneEach, with_labels: bool) -> tuple[Any, Any]:
    """Return the outputs and labels of all batches, joined."""
    outputs, labels = OutputCollector("outputs", total), OutputCollector("labels", total)
    for preds, own_labels, count in values:
        outputs.add(preds, count)
        if with_labels:
            labels.add(own_labels, count)
    found = outputs.result(one_each)
    return found, labels.result(label_rule(labels.parts)) if with_labels else None


def label_rule(parts: list[Labels]) -> OneEach:
    """Return a rule for ambiguous lists of labels: dicts are one per sample, tensors unknown."""
    def rule(path: Path, length: int) -> bool | None:
        return True if all(is_container(item) for item in part_at(parts[0], path)) else None

    return rule
