"""Limit what a file of tensors from an unknown source may hold, before it is parsed.

A name takes a few bytes in a file and a kilobyte of Python objects, and a pickle or an archive can
claim far more than it is long. So a file is first compared with the module that is to load it, and
refused if it holds more than that module can need.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Collection, Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import BinaryIO, NamedTuple, Protocol

from torch import nn
from torch.nn.parameter import is_lazy

from torchkeras.checkpoint.pickle_scan import Scan

MIN_NAMES = 10_000  # that any file may hold: 10 MB of Python objects
MIN_CONTAINERS = 200_000  # lists and dicts that any JSON may hold: 60 to 250 bytes each
MIB = 1 << 20
MAX_HEADER = 100_000_000  # bytes; safetensors itself reads no more
MIN_OBJECTS = 120_000  # that the pickles of any file may make
SPARE_BYTES = 200 << 20  # that the tensors of a file may claim beyond its size
LEGACY_PICKLES = 5  # in torch's old format: magic number, version, system, weights, their keys


class OpenedSafetensors(Protocol):
    """The part of ``safetensors.safe_open``'s result that is used here."""

    def keys(self) -> list[str]:
        """Return the names of the tensors."""


class LimitExceeded(ValueError):
    """A file holds more than the module that is to load it can need."""


class Limits(NamedTuple):
    """How much a file may hold, derived from the modules that are to load it.

    The defaults are for a file that no module is known for: a small one.

    Args:
        names: how many names of weights and of submodules the modules have.
        longest: the characters of the longest of them.
        times: how many tensors there may be for each name.
        size: the bytes of their parameters.
    """

    names: int = 0
    longest: int = 0
    times: int = 4
    size: int = 0

    @property
    def tensors(self) -> int:
        """Return how many tensors a file may hold."""
        return max(MIN_NAMES, self.times * self.names)

    @property
    def header(self) -> int:
        """Return how many bytes the list of tensors at the head of a safetensors file may have."""
        return min(MIB + self.tensors * (self.longest + 256), MAX_HEADER)

    @property
    def text(self) -> int:
        """Return how many bytes of JSON there may be; parsed, it takes up to 20 times as much."""
        return 8 * MIB + self.times * self.names * (self.longest + 128)

    @property
    def containers(self) -> int:
        """Return how many lists and dicts there may be in JSON."""
        return MIN_CONTAINERS + 8 * self.times * self.names

    def check(self, path: str | os.PathLike[str]) -> None:
        """Refuse a file that exceeds these limits; its first bytes tell its format."""
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
                scan = self.check_pickles(file.read(self.pickle + 1), LEGACY_PICKLES, size)
                if (claimed := sum(scan.storages.values())) > size:
                    raise LimitExceeded(f"claims {claimed} bytes of numbers, which are not in it")

    def check_size(self, file: BinaryIO) -> None:
        """Refuse a sparse file (with holes) that claims to be far larger than can be needed."""
        size = os.fstat(file.fileno()).st_size
        if size > (1 << 30) + 16 * self.size and hasattr(os, "SEEK_HOLE"):
            hole = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
            file.seek(0)
            if hole < size:
                raise LimitExceeded(
                    f"says it has {size} bytes, far more than can be needed, and has holes; "
                    "a copy that `cp -r --sparse=never` makes is read")

    def check_header(self, file: BinaryIO, text: int = 0) -> None:
        """Refuse a safetensors file whose list of tensors is too long.

        Args:
            file: the file, at its beginning.
            text: how many bytes its header may have beside the list.
        """
        length = int.from_bytes(file.read(8), "little")
        if length > (most := min(self.header + text, MAX_HEADER)):
            raise LimitExceeded(
                f"has a header of {length} bytes, and {most} are the most that can be needed")

    def names_in(self, file: OpenedSafetensors) -> list[str]:
        """Return the names of the tensors in an opened safetensors file; refuse too many.

        A name alone takes 0.3 kB once safetensors has read it; each tensor made of it takes 1 kB.
        """
        names = file.keys()
        self.check_names(names)
        return names

    def check_names(self, names: Collection[str]) -> None:
        """Refuse too many names of tensors."""
        listed = sum(map(len, names)) + 120 * len(names)
        if len(names) > self.tensors or listed > self.header:
            raise LimitExceeded(
                f"lists {len(names)} tensors, and {self.tensors} are the most that can be needed")

    def check_json(self, text: bytes) -> None:
        """Refuse JSON that is too long, or would become too many Python objects."""
        if len(text) > self.text:
            raise LimitExceeded(f"has {len(text)} bytes of JSON, and {self.text} are the most "
                                "that can be needed")
        if (found := text.count(b"[") + text.count(b"{")) > self.containers:
            raise LimitExceeded(f"has {found} lists and dicts, and {self.containers} are the most "
                                "that can be needed")

    def check_archive(self, file: BinaryIO) -> None:
        """Refuse a zip archive that is compressed, ambiguous, or whose pickle makes too much.

        Torch has a zip reader of its own, so the archive must read the same in every reader.
        """
        size = file.seek(0, os.SEEK_END)
        listed, count = zip_directory(file, size)
        if listed > self.header:
            raise LimitExceeded(f"has a directory of {listed} bytes, and {self.header} are the "
                                "most that can be needed")
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            unpacked = sum(one.file_size for one in members)
            if unpacked > size or not all(map(is_stored, members)):
                raise LimitExceeded(f"unpacks to {unpacked} bytes, and torch writes archives that "
                                    "are not compressed")
            check_members(members, count)
            root = members[0].filename.partition("/")[0]
            with archive.open(f"{root}/data.pkl") as packed:
                scan = self.check_pickles(packed.read(self.pickle + 1), 1, size)
        sizes = {one.filename: one.file_size for one in members}
        for key, claimed in scan.storages.items():
            if claimed > sizes.get(f"{root}/data/{key}", 0):
                raise LimitExceeded(f"claims {claimed} bytes of numbers under {key[:20]!r}, "
                                    "which are not in it")

    @property
    def pickle(self) -> int:
        """Return how many bytes of pickle there may be."""
        return 8 * MIB + self.times * self.names * (self.longest + 256)

    def check_pickles(self, begin: bytes, count: int, size: int) -> Scan:
        """Refuse pickles that would make too many objects, or objects that are not weights.

        Args:
            begin: the bytes that begin with the pickles: one more than pickles may have, at most.
            count: how many pickles.
            size: the bytes of the file.
        """
        scan = Scan(begin, MIN_OBJECTS + 16 * self.times * self.names)
        try:
            for _ in range(count):
                scan.read()
                if scan.made > scan.max_objects:
                    raise LimitExceeded(f"makes more than {scan.max_objects} objects, "
                                        "and no more can be needed")
        except Exception as error:  # bytes that are no pickle fail in many ways
            if isinstance(error, LimitExceeded):
                raise
            if len(begin) > self.pickle:
                raise LimitExceeded(f"holds a pickle of more than {self.pickle} bytes, "
                                    "and no more can be needed") from None
            if isinstance(error, UnpicklingError):
                raise
            raise UnpicklingError("no sound pickle") from None
        if scan.claimed > size + SPARE_BYTES:
            raise LimitExceeded(f"claims {scan.claimed} bytes of numbers, which are not in it")
        return scan


def limits_for(*modules: nn.Module, times: int = 4) -> Limits:
    """Return the limits of a file for some modules: ``times`` tensors for each of their names."""
    names = [name for module in modules for name in all_names(module)]
    size = sum(one.numel() * one.element_size() for module in modules
               for one in module.parameters() if not is_lazy(one))
    return Limits(len(names), max(map(len, names), default=0), times, size)


def all_names(module: nn.Module) -> Iterator[str]:
    """Yield the names of a module's parameters, buffers and submodules, shared ones repeatedly."""
    for every in (module.named_parameters(remove_duplicate=False),
                  module.named_buffers(remove_duplicate=False),
                  module.named_modules(remove_duplicate=False)):
        for name, _ in every:
            yield name


def is_stored(member: zipfile.ZipInfo) -> bool:
    """Return whether a member of a zip archive is neither compressed nor encrypted."""
    return (member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1
            and member.compress_size == member.file_size)


def zip_directory(file: BinaryIO, size: int) -> tuple[int, int]:
    """Return the size in bytes and the number of members of a zip archive's central directory.

    It must end where the records that point to it begin, and these must end the file: readers
    search for it in different ways.

    Format: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.14 to 4.3.16.
    """
    file.seek(max(size - 98, 0))
    end = file.read().rjust(98, b"\0")
    file.seek(0)
    mark, *short, comment = struct.unpack("<4s4H2IH", end[76:])
    place, found = size - 22, tuple(short)
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
    """Refuse member names that zip readers may confuse.

    Torch's reader ignores case, and looks at the first folder only.
    """
    names = [one.orig_filename for one in members]
    root = names[0].partition("/")[0] if names else ""
    if len(members) != count or min((one.header_offset for one in members), default=1):
        raise zipfile.BadZipFile("members that are not listed")
    if len({name.lower() for name in names}) < count or not all(
            name.startswith(f"{root}/") and name.isprintable() and "\\" not in name
            for name in names):
        raise zipfile.BadZipFile("ambiguous names")
    if f"{root}/data.pkl" not in names:
        raise zipfile.BadZipFile("no data.pkl")
