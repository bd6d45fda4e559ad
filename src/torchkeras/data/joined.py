"""Join the outputs of all batches into one value, sample by sample; refuse what cannot be joined.

A result at the wrong sample is worse than an error, so every value is compared with the number of
samples of its batch: tensors have their samples along the first dimension; a list of one item per
sample becomes one list of all samples; several outputs are joined each by itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from torchkeras.core.errors import bad_value
from torchkeras.core.tree import children, is_container, is_record, mapping_like, rebuild
from torchkeras.core.types import Labels, Preds, Tree, Value

Path = tuple[Any, ...]  # the keys and indices that lead to a part of an output
# tells whether the list at a path holds one item per sample; None: not known
OneEach = Callable[[Path, int], bool | None]
CACHES = ("past_key_values", "mems", "cache_params")  # what transformers keep for the next token
ELSEWHERE = "Let StepRunner.forward return tensors whose first dimension is the samples."
WAYS_OUT = {
    "outputs": "Use predict(..., stream=True) and take them batch by batch, or return from "
               "StepRunner.predict tensors whose first dimension is the samples, or a list with an "
               "item for each sample.",
    "labels": "Use predict(..., stream=True, with_labels=True) and take them batch by batch, or "
              "with_labels=False.",
}


def join(parts: Sequence[Any], counts: Sequence[int | None], name: str = "outputs",
         one_each: OneEach | None = None) -> Any:
    """Return the values of all batches as one value of all samples, in their order.

    Args:
        parts: the value of each batch.
        counts: how many samples each batch has; None where that is not known.
        name: the name of the values in errors: "outputs" or "labels" of predict, or another.
        one_each: decides how a list is read that can be read in two ways, such as two outputs of
            two samples. Without it, tensors are read as several outputs and anything else as one
            item per sample.

    Raises:
        ValueError: the values do not have one entry per sample.

    Example:
        >>> join([torch.tensor([1, 2]), torch.tensor([3])], [2, 1])
        tensor([1, 2, 3])
        >>> join([["a", "b"], ["c"]], [2, 1])
        ['a', 'b', 'c']
    """
    return Joiner(counts, name, one_each or tensors_are_outputs(parts))(parts)


def tensors_are_outputs(parts: Sequence[Any]) -> OneEach:
    """Return a rule for ambiguous lists that does not ask the net: tensors are several outputs."""
    def rule(path: Path, length: int) -> bool:
        return not all(isinstance(item, Tensor) for item in part_at(parts[0], path))

    return rule


def part_at(node: Tree, path: Path) -> Any:
    """Return the part of a value to which a path leads."""
    for step in path:
        by_name = is_record(node) and not isinstance(node, Mapping)
        node = getattr(node, step) if by_name else node[step]
    return node


class Joiner:
    """Joins the parts of a value, and recursively the parts of these.

    Args:
        counts: the samples of each batch.
        name: the name of the values in errors.
        one_each: decides how ambiguous lists are read.
    """

    def __init__(self, counts: Sequence[int | None], name: str, one_each: OneEach) -> None:
        self.counts, self.name, self.one_each = counts, name, one_each
        self.way_out = WAYS_OUT.get(name, ELSEWHERE)

    def __call__(self, parts: Sequence[Any], path: Path = ()) -> Any:
        """Return the parts joined, or raise a ValueError."""
        first = parts[0]
        if all(part is None for part in parts):
            return None
        if any(part is None for part in parts):
            raise self.refusal(path, "None for some batches, and something for others")
        if all(isinstance(part, Tensor) for part in parts):
            return self.tensors(parts, path)
        if all(isinstance(part, np.ndarray) for part in parts):
            return np.concatenate(self.checked_rows(parts, path))
        if all(is_container(part) for part in parts):
            return self.containers(parts, path)
        if all(hasattr(part, "batch_size") and hasattr(part, "to") for part in parts):
            return self.tensordicts(parts, path)
        single = all(count == 1 for count in self.counts)
        if isinstance(first, Distribution) or not single or callable(getattr(first, "to", None)):
            raise self.refusal(path, self.describe(first, self.counts[0]))
        return list(parts)  # each is one sample

    def containers(self, parts: Sequence[Any], path: Path) -> Any:
        """Return dicts joined by key, dataclasses by field, sequences by :meth:`sequences`."""
        first = parts[0]
        if all(isinstance(part, Mapping) for part in parts):
            return self.mappings(parts, path)
        if is_record(first) and all(type(part) is type(first) for part in parts):
            fields = list(first.__dataclass_fields__)
            return rebuild(first, [self([getattr(part, field) for part in parts], (*path, field))
                                   for field in fields])
        if all(isinstance(part, (tuple, list)) for part in parts):
            return self.sequences(parts, path)
        raise self.refusal(path, f"a {type(first).__name__} and a {type(parts[-1]).__name__}")

    def mappings(self, parts: Sequence[Mapping[Any, Any]], path: Path) -> Any:
        """Return one dict; the order of keys may differ from batch to batch."""
        first = parts[0]
        for part in parts:
            if set(part) != set(first):
                raise self.refusal(path, f"a dict of {list(first)} and one of {list(part)}")
        return mapping_like(first, {key: self([part[key] for part in parts], (*path, key))
                                    for key in first})

    def sequences(self, parts: Sequence[Sequence[Any]], path: Path) -> Any:
        """Return one list of all samples, or several outputs, each joined by itself."""
        first, lengths = parts[0], [len(part) for part in parts]
        alike = len(set(lengths)) == 1
        if type(first) not in (tuple, list):  # a namedtuple
            return self.columns(parts, path) if alike else self.raise_for_lengths(path, lengths)
        if lengths != list(self.counts):
            return self.columns(parts, path) if alike else self.raise_for_lengths(path, lengths)
        columns = None
        if alike and all(map(holds_samples, first)):
            columns = self.columns_or_none(parts, path)
        single = True if columns is None else self.one_each(path, len(first))
        if single is None:
            raise self.refusal(
                path, f"a {type(first).__name__} of {len(first)} items for {len(first)} samples, "
                "which can be one a sample or several",
                fix=f"Give another batch_size. {self.way_out}")
        return [item for part in parts for item in part] if single else columns

    def columns(self, parts: Sequence[Sequence[Any]], path: Path) -> Any:
        """Return the outputs at each index, joined."""
        return rebuild(parts[0], [self(column, (*path, place))
                                  for place, column in enumerate(zip(*parts, strict=True))])

    def columns_or_none(self, parts: Sequence[Sequence[Any]], path: Path) -> Any:
        """Return the same, or None if they do not join."""
        try:
            return self.columns(parts, path)
        except ValueError:
            return None

    def tensors(self, parts: Sequence[Tensor], path: Path) -> Tensor:
        """Return one tensor."""
        if any(part.is_nested for part in parts):
            return self.nested(parts, path)
        try:
            return torch.cat(self.checked_rows(parts, path))
        except (RuntimeError, TypeError) as error:  # such as rows of a compressed sparse tensor
            raise self.refusal(path, f"tensors that torch.cat refuses ({error})") from error

    def checked_rows(self, parts: Sequence[Any], path: Path) -> list[Any]:
        """Return tensors or arrays whose rows are samples; raise if samples differ in shape."""
        rows = [self.rows(part, count, path)
                for part, count in zip(parts, self.counts, strict=True)]
        shapes = sorted({tuple(part.shape[1:]) for part in rows})
        if len(shapes) > 1:
            raise self.refusal(path, "batches whose samples differ in shape: "
                               + " and ".join(map(str, shapes[:3])))
        return rows

    def rows(self, part: Value, count: int | None, path: Path) -> Any:
        """Return a tensor or array that has its samples along the first dimension."""
        if part.ndim == 0 and count == 1:
            return part.reshape(1)  # from a net that squeezes
        if part.ndim == 0 or (count is not None and part.shape[0] != count):
            raise self.refusal(path, self.describe(part, count))
        return part

    def nested(self, parts: Sequence[Tensor], path: Path) -> Tensor:
        """Return one nested tensor of all samples."""
        first = parts[0]
        if not all(part.is_nested and part.layout == first.layout for part in parts):
            raise self.refusal(path, "nested tensors beside others")
        pairs = zip(parts, self.counts, strict=True)
        if any(part.size(0) != (count or part.size(0)) for part, count in pairs):
            raise self.refusal(path, f"a nested tensor of {first.size(0)} for a batch of "
                               f"{self.counts[0]} samples")
        return torch.nested.as_nested_tensor([one for part in parts for one in part.unbind()],
                                             layout=first.layout)

    def tensordicts(self, parts: Sequence[Any], path: Path) -> Any:
        """Return one TensorDict of all samples."""
        for part, count in zip(parts, self.counts, strict=True):
            known = isinstance(part.batch_size, torch.Size)
            if not known or list(part.batch_size[:1]) != [count]:
                raise self.refusal(path, f"a {type(part).__name__} of {part.batch_size} for a "
                                   f"batch of {count} samples")
        return torch.cat(list(parts))

    def raise_for_lengths(self, path: Path, lengths: list[int]) -> Any:
        """Raise for lists that hold neither one item per sample nor as many outputs per batch."""
        counts = [count for count in self.counts if count is not None]
        raise self.refusal(path, f"lists of {first_few(lengths)} items for batches of "
                           f"{first_few(counts)} samples")

    def describe(self, value: Value, count: int | None) -> str:
        """Return the type or shape of a value, and the samples of its batch, for errors."""
        array = isinstance(value, (Tensor, np.ndarray))
        what = f"shape {tuple(value.shape)}" if array else f"a {type(value).__name__}"
        return f"{what} for a batch of {'an unknown number of' if count is None else count} samples"

    def refusal(self, path: Path, received: str, fix: str = "") -> ValueError:
        """Return the error that names what cannot be joined, and what to do instead."""
        where = "".join(f"[{step!r}]" for step in path)
        return bad_value(f"{self.name}{where}", received=received, fix=fix or self.way_out,
                         expected="the same for every sample along the first dimension, to join "
                                  "all batches")


def holds_samples(item: Value) -> bool:
    """Return whether an item of a list can itself hold an entry per sample."""
    array = isinstance(item, (Tensor, np.ndarray))
    return item is None or is_container(item) or (array and item.ndim > 0)


def first_few(numbers: Sequence[int]) -> str:
    """Return the first few of many numbers as text."""
    return ", ".join(map(str, numbers[:4])) + (", ..." if len(numbers) > 4 else "")


def without_extras(preds: Preds) -> Preds:
    """Return an output without what is not per sample: its loss, and caches for the next token.

    They are recognised by their keys in a dict; the outputs of transformers are dicts.
    """
    if not isinstance(preds, Mapping) or hasattr(preds, "to"):
        return preds
    kept = {key: value for key, value in preds.items()
            if not (is_cache(key, value) or is_loss(key, value))}
    return preds if len(kept) == len(preds) or not kept else mapping_like(preds, kept)


def is_loss(key: object, value: object) -> bool:
    """Return whether an entry of an output is a loss of the batch."""
    named = isinstance(key, str) and key.endswith("loss")
    return named and isinstance(value, Tensor) and value.dim() == 0


def is_only_loss(preds: Preds) -> bool:
    """Return whether an output holds nothing but losses of the batch."""
    return isinstance(preds, Mapping) and len(preds) > 0 and all(
        is_loss(key, value) for key, value in preds.items())


def is_cache(key: object, value: object) -> bool:
    """Return whether an entry of an output is a cache that a net keeps for its next call."""
    return key in CACHES or type(value).__name__.endswith("Cache")


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
