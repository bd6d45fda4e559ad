"""Freed memory is kept: the pages of one step are those of the next."""

import os
import platform
import subprocess
import sys

import pytest

from torchkeras.core import allocator

PROGRAM = """
import ctypes, resource
from torchkeras.core.allocator import keep_freed_memory
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes, library.memset.argtypes = (
    ctypes.c_void_p, [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t])
{}
def step():
    held = [library.malloc(2_000_000) for _ in range(8)]
    for one in held:
        library.memset(one, 1, 2_000_000)
    for one in held:
        library.free(one)

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(5):
    step()
before = pages()
for _ in range(20):
    step()
print((pages() - before) // 20)
"""


def pages_of_a_step(preparation, **variables):
    done = subprocess.run([sys.executable, "-c", PROGRAM.format(preparation)], capture_output=True, text=True,
                          check=True, env={**os.environ, **variables})
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs Linux with glibc, whose malloc it is about")
@pytest.mark.skipif(any(name in os.environ for name in allocator.CHOSEN), reason="needs malloc's variables unset")
def test_pages_are_not_cleared_anew_for_each_step():
    freed, kept = pages_of_a_step(""), pages_of_a_step("keep_freed_memory()")
    assert kept < freed / 3  # thousands, or a handful where the system uses huge pages
    assert pages_of_a_step("keep_freed_memory()", MALLOC_TOP_PAD_="0") > freed / 3  # its owner has chosen


@pytest.mark.parametrize("missing", [OSError, AttributeError])
def test_another_c_library_is_left_alone(missing, monkeypatch):
    def library(name):
        raise missing

    for name in allocator.CHOSEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(allocator.ctypes, "CDLL", library)
    allocator.keep_freed_memory.__wrapped__()
