"""Before a fork: what the other threads are doing."""

import ctypes
import subprocess
import sys
import threading
import time

import pytest
import torch

from torchkeras.distributed import fork_safety

pytestmark = pytest.mark.skipif(not fork_safety.TASKS.exists(), reason="needs Linux, whose /proc tells what threads do")


@pytest.fixture
def working():
    """A Python thread that computes without Python's lock, and a way to end it."""
    over = threading.Event()
    matrix = torch.rand(300, 300)

    def work():
        while not over.is_set():
            matrix @ matrix

    thread = threading.Thread(target=work)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.fixture
def foreign():
    """A thread that Python did not start, inside a call of Python, and a way to end it."""
    over, begun = threading.Event(), threading.Event()

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
    def call(_):
        begun.set()
        over.wait()

    posix, handle = ctypes.CDLL(None), ctypes.c_ulong()
    assert posix.pthread_create(ctypes.byref(handle), None, call, None) == 0
    begun.wait()
    yield
    over.set()
    posix.pthread_join(handle, None)


def seen_busy(times=50):
    found = 0
    for _ in range(times):
        found += fork_safety.busy()
        time.sleep(0.001)
    return found


AT_REST = """
import threading, time
from torchkeras.distributed import fork_safety
resting = threading.Event()
thread = threading.Thread(target=resting.wait)
thread.start()
seen = []
for _ in range(50):
    seen.append(fork_safety.busy())
    time.sleep(0.001)
resting.set()
print(sum(seen))
"""


def test_threads_at_rest_are_not_waited_for():
    # in a process of its own: whoever runs tests side by side has threads that Python does not know of
    done = subprocess.run([sys.executable, "-c", AT_REST], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 50


@pytest.mark.usefixtures("working")
def test_a_thread_that_computes_is_noticed_and_not_waited_for_long():
    assert seen_busy() > 10
    began = time.monotonic()
    fork_safety.wait_for_threads()
    assert time.monotonic() - began < fork_safety.LIMIT + 5


@pytest.mark.usefixtures("foreign")
def test_a_foreign_thread_inside_python_is_noticed():
    assert seen_busy() == 50


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="what is worked around was mended in Python 3.12")
def test_a_fork_waits_once_several_processes_are_at_work(tmp_path):
    program = ("import os\nfrom torchkeras.distributed import fork_safety as forking\n"
               "forking.wait_for_threads = lambda: print('waited', flush=True)\n"
               "forking.fork_quietly()\nforking.fork_quietly()\n"
               "if os.fork() == 0:\n    os._exit(0)\n"
               "os.wait()\n")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "waited\n"
