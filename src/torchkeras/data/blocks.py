"""Files of plain numbers with a checksum per block, so that damage is found when they are opened.

CRC-32 finds what disks and copies do to a file; it does not protect against malice, as whoever may
write the folder may write the checksums too. It reads 2.3 GB a second on one core, SHA-256 1.0 GB.
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
MOST = 64  # blocks that are read when a folder is opened: 4 GB, under two seconds from memory


def reserve(path: Path, size: int) -> None:
    """Create a file with disk space reserved for all its bytes.

    A full disk raises here; writing into mapped memory without disk space kills the process.

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
    """Return the CRC-32 of the next block of a file, read in pieces that fit the CPU's cache."""
    found, left = 0, BLOCK
    while left and (piece := file.read(min(PIECE, left))):
        found, left = zlib.crc32(piece, found), left - len(piece)
    return found


def are_checksums(found: object, sizes: list[int]) -> bool:
    """Return whether a value read from a file can be the checksums of files of these sizes."""
    return isinstance(found, list) and len(found) == len(sizes) and all(
        isinstance(one, list) and len(one) == -(-size // BLOCK)
        and all(type(crc) is int for crc in one)
        for one, size in zip(found, sizes, strict=True))


def damage(paths: list[Path], sizes: list[int], known: list[list[int]] | None) -> str:
    """Return what is wrong with files, in words; nothing if they are sound.

    Args:
        paths: the files.
        sizes: the bytes that each must have.
        known: the checksums of their blocks. Of more than 4 GB, evenly spaced blocks are read.
            None for a folder written without checksums: only sizes are compared.

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
                    begin = number * BLOCK
                    return f"{path.name} is damaged between bytes {begin} and {begin + BLOCK}"
    return ""
