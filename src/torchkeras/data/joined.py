"""Join the outputs of all batches into one value, sample by sample; refuse what cannot be joined.

A result at the wrong sample is worse than an error, so every value is compared with the number of
samples of its batch: tensors have their samples along the first dimension; a list of one item per
sample becomes one list of all samples; several outputs are joined each by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from torchkeras.core.errors import bad_value
from torchkeras.core.tree import is_container, is_record, mapping_like, rebuild
from torchkeras.core.types import Preds, Tree, Value

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
