"""The folder by which ``fit_ddp`` and its processes send each other what they need.

Its caller removes it. Where the caller is killed its processes do, and where all are killed in the
same moment the next job does. The data in it are let go of as soon as all processes have them in memory.
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

from torchkeras.core.errors import bad_value

# of folders, of the file in each that its caller holds, and of what the processes are sent
PREFIX, LOCK, JOB = "torchkeras-job-", "lock", "job"


@contextmanager
def job_folder() -> Iterator[Path]:
    """Make a folder for what the processes are sent and send back; remove it at the end.

    Those that killed callers left go first.
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
        with suppress(Exception):  # whatever it is, a new job can do without its being gone
            if is_own(left) and (left / JOB).exists():  # written when the lock was taken
                with FileLock(left / LOCK, timeout=0):
                    shutil.rmtree(left, ignore_errors=True)


def is_own(folder: Path) -> bool:
    """Return whether a folder is one that a job of this user made.

    Others may write to the folder for temporary files, too.
    """
    found, lock = os.lstat(folder), os.lstat(folder / LOCK)
    private = not hasattr(os, "getuid") or (
        found.st_uid == os.getuid() and not stat.S_IMODE(found.st_mode) & 0o077)
    return stat.S_ISDIR(found.st_mode) and private and stat.S_ISREG(lock.st_mode)


def tell_mapped(folder: Path, rank: int) -> None:
    """Say, in a process, that it has what it was sent."""
    (folder / f"mapped-{rank}").touch()


def let_go(folder: Path, world: int) -> bool:
    """Let go of what the processes were sent, once all have it; an empty file takes its place.

    Systems with POSIX's files keep what is mapped until the last process ends, whatever has become
    of its name. Windows lets nobody replace it; there it goes with the folder.
    """
    if not all((folder / f"mapped-{rank}").exists() for rank in range(world)):
        return False
    with suppress(OSError):
        os.replace(folder / "mapped-0", folder / JOB)
    return True


def remove(folder: Path) -> None:
    """Remove the folder of a caller that is gone, in each of its processes."""
    with suppress(OSError):  # under another name, nobody can put a new file into it by the old one
        folder.rename(folder.with_name(f"{folder.name}-{os.getpid()}"))
    for left in folder.parent.glob(f"{folder.name}*"):
        shutil.rmtree(left, ignore_errors=True)


def check_room(parts: Mapping[str, Any], folder: Path) -> None:
    """Refuse data for which the folder has no room, before any of it is written."""
    needed, free = size_of(parts), shutil.disk_usage(folder).free
    if needed > free:
        raise bad_value(
            "TMPDIR",
            received=f"a temporary folder ({folder.parent}) with {free / 1e9:,.3f} GB free",
            expected=f"{needed / 1e9:,.3f} GB, for the data that the processes share",
            fix="Set the environment variable TMPDIR to a folder on a larger disk before Python "
                "starts, or start the script with torchrun, where each process reads the data itself.")


def size_of(parts: Mapping[str, Any]) -> int:
    """Return how many bytes the parts take in a file; 0 where they cannot be sent at all."""
    import cloudpickle

    storages: dict[int, int] = {}
    counted = Counted()

    class Sizer(cloudpickle.Pickler):
        """Leaves out the numbers of tensors, as :func:`torch.save` does."""

        def persistent_id(self, value: Any) -> Any:
            if not (torch.is_storage(value) or isinstance(value, torch.storage.TypedStorage)):
                return None
            untyped = getattr(value, "_untyped_storage", value)
            storages[untyped._cdata] = untyped.nbytes()
            return "storage"

    with suppress(Exception):
        Sizer(counted, protocol=cloudpickle.DEFAULT_PROTOCOL).dump(dict(parts))
        return counted.bytes + sum(storages.values())
    return 0


class Counted:
    """A file that counts what is written to it, and keeps nothing."""

    bytes = 0

    def write(self, data: Any) -> int:
        """Count."""
        size = memoryview(data).nbytes
        self.bytes += size
        return size
