"""Read samples that are expensive to read once, and train from memory afterwards."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from torchkeras.core import files, leftover
from torchkeras.core.errors import bad_type, bad_value, whole_number
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Batch, Data, Tree
from torchkeras.data.arrays import ArrayDataset
from torchkeras.data.blocks import are_checksums, checksums, damage, reserve
from torchkeras.data.fingerprint import digest
from torchkeras.data.kinds import check_samples, is_map_dataset

AT_ONCE = 64  # samples that are read together
LOOKED_AT = 8  # samples that are read twice, and by which a cache on disk is recognised
ABOUT = "cache.json"
ABOUT_LIMIT = 1 << 20  # bytes, for 6 TB of samples: Python's JSON takes up to 20 times the memory
Make = Callable[[int, torch.Size, torch.dtype], Tensor]


def cache(dataset: Data, folder: str | os.PathLike[str] | None = None, *,
          num_workers: int = 0) -> ArrayDataset:
    """Read a Dataset once, to train from memory: for samples that are slow to decode or resize.

    Batches of the result are fetched with one selection per tensor, many times faster than sample
    by sample. Cache before random transforms: whatever is drawn anew for every sample must stay
    outside.

    Args:
        dataset: Gives the same sample each time it is asked for it: tensors, arrays and numbers of
            equal shapes, in any nesting of tuples and dicts.
        folder: Where the samples are kept on disk, to be mapped into memory rather than read into
            it, and found again by the next run; created if missing. When it is opened, its files
            are checked for damage: their sizes, and checksums of up to 4 GB of them. None keeps the
            samples in memory.
        num_workers: Processes that read, as in a DataLoader.

    Returns:
        The samples as a Dataset, with the types that ``torch.utils.data.default_collate`` gives.

    Raises:
        TypeError: This is no Dataset of numbered samples, or a sample holds something that is no
            number.
        ValueError: A sample differs when it is read again, shapes differ between samples, or the
            folder holds something else, or is damaged.
        OSError: The disk has no room for the samples, or the folder cannot be written.

    Example:
        >>> class Squares(torch.utils.data.Dataset):
        ...     def __len__(self): return 5
        ...     def __getitem__(self, i): return torch.full((3,), i ** 2), i
        >>> squares = cache(Squares())
        >>> squares[2]
        (tensor([4, 4, 4]), tensor(2))
    """
    whole_number("num_workers", num_workers, least=0)
    if not is_map_dataset(dataset):
        raise bad_type("dataset", received=f"a {type(dataset).__name__}",
                       expected="a Dataset with __getitem__",
                       fix="A stream has no numbered samples: keep them in a list, or save them "
                           "yourself.")
    check_samples(dataset, "dataset")
    described = fingerprint_of(dataset)
    if folder is None:
        return ArrayDataset(read_all(dataset, num_workers,
                                   lambda _, shape, dtype: torch.empty(shape, dtype=dtype)))
    home = Path(folder).expanduser()
    if not os.path.lexists(home):
        write_cache(dataset, num_workers, home, described)
    return ArrayDataset(open_cache(dataset, home, described))


def fingerprint_of(dataset: Data) -> str:
    """Return a fingerprint of a few samples; raise if they differ when they are read again."""
    count = len(dataset)
    numbers = sorted({number * (count - 1) // (LOOKED_AT - 1) for number in range(LOOKED_AT)})
    first, again = ([digest(dataset[number]) for number in numbers] for _ in range(2))
    changed = [number for number, one, two in zip(numbers, first, again, strict=True) if one != two]
    if changed:
        raise bad_value("dataset",
                        received=f"samples that differ when they are read again: {changed}",
                        expected="the same sample each time",
                        fix="Cache what lies before the random transform, and transform what comes "
                            "from the cache.")
    return f"{count} samples, {digest(first)}"


def allocate(dataset: Data, make: Make) -> Tree:
    """Return nested tensors with room for all samples, made by ``make(number, shape, dtype)``."""
    one, numbers = collate([dataset[0]]), itertools.count()
    tensors_of(one)  # raises for leaves that are no tensors
    count = len(dataset)
    return map_tree(lambda part: make(next(numbers), torch.Size((count, *part.shape[1:])),
                                      part.dtype), one)


def read_all(dataset: Data, num_workers: int, make: Make) -> Tree:
    """Return all samples, read in order into the tensors that ``make`` gives."""
    tree, begin = allocate(dataset, make), 0
    leaves = tensors_of(tree)
    # a generator of its own, so that later batches have the order that they have without a cache
    loader = DataLoader(dataset, AT_ONCE, num_workers=num_workers, collate_fn=collate,
                        generator=torch.Generator())
    for batch in loader:
        parts = tensors_of(batch)
        end = begin + len(parts[0])
        kinds = [(one.shape[1:], one.dtype) for one in parts]
        if kinds != [(one.shape[1:], one.dtype) for one in leaves]:
            raise unequal_samples(f"samples {begin} to {end - 1} of other shapes or types than "
                                  "those before")
        for leaf, part in zip(leaves, parts, strict=True):
            leaf[begin:end] = part
        begin = end
    return tree


def collate(samples: list[Any]) -> Batch:
    """Collate samples to a batch, with tuples where torch's collate makes lists of them."""
    try:
        batch = default_collate(samples)
    except (RuntimeError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise unequal_samples(f"samples that do not join ({reason})") from error
    return tuple(batch) if type(batch) is list else batch


def unequal_samples(received: str) -> Exception:
    """Return the error for samples that cannot be rows of one tensor."""
    return bad_value("dataset", received=received,
                     expected="numbers in the same shapes in every sample",
                     fix="Pad or resize them in the Dataset, and leave out what is no number.")


def tensors_of(batch: Batch) -> list[Tensor]:
    """Return the tensors of a batch, in order; raise if it holds anything else."""
    found: list[Any] = []
    map_tree(found.append, batch)
    others = {type(one).__name__ for one in found if not isinstance(one, Tensor)}
    if others or not found:
        raise bad_type("dataset",
                       received=f"samples with {', '.join(sorted(others)) or 'nothing'} in them",
                       expected="tensors, arrays and numbers",
                       fix="Encode text as numbers, leave the rest out.")
    return found


def write_cache(dataset: Data, num_workers: int, home: Path, described: str) -> None:
    """Write a cache beside its place and move it there when it is complete."""
    leftover.remove_abandoned(home.parent, f"{home.name}.", ".tmp")
    draft = home.with_name(f"{home.name}.{leftover.owner_tag()}.tmp")
    paths: list[Path] = []

    def make(number: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        paths.append(file_of(draft, number))
        with files.name_in_errors(home):
            reserve(paths[-1], shape.numel() * dtype.itemsize)
        return map_file(paths[-1], shape, dtype, shared=True)

    try:
        with files.name_in_errors(home):
            draft.mkdir(parents=True)
        read_all(dataset, num_workers, make)
        with files.name_in_errors(home):
            about = {"of": described, "crc32": [checksums(path) for path in paths]}
            (draft / ABOUT).write_text(json.dumps(about))
            put_in_place(draft, home)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def put_in_place(draft: Path, home: Path) -> None:
    """Move a cache to its place, unless another process has put its own, equal one there."""
    try:
        files.replace(draft, home)
    except OSError:
        if not home.is_dir():
            raise


def file_of(home: Path, number: int) -> Path:
    """Return the path of a tensor's file."""
    return home / f"{number}.bin"


def map_file(path: Path, shape: torch.Size, dtype: torch.dtype, shared: bool) -> Tensor:
    """Return a file as a tensor; an empty one cannot be mapped and is made in memory."""
    if not shape.numel():
        return torch.empty(shape, dtype=dtype)
    return torch.from_file(str(path), shared=shared, size=shape.numel(), dtype=dtype).view(shape)


def open_cache(dataset: Data, home: Path, described: str) -> Tree:
    """Return the tensors of a cache on disk, checked for damage; writes to them stay in memory."""
    about = read_about(home)
    if (of := about.get("of")) != described:
        what = of[:200] if isinstance(of, str) else "something else"
        raise bad_value("folder", received=f"{home}, a cache of {what}",
                        expected=f"a cache of this dataset ({described})",
                        fix="Delete the folder, or choose another one.")
    # shapes come from the dataset, so that a damaged folder cannot ask for too much memory
    tree = allocate(dataset, lambda _, shape, dtype: torch.empty(shape, dtype=dtype, device="meta"))
    check_sound(home, [part.nbytes for part in tensors_of(tree)], about)
    numbers = itertools.count()
    return map_tree(lambda part: map_file(file_of(home, next(numbers)), part.shape, part.dtype,
                                           shared=False), tree)


def read_about(home: Path) -> dict[str, Any]:
    """Return the description in a cache's own file; nothing if there is none."""
    try:
        about = json.loads(files.read_small(home / ABOUT, ABOUT_LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def check_sound(home: Path, sizes: list[int], about: dict[str, Any]) -> None:
    """Raise if a cache's files are not those that were written; older ones only have sizes."""
    if "crc32" not in about:
        warnings.warn(f"the cache {home} was written without checksums, by an earlier version: "
                      "damage in it is not found. Delete the folder to have it written again.",
                      stacklevel=4)
    known = about.get("crc32")
    paths = [file_of(home, number) for number in range(len(sizes))]
    try:
        wrong = ("its list of checksums is damaged"
                 if "crc32" in about and not are_checksums(known, sizes)
                 else damage(paths, sizes, known))
    except OSError as error:
        wrong = f"{os.path.basename(error.filename or '')}: {error.strerror}"
    if wrong:
        raise bad_value("folder", received=f"{home}, a cache of this dataset in which {wrong}",
                        expected="the files as they were written",
                        fix="Delete the folder: the next run writes it again.")
