"""Forks that do not hang: a pause before a process that talks to others starts a worker."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
from pathlib import Path

PAUSE = 0.001  # seconds for threads to do what they are about to do
LIMIT = 0.1  # seconds; a thread that works all the time is not waited for longer
TASKS = Path("/proc/self/task")  # the threads of this process, where the system tells


@functools.cache
def fork_quietly() -> None:
    """From now on, fork only while no other thread is about to register with Python.

    Threads of a process group do so to let go of a tensor, a moment after its message arrived. Before Python 3.12, a
    process forked in that moment inherits a lock that nobody opens, and hangs: a DataLoader's worker, for example
    (https://github.com/python/cpython/issues/112275).
    """
    if sys.version_info < (3, 12) and hasattr(os, "register_at_fork"):
        os.register_at_fork(before=wait_for_threads)


def wait_for_threads() -> None:
    """Until the threads that Python did not start are at rest."""
    end = time.monotonic() + LIMIT
    time.sleep(PAUSE)
    while busy() and time.monotonic() < end:
        time.sleep(PAUSE)


def busy() -> bool:
    """Whether another thread runs, or waits for Python's lock without being one of Python's."""
    known = {thread.ident for thread in threading.enumerate()}
    return not known.issuperset(sys._current_frames()) or any(
        is_running(task) for task in TASKS.glob("*") if task.name != str(threading.get_native_id()))


def is_running(task: Path) -> bool:
    """Whether a thread has work, on a processor or waiting for one."""
    try:
        return task.joinpath("stat").read_text().rpartition(") ")[2].startswith("R")
    except OSError:  # it has just ended
        return False
