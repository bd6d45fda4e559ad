"""Files of plain numbers with a checksum for each block, so that damage is found when they are opened.

CRC-32 finds what disks and copies do to a file; it does not keep out somebody who means harm, as
whoever may write the folder may write the checksums too. It reads 2.3 GB a second on one core, where
SHA-256 reads 1.0.
"""

from __future__ import annotations

import os
import shutil
import zlib
from pathlib import Path
from typing import BinaryIO

from torchkeras.core.files import open_ordinary

BLOCK = 64 << 20  # bytes: the checksums of 1 TB take 180 kB of text
PIECE = 1 << 18  # bytes read at once
MOST = 64  # blocks looked at when a folder is opened: 4 GB, less than two seconds where in memory


def reserve(path: Path, size: int) -> None:
    """Make a file with room on the disk for all its bytes.

    A full disk says so here: to write into mapped memory that has no room behind it kills the process.

    Raises:
        OSError: there is no room.
    """
    with path.open("xb") as file:
        if hasattr(os, "posix_fallocate") and size:
            os.posix_fallocate(file.fileno(), 0, size)
        elif shutil.disk_usage(path.parent).free < size:
            raise OSError(28, "No space left on device", str(path))


def checksums(path: Path) -> list[int]:
    """Return the CRC-32 of each block of a file."""
    with open_ordinary(path) as file:
        count = -(-os.fstat(file.fileno()).st_size // BLOCK)
        return [checksum(file) for _ in range(count)]


def checksum(file: BinaryIO) -> int:
    """Return the CRC-32 of the next block of a file, read in pieces that a processor's cache holds."""
    found, left = 0, BLOCK
    while left and (piece := file.read(min(PIECE, left))):
        found, left = zlib.crc32(piece, found), left - len(piece)
    return found


def are_checksums(found: object, sizes: list[int]) -> bool:
    """Return whether something from a file can be the checksums of files of these sizes."""
    return isinstance(found, list) and len(found) == len(sizes) and all(
        isinstance(one, list) and len(one) == -(-size // BLOCK) and all(type(crc) is int for crc in one)
        for one, size in zip(found, sizes, strict=True))


def damage(paths: list[Path], sizes: list[int], known: list[list[int]] | None) -> str:
    """Return what is wrong with files, in words; nothing where they are sound.

    Args:
        paths: the files.
        sizes: the bytes that each must have.
        known: the checksums of their blocks. Of more than 4 GB blocks at even distances are looked at.
            None: of an older folder; sizes alone.

    Raises:
        OSError: a file is not there, or is a link or no ordinary file.
    """
    every = max(1, -(-sum(-(-size // BLOCK) for size in sizes) // MOST))
    count = 0
    for place, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        with open_ordinary(path) as file:
            if (there := os.fstat(file.fileno()).st_size) != size:
                return f"{path.name} has {there} bytes in place of {size}"
            for number, crc in enumerate([] if known is None else known[place]):
                count += 1
                file.seek(number * BLOCK)
                if count % every == 0 and checksum(file) != crc:
                    return f"{path.name} is damaged between bytes {number * BLOCK} and {number * BLOCK + BLOCK}"
    return ""
