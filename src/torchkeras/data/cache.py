"""Samples that are dear to read, read once."""

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
from torchkeras.data.arrays import ArrayDataset
from torchkeras.data.blocks import are_checksums, checksums, damage, reserve
from torchkeras.data.fingerprint import digest
from torchkeras.data.kinds import check_samples, is_map_dataset

AT_ONCE = 64  # samples that are read together
LOOKED_AT = 8  # samples that are read twice, and by which a cache on disk is recognised
ABOUT, ABOUT_LIMIT = "cache.json", 1 << 20  # bytes, for 6 TB: what Python makes of JSON takes up to 20 times as much
Make = Callable[[int, torch.Size, torch.dtype], Tensor]


def cache(dataset: Any, folder: str | os.PathLike[str] | None = None, *, num_workers: int = 0) -> ArrayDataset:
    """Read a Dataset once and train from memory afterwards: for samples that are decoded, parsed or resized each time.

    Batches of what comes back are fetched with one selection a tensor, many times faster than sample by sample. Cache
    before random transforms: what is drawn anew for every sample must stay outside.

    Args:
        dataset: Gives the same sample each time it is asked for it: tensors, arrays and numbers of equal shapes, in
            any nesting of tuples and dicts.
        folder: Where the samples are kept on disk, to be mapped into memory rather than read into it, and found again
            by the next run; made when it is not there. Its files are looked at for damage when it is opened: their
            sizes, and checksums of up to 4 GB of them. None keeps them in memory.
        num_workers: Processes that read, as in a DataLoader.

    Returns:
        The samples as a Dataset, with the types that ``torch.utils.data.default_collate`` gives.

    Raises:
        TypeError: This is no Dataset of numbered samples, or a sample holds something that is no number.
        ValueError: A sample differs when it is read again, shapes differ between samples, or the folder holds
            something else, or is damaged.
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
        raise bad_type("dataset", received=f"a {type(dataset).__name__}", expected="a Dataset with __getitem__",
                       fix="A stream has no numbered samples: keep them in a list, or save them yourself.")
    check_samples(dataset, "dataset")
    told = recognised(dataset)
    if folder is None:
        return ArrayDataset(filled(dataset, num_workers, lambda number, shape, dtype: torch.empty(shape, dtype=dtype)))
    home = Path(folder).expanduser()
    if not os.path.lexists(home):
        written(dataset, num_workers, home, told)
    return ArrayDataset(mapped(dataset, home, told))


def recognised(dataset: Any) -> str:
    """The fingerprint of a few samples, each of which is read twice."""
    count = len(dataset)
    numbers = sorted({number * (count - 1) // (LOOKED_AT - 1) for number in range(LOOKED_AT)})
    first, again = ([digest(dataset[number]) for number in numbers] for _ in range(2))
    changed = [number for number, one, two in zip(numbers, first, again, strict=True) if one != two]
    if changed:
        raise bad_value("dataset", received=f"samples that differ when they are read again: {changed}",
                        expected="the same sample each time",
                        fix="Cache what lies before the random transform, and transform what comes from the cache.")
    return f"{count} samples, {digest(first)}"


def rows_for(dataset: Any, make: Make) -> Any:
    """The nested tensors that all samples go into: what ``make`` gives for the number, shape and type of each."""
    one, numbers = joined([dataset[0]]), itertools.count()
    leaves_of(one)  # complains of what is none
    return map_tree(lambda part: make(next(numbers), torch.Size((len(dataset), *part.shape[1:])), part.dtype), one)


def filled(dataset: Any, num_workers: int, make: Make) -> Any:
    """All samples, read in order."""
    tree, begin = rows_for(dataset, make), 0
    leaves = leaves_of(tree)
    # a generator of its own: the order of later batches is what it is without a cache
    for batch in DataLoader(dataset, AT_ONCE, num_workers=num_workers, collate_fn=joined, generator=torch.Generator()):
        parts = leaves_of(batch)
        end = begin + len(parts[0])
        if [(one.shape[1:], one.dtype) for one in parts] != [(one.shape[1:], one.dtype) for one in leaves]:
            raise unequal(f"samples {begin} to {end - 1} of other shapes or types than those before")
        for leaf, part in zip(leaves, parts, strict=True):
            leaf[begin:end] = part
        begin = end
    return tree


def joined(samples: list[Any]) -> Any:
    """Samples as one batch, with tuples where torch's collate makes lists of them."""
    try:
        batch = default_collate(samples)
    except (RuntimeError, TypeError, KeyError) as error:
        raise unequal(f"samples that do not join ({' '.join(str(error).split())[:160]})") from error
    return tuple(batch) if type(batch) is list else batch


def unequal(received: str) -> Exception:
    """What is said of samples that cannot be rows of one tensor."""
    return bad_value("dataset", received=received, expected="numbers in the same shapes in every sample",
                     fix="Pad or resize them in the Dataset, and leave out what is no number.")


def leaves_of(batch: Any) -> list[Tensor]:
    """The tensors of a batch, in order."""
    found: list[Any] = []
    map_tree(found.append, batch)
    others = {type(one).__name__ for one in found if not isinstance(one, Tensor)}
    if others or not found:
        raise bad_type("dataset", received=f"samples with {', '.join(sorted(others)) or 'nothing'} in them",
                       expected="tensors, arrays and numbers", fix="Encode text as numbers, leave the rest out.")
    return found


def written(dataset: Any, num_workers: int, home: Path, told: str) -> None:
    """Write a cache beside its place and move it there when it is whole."""
    leftover.clear(home.parent, f"{home.name}.", ".tmp")
    draft = home.with_name(f"{home.name}.{leftover.owned()}.tmp")
    paths: list[Path] = []

    def make(number: int, shape: torch.Size, dtype: torch.dtype) -> Tensor:
        paths.append(file_of(draft, number))
        with files.naming(home):
            reserve(paths[-1], shape.numel() * dtype.itemsize)
        return from_file(paths[-1], shape, dtype, shared=True)

    try:
        with files.naming(home):
            draft.mkdir(parents=True)
        filled(dataset, num_workers, make)
        with files.naming(home):
            about = {"of": told, "crc32": [checksums(path) for path in paths]}
            (draft / ABOUT).write_text(json.dumps(about))
            put_in_place(draft, home)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def put_in_place(draft: Path, home: Path) -> None:
    """Move a cache to its place; where another process was first, its cache is as good."""
    try:
        files.replace(draft, home)
    except OSError:
        if not home.is_dir():
            raise


def file_of(home: Path, number: int) -> Path:
    """Return the name of the file of a tensor."""
    return home / f"{number}.bin"


def from_file(path: Path, shape: torch.Size, dtype: torch.dtype, shared: bool) -> Tensor:
    """Return a file as a tensor; no memory can be mapped to none."""
    if not shape.numel():
        return torch.empty(shape, dtype=dtype)
    return torch.from_file(str(path), shared=shared, size=shape.numel(), dtype=dtype).view(shape)


def mapped(dataset: Any, home: Path, told: str) -> Any:
    """The tensors of a cache on disk, looked at for damage; what a net writes into them stays in memory."""
    about = known_of(home)
    if (of := about.get("of")) != told:
        what = f"a cache of {of[:200]}" if isinstance(of, str) else "a cache of something else"
        raise bad_value("folder", received=f"{home}, {what}", expected=f"a cache of this dataset ({told})",
                        fix="Delete the folder, or choose another one.")
    # the shapes come from the dataset: nothing in the folder says how much memory is asked for
    tree = rows_for(dataset, lambda _, shape, dtype: torch.empty(shape, dtype=dtype, device="meta"))
    check_sound(home, [part.nbytes for part in leaves_of(tree)], about)
    numbers = itertools.count()
    return map_tree(lambda part: from_file(file_of(home, next(numbers)), part.shape, part.dtype, shared=False), tree)


def known_of(home: Path) -> dict[str, Any]:
    """Return what a cache says of itself; nothing where it is none."""
    try:
        about = json.loads(files.read_small(home / ABOUT, ABOUT_LIMIT))
    except (OSError, ValueError, RecursionError):
        return {}
    return about if isinstance(about, dict) else {}


def check_sound(home: Path, sizes: list[int], about: dict[str, Any]) -> None:
    """Refuse a cache whose files are not those that were written; of an older one only sizes are known."""
    if "crc32" not in about:
        warnings.warn(f"the cache {home} was written without checksums, by an earlier version: damage in it is not "
                      "found. Delete the folder to have it written again.", stacklevel=4)
    known = about.get("crc32")
    try:
        wrong = ("its list of checksums is damaged" if "crc32" in about and not are_checksums(known, sizes) else
                 damage([file_of(home, number) for number in range(len(sizes))], sizes, known))
    except OSError as error:
        wrong = f"{os.path.basename(error.filename or '')}: {error.strerror}"
    if wrong:
        raise bad_value("folder", received=f"{home}, a cache of this dataset in which {wrong}",
                        expected="the files as they were written",
                        fix="Delete the folder: the next run writes it again.")
