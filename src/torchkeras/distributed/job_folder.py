"""The folder in which ``fit_ddp`` and its processes exchange the job and its result.

The caller removes it. If the caller is killed, its processes do; if all are killed at once, the
next job does. The job's data is deleted as soon as all processes have it in memory.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from torchkeras.core import internals
from torchkeras.core.errors import bad_value
from torchkeras.core.types import Value

# names: of the folders, of the lock file that the caller holds, and of the file with the job
PREFIX, LOCK, JOB = "torchkeras-job-", "lock", "job"


@contextmanager
def job_folder() -> Iterator[Path]:
    """Create the folder of a job, and remove it at the end.

    Before that, remove folders that killed callers left behind.
    """
    from filelock import FileLock

    clear()
    made = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    with made as name, FileLock(Path(name) / LOCK):
        yield Path(name)


def clear() -> None:
    """Remove the folders of this user's jobs whose callers and processes are gone."""
    from filelock import FileLock

    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(Exception):  # a folder that cannot be removed does not affect a new job
            if is_own(left) and (left / JOB).exists():  # written when the lock was taken
                with FileLock(left / LOCK, timeout=0):
                    shutil.rmtree(left, ignore_errors=True)


def is_own(folder: Path) -> bool:
    """Return whether a job of this user created a folder: others use the temporary folder, too."""
    found, lock = os.lstat(folder), os.lstat(folder / LOCK)
    private = not hasattr(os, "getuid") or (
        found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077)
    return stat.S_ISDIR(found.st_mode) and private and stat.S_ISREG(lock.st_mode)


def tell_mapped(folder: Path, rank: int) -> None:
    """Record that the process of this rank has the job in memory."""
    (folder / f"mapped-{rank}").touch()


def let_go(folder: Path, world: int) -> bool:
    """Replace the file with the job by an empty one once all processes have it in memory.

    POSIX systems keep a mapped file until the last process unmaps it, even when its name is gone.
    Windows does not allow replacing it; there it is removed with the folder.

    Returns:
        Whether all processes have it.
    """
    if not all((folder / f"mapped-{rank}").exists() for rank in range(world)):
        return False
    with suppress(OSError):
        os.replace(folder / "mapped-0", folder / JOB)
    return True


def remove(folder: Path) -> None:
    """Remove the folder of a caller that has ended, in each of its processes."""
    with suppress(OSError):  # renamed, so that no other process can add a file to it
        folder.rename(folder.with_name(f"{folder.name}-{os.getpid()}"))
    for left in folder.parent.glob(f"{folder.name}*"):
        shutil.rmtree(left, ignore_errors=True)


def check_room(parts: Mapping[str, object], folder: Path) -> None:
    """Refuse data for which the disk has no room, before any of it is written."""
    needed, free = size_of(parts), shutil.disk_usage(folder).free
    if needed > free:
        raise bad_value(
            "TMPDIR",
            received=f"a temporary folder ({folder.parent}) with {free / 1e9:,.3f} GB free",
            expected=f"{needed / 1e9:,.3f} GB, for the data that the processes share",
            fix="Set the environment variable TMPDIR to a folder on a larger disk before Python "
                "starts, or start the script with torchrun, where each process reads the data "
                "itself.")


def size_of(parts: Mapping[str, object]) -> int:
    """Return how many bytes the parts take in a file; 0 where they cannot be pickled."""
    import cloudpickle

    storages: dict[int, int] = {}

    def persistent_id(pickler: Value, value: Value) -> str | None:
        """Leave storages out of the pickle, as :func:`torch.save` does."""
        if not (torch.is_storage(value) or isinstance(value, torch.storage.TypedStorage)):
            return None
        untyped = internals.untyped(value)
        storages[internals.storage_address(untyped)] = untyped.nbytes()
        return "storage"

    file = CountingFile()
    sizer: Any = type("Sizer", (cloudpickle.Pickler,), {"persistent_id": persistent_id})
    with suppress(Exception):
        sizer(file, protocol=cloudpickle.DEFAULT_PROTOCOL).dump(dict(parts))
        return file.size + sum(storages.values())
    return 0


class CountingFile:
    """A file that counts the bytes written to it, and keeps nothing."""

    size = 0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Count the bytes."""
        added = memoryview(data).nbytes
        self.size += added
        return added
