"""Files of tensors that anybody may have made: what they hold is counted before it is parsed.

A name takes a few bytes in a file and a kilobyte of Python objects, and a pickle or an archive can
claim far more than it is long. So a file is first compared with what is to take it, and refused
where it holds more than that can need.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Collection
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO, NamedTuple

from torch import nn
from torch.nn.parameter import is_lazy

from torchkeras.checkpoint.pickle_scan import Scan

NAMES = 10_000  # that any file may hold: 10 MB of Python objects
CONTAINERS = 200_000  # lists and dicts that any JSON may hold: 60 to 250 bytes each
MIB = 1 << 20
HEADER = 100_000_000  # bytes, more than which safetensors itself does not read
OBJECTS = 120_000  # that the pickles of any file may make
SPARE = 200 << 20  # bytes that the tensors of a file may claim beyond its size
OLDER = 5  # pickles at the beginning of torch's older format: a mark, a version, a system, the weights, their keys


class TooMuch(ValueError):
    """A file holds more than what is to take it can need."""


class Limits(NamedTuple):
    """What a file may hold, from what is to take it; a file for nothing yet is taken to be a small one.

    Args:
        names: that the nets which are to take it have, of weights and of modules.
        longest: the characters of the longest of them.
        times: how many tensors there may be for each.
        size: the bytes of their parameters.
    """

    names: int = 0
    longest: int = 0
    times: int = 4
    size: int = 0

    @property
    def tensors(self) -> int:
        """How many tensors a file may hold."""
        return max(NAMES, self.times * self.names)

    @property
    def header(self) -> int:
        """How many bytes the list of tensors at the head of a safetensors file may have."""
        return min(MIB + self.tensors * (self.longest + 256), HEADER)

    @property
    def text(self) -> int:
        """How many bytes of JSON there may be; what Python makes of it takes up to twenty times as much."""
        return 8 * MIB + self.times * self.names * (self.longest + 128)

    @property
    def containers(self) -> int:
        """How many lists and dicts there may be in JSON."""
        return CONTAINERS + 8 * self.times * self.names

    def check(self, path: str | os.PathLike[str]) -> None:
        """Refuse a file that holds more than this, judged by its first bytes; of another kind, it passes."""
        with open(path, "rb") as file:
            self.check_size(file)
            start = file.read(4)
            file.seek(0)
            if Path(path).suffix == ".safetensors":
                self.check_header(file)
            elif start == b"PK\3\4":
                self.check_archive(file)
            else:
                size = os.fstat(file.fileno()).st_size
                scan = self.check_pickles(file.read(self.pickle + 1), OLDER, size)
                if (claimed := sum(scan.storages.values())) > size:
                    raise TooMuch(f"claims {claimed} bytes of numbers, which are not in it")

    def check_size(self, file: BinaryIO) -> None:
        """Refuse a file that is far larger than what can be needed of it, and has holes: it claims its size only."""
        size = os.fstat(file.fileno()).st_size
        if size > (1 << 30) + 16 * self.size and hasattr(os, "SEEK_HOLE"):
            hole = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
            file.seek(0)
            if hole < size:
                raise TooMuch(f"says it has {size} bytes, far more than can be needed, and has holes; a copy that "
                              "`cp -r --sparse=never` makes is read")

    def check_header(self, file: BinaryIO, text: int = 0) -> None:
        """Refuse a safetensors file with a longer list of tensors than this.

        Args:
            file: the file, at its beginning.
            text: how many bytes its header may have beside the list.
        """
        length = int.from_bytes(file.read(8), "little")
        if length > (most := min(self.header + text, HEADER)):
            raise TooMuch(f"has a header of {length} bytes, and {most} are the most that can be needed")

    def names_in(self, file: Any) -> list[str]:
        """Return the names of the tensors in a safetensors file that was opened; refuse more than this.

        A name alone takes 0.3 kB once safetensors has read it; each tensor that is made of one takes 1 kB.
        """
        names: list[str] = file.keys()
        self.check_names(names)
        return names

    def check_names(self, names: Collection[str]) -> None:
        """Refuse more names of tensors than this."""
        if len(names) > self.tensors or sum(map(len, names)) + 120 * len(names) > self.header:
            raise TooMuch(f"lists {len(names)} tensors, and {self.tensors} are the most that can be needed")

    def check_json(self, text: bytes) -> None:
        """Refuse JSON that Python would make too much of."""
        if len(text) > self.text:
            raise TooMuch(f"has {len(text)} bytes of JSON, and {self.text} are the most that can be needed")
        if (found := text.count(b"[") + text.count(b"{")) > self.containers:
            raise TooMuch(f"has {found} lists and dicts, and {self.containers} are the most that can be needed")

    def check_archive(self, file: BinaryIO) -> None:
        """Refuse a zip archive that is larger unpacked than it is, or whose pickle is too much.

        Torch reads it with a reader of its own, so there must be one way only to read it.
        """
        size = file.seek(0, os.SEEK_END)
        listed, count = directory_of(file, size)
        if listed > self.header:
            raise TooMuch(f"has a directory of {listed} bytes, and {self.header} are the most that can be needed")
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            unpacked = sum(one.file_size for one in members)
            if unpacked > size or any(one.compress_type != zipfile.ZIP_STORED or one.compress_size != one.file_size
                                      or one.flag_bits & 1 for one in members):
                raise TooMuch(f"unpacks to {unpacked} bytes, and torch writes archives that are not compressed")
            check_members(members, count)
            root = members[0].filename.partition("/")[0]
            with archive.open(f"{root}/data.pkl") as packed:
                scan = self.check_pickles(packed.read(self.pickle + 1), 1, size)
        sizes = {one.filename: one.file_size for one in members}
        for key, claimed in scan.storages.items():
            if claimed > sizes.get(f"{root}/data/{key}", 0):
                raise TooMuch(f"claims {claimed} bytes of numbers under {key[:20]!r}, which are not in it")

    @property
    def pickle(self) -> int:
        """How many bytes of pickle there may be."""
        return 8 * MIB + self.times * self.names * (self.longest + 256)

    def check_pickles(self, begin: bytes, count: int, size: int) -> Scan:
        """Refuse pickles that would make too much of what they hold, or what is no part of weights.

        Args:
            begin: the bytes that they are at the beginning of, no more of them than may be pickles, and one.
            count: how many pickles.
            size: the bytes of the file.
        """
        scan = Scan(begin, OBJECTS + 16 * self.times * self.names)
        try:
            for _ in range(count):
                scan.read()
                if scan.made > scan.most:
                    raise TooMuch(f"makes more than {scan.most} objects, and no more can be needed")
        except Exception as error:  # bytes that are no pickle fail in many ways
            if isinstance(error, TooMuch):
                raise
            if len(begin) > self.pickle:
                raise TooMuch(f"holds a pickle of more than {self.pickle} bytes, and no more can be needed") from None
            if isinstance(error, UnpicklingError):
                raise
            raise UnpicklingError("no sound pickle") from None
        if scan.claimed > size + SPARE:
            raise TooMuch(f"claims {scan.claimed} bytes of numbers, which are not in it")
        return scan


def limits_for(*modules: nn.Module, times: int = 4) -> Limits:
    """Return what a file for some nets may hold: so many times their names."""
    names = [name for module in modules for every in (module.named_parameters(remove_duplicate=False),
             module.named_buffers(remove_duplicate=False), module.named_modules(remove_duplicate=False))
             for name, _ in every]
    size = sum(one.numel() * one.element_size() for module in modules for one in module.parameters()
               if not is_lazy(one))
    return Limits(len(names), max(map(len, names), default=0), times, size)


def directory_of(file: BinaryIO, size: int) -> tuple[int, int]:
    """Return how many bytes and members the list at the end of a zip archive has.

    It must lie right before the records that say where it is, and these at the end: readers look for it in many ways.

    Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.14 to 4.3.16.
    """
    file.seek(max(size - 98, 0))
    end = file.read().rjust(98, b"\0")
    file.seek(0)
    mark, disk, disk_of, here, count, listed, begin, comment = struct.unpack("<4s4H2IH", end[76:])
    place, found = size - 22, (disk, disk_of, here, count, listed, begin)
    if mark != b"PK\5\6" or comment:
        raise zipfile.BadZipFile("no directory at its end")
    if end[56:60] == b"PK\6\7":
        where, = struct.unpack("<Q", end[64:72])
        wide = struct.unpack("<4sQ2H2I4Q", end[:56])
        place = size - 98
        if wide[:2] != (b"PK\6\6", 44) or where != place or any(
                few not in (many, most) for few, many, most in zip(
                    found, wide[4:], (0xFFFF,) * 4 + (0xFFFFFFFF,) * 2, strict=True)):
            raise zipfile.BadZipFile("two directories")
        found = wide[4:]
    disk, disk_of, here, count, listed, begin = found
    if disk or disk_of or here != count or begin + listed != place:
        raise zipfile.BadZipFile("a directory that is not at its end")
    return listed, count


def check_members(members: list[zipfile.ZipInfo], count: int) -> None:
    """Refuse names that readers may take for one another: torch's looks at no case, and at the first folder only."""
    names = [one.orig_filename for one in members]
    root = names[0].partition("/")[0] if names else ""
    if len(members) != count or min((one.header_offset for one in members), default=1):
        raise zipfile.BadZipFile("members that are not listed")
    if len({name.lower() for name in names}) < count or not all(
            name.startswith(f"{root}/") and name.isprintable() and "\\" not in name for name in names):
        raise zipfile.BadZipFile("names that stand for others")
    if f"{root}/data.pkl" not in names:
        raise zipfile.BadZipFile("no data.pkl")
