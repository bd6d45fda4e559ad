"""Fingerprints of all data in memory, and of the order in which it is read.

A fingerprint is the SHA-256 of the CRC-32 of each block of a MB or less. A CRC-32 takes a third of
the time of SHA-256, and notices each change of a single number of up to 32 bits; of other changes
within a block, it misses one in 2**32. It is no proof against somebody who makes other data with
the same CRC-32 on purpose.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, StackDataset, Subset, TensorDataset

from torchkeras.core.types import Data, Source, Tree, Value
from torchkeras.data.arrays import ArrayDataset
from torchkeras.data.fingerprint import digest, whole_numbers
from torchkeras.data.named import is_simple, name_of

LIMIT, BLOCK = 256 << 20, 1 << 20  # bytes that are read in all, and at once
NOTHING: Mapping[int, Any] = {}
ITEMS = 1 << 16  # samples of a list that are read
SAMPLING = ("replacement", "num_samples", "drop_last", "num_replicas", "seed", "shuffle")


class Unreadable(Exception):
    """Raised for data whose contents cannot be read; the text is its kind."""


def crc32(block: Value) -> bytes:
    """Return the CRC-32 of a block of bytes."""
    return zlib.crc32(block).to_bytes(4, "little")


def contents(source: Source, known: Mapping[int, Any] = NOTHING,
             mark: Callable[[Any], Any] = crc32) -> tuple[str | None, str]:
    """Return a fingerprint of all samples, and a note on what it leaves out.

    Tensors, arrays and lists of these in memory are read, whole up to 256 MB; of more, that much in
    evenly spaced blocks. What a Dataset reads from elsewhere is not.

    Args:
        source: the source of the batches.
        known: indices of Subsets that are arrays already, by the ``id`` of ``Subset.indices``.
        mark: turns a block into bytes for the fingerprint; ``memoryview`` takes the block itself.
    """
    try:
        parts = list(stored_parts(getattr(source, "dataset", source), known))
        found = Fingerprint(sum(map(size_of, parts)), mark)
        for part in parts:
            found.add(part)
    except Unreadable as kind:
        return None, f"only the length of its {kind} is compared, not what it holds"
    whole = found.bytes <= LIMIT and not found.left_out
    note = f"of its {found.bytes / 1e6:,.0f} MB, evenly spread parts are compared"
    return f"{found.bytes} bytes, {found.hash.hexdigest()[:24]}", "" if whole else note


def stored_parts(data: Data, known: Mapping[int, Any]) -> Iterator[Any]:
    """Yield what data is made of: arrays, numbers, texts, and the indices of Subsets."""
    if isinstance(data, Subset):
        array = known.get(id(data.indices))
        yield array if isinstance(array, np.ndarray) else whole_numbers(data.indices)
        yield from stored_parts(data.dataset, known)
    elif isinstance(data, (ConcatDataset, StackDataset)):
        inner = data.datasets.values() if isinstance(data.datasets, dict) else data.datasets
        for one in inner:
            yield from stored_parts(one, known)
    elif isinstance(data, TensorDataset):
        yield from data.tensors
    elif isinstance(data, ArrayDataset):
        yield from keys_and_leaves(data.tree)
    elif isinstance(data, (list, tuple)):
        yield len(data)
        step = max(len(data) // ITEMS, 1)
        yield from (leaf for one in data[::step] for leaf in keys_and_leaves(one))
        if step > 1:
            yield LEFT_OUT
    else:
        raise Unreadable(type(data).__name__)


LEFT_OUT = object()


def keys_and_leaves(tree: Tree) -> Iterable[Any]:
    """Yield the keys, arrays, numbers and texts in nested containers."""
    if isinstance(tree, Mapping):
        for key, one in tree.items():
            yield key
            yield from keys_and_leaves(one)
    elif isinstance(tree, (list, tuple)):
        for one in tree:
            yield from keys_and_leaves(one)
    else:
        yield tree


def size_of(part: Value) -> int:
    """Return the bytes of an array; 0 for anything else."""
    return part.nbytes if isinstance(part, (Tensor, np.ndarray)) else 0


class Fingerprint:
    """A checksum of parts whose total size is known.

    Args:
        total: the bytes of all arrays.
        mark: as :func:`contents` takes it.
    """

    def __init__(self, total: int, mark: Callable[[Any], Any]) -> None:
        self.mark = mark
        self.bytes, self.hash, self.left_out = total, hashlib.sha256(), False

    def add(self, part: Value) -> None:
        """Add an array, a number or a text."""
        if isinstance(part, np.ndarray) and part.dtype.kind in "biufc":
            own = part.astype(part.dtype.newbyteorder("="), copy=False)
            part = torch.from_numpy(np.ascontiguousarray(own))
        if part is LEFT_OUT:
            self.left_out = True
        elif isinstance(part, Tensor) and part.layout == torch.strided and not part.is_quantized:
            self.add_tensor(part.detach())
        elif isinstance(part, (str, bytes, int, float, bool, np.generic, type(None))):
            self.hash.update(f"{type(part).__name__} {part!r}".encode())
        else:
            raise Unreadable(type(part).__name__)

    def add_tensor(self, tensor: Tensor) -> None:
        """Add a tensor, whole or in blocks of rows."""
        self.hash.update(f"{list(tensor.shape)} {tensor.dtype}".encode())
        rows = tensor.reshape(1) if tensor.dim() == 0 else tensor
        if not rows.numel():
            return
        count = max(BLOCK // max(rows.nbytes // len(rows), 1), 1)
        blocks = -(-len(rows) // count)
        few = blocks
        if self.bytes > LIMIT:
            few = min(max(int(blocks * LIMIT / self.bytes), 2), blocks)
        for number in range(few):
            begin = (blocks - 1) * number // max(few - 1, 1) * count
            block = rows[begin:begin + count].cpu().resolve_conj().resolve_neg().contiguous()
            self.hash.update(self.mark(block.reshape(-1).view(torch.uint8).numpy().data))


def order_of(source: Source) -> dict[str, Any]:
    """Return the classes and options that decide in which batches and order data is read."""
    if not isinstance(source, DataLoader):
        return {"data": name_of(type(source))}
    dataset, kinds = source.dataset, [name_of(type(source.dataset))]
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
        kinds.append(name_of(type(dataset)))
    return {"data": name_of(type(source)), "dataset": " of ".join(kinds),
            "collate_fn": name_of(source.collate_fn), **sampler_options("sampler", source.sampler),
            **sampler_options("batch_sampler", source.batch_sampler)}


def sampler_options(argument: str, sampler: object) -> dict[str, Any]:
    """Return the kind and the options of a sampler."""
    found: dict[str, Any] = {argument: name_of(type(sampler))}
    for name in SAMPLING:
        if is_simple(value := getattr(sampler, name, None)) and value is not None:
            found[f"{argument}.{name}"] = value
    for name in ("weights", "indices"):
        value = getattr(sampler, name, None)
        if isinstance(value, (list, tuple, range, Tensor, np.ndarray)):
            found[f"{argument}.{name}"] = digest(np.asarray(value))
    return found
