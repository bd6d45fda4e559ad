"""Keep forks from hanging: pause before a process of a process group forks a worker."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from pathlib import Path

PAUSE = 0.001  # seconds for other threads to finish
LIMIT = 0.1  # seconds to wait at most, since some threads never rest
TASKS = Path("/proc/self/task")  # the threads of this process, on Linux


@functools.cache
def fork_quietly() -> None:
    """Make every later ``os.fork`` wait until no other thread is about to register with Python.

    Threads of a process group do so to release a tensor, a moment after its message arrived. Before
    Python 3.12, a process forked in that moment inherits a locked lock and hangs, such as a worker
    of a DataLoader (https://github.com/python/cpython/issues/112275).
    """
    if sys.version_info < (3, 12) and hasattr(os, "register_at_fork"):
        os.register_at_fork(before=wait_for_threads)


def wait_for_threads() -> None:
    """Wait until the threads that Python did not start are at rest, for ``LIMIT`` at most."""
    end = time.monotonic() + LIMIT
    time.sleep(PAUSE)
    while busy() and time.monotonic() < end:
        time.sleep(PAUSE)


def busy() -> bool:
    """Return whether another thread runs, or a foreign thread waits for Python's lock."""
    known = {thread.ident for thread in threading.enumerate()}
    return not known.issuperset(sys._current_frames()) or any(
        is_running(task) for task in TASKS.glob("*") if task.name != str(threading.get_native_id()))


def is_running(task: Path) -> bool:
    """Return whether a thread is running or ready to run."""
    try:
        return task.joinpath("stat").read_text().rpartition(") ")[2].startswith("R")
    except OSError:  # it has just ended
        return False
