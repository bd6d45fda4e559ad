"""Keep memory that one training step frees for the next step."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from contextlib import suppress

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
KEPT = 256 << 20  # bytes at the end of the heap that stay with the process when they are free
LARGEST = 32 << 20  # bytes of the largest block that the heap takes; glibc allows no more
CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")


@functools.cache
def keep_freed_memory() -> None:
    """Let this process keep the memory it frees: for training on a CPU with glibc.

    Each step of a net frees its activations, and the next one allocates as many. By default glibc
    returns them to the system in between, and the system zeroes every page again: up to half of a
    small CNN's time. Nothing changes where the user has set one of glibc's environment variables.
    """
    if not sys.platform.startswith("linux") or any(name in os.environ for name in CHOSEN):
        return
    with suppress(OSError, AttributeError):  # another C library
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018 - only glibc has it
        library.mallopt(M_MMAP_THRESHOLD, LARGEST)
        library.mallopt(M_TRIM_THRESHOLD, KEPT)
