"""Each test leaves the process as it found it."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from torchkeras.acceleration.autotuner import StepAutotuner

ROOT = Path(__file__).parents[1]
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the shell ignores it for what runs in the background
os.environ["TORCHKERAS_COMPILE_CACHE"] = "0"  # a test leaves nothing in the folder of the user's caches
torch.set_num_threads(1)  # sums in the same order on every machine

# what a library sets on its own account the first time it is used, and what tools keep beside the code
IGNORED_VARIABLES = {"PYTEST_CURRENT_TEST", "KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK", "TORCHINDUCTOR_CACHE_DIR",
                     "TRITON_CACHE_DIR", "_TORCHINDUCTOR_PYOBJECT_TENSOR_DATA_PTR", "PYTORCH_NVML_BASED_CUDA_CHECK"}
IGNORED_FILES = {".pytest_cache", ".ruff_cache", ".mypy_cache", "__pycache__"}


COMPILERS = ("ThreadPoolExecutor", "tqdm_monitor")  # threads that torch.compile keeps for the next time


def children() -> set[int]:
    """The processes that this one started, however; where the system does not tell, those of multiprocessing."""
    lists = [Path(f"/proc/self/task/{thread}/children") for thread in os.listdir("/proc/self/task")] if (
        os.path.isdir("/proc/self/task")) else []
    if lists and lists[0].exists():
        return {int(child) for one in lists if one.exists() for child in one.read_text().split()}
    return {child.pid for child in multiprocessing.active_children() if child.pid is not None}


def footprint() -> dict[str, object]:
    """What a test must not change."""
    return {
        "threads": {one for one in threading.enumerate() if not one.name.startswith(COMPILERS)},
        "children": children(),
        "environment": {name: value for name, value in os.environ.items() if name not in IGNORED_VARIABLES},
        "handlers": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)],
        "folder": os.getcwd(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "torch threads": torch.get_num_threads(),
        "files": {name for folder in {str(ROOT), os.getcwd()} for name in os.listdir(folder)} - IGNORED_FILES,
    }


def changes(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """What differs between two footprints, in words."""
    return [f"{name}: {before[name]} became {after[name]}" for name in before if before[name] != after[name]]


def lasting_changes(before: dict[str, object], patience: float = 1.0) -> list[str]:
    """What still differs after a while: threads and processes that were told to end take a moment to be gone."""
    end = time.monotonic() + patience
    while (found := changes(before, footprint())) and time.monotonic() < end:
        time.sleep(0.005)
    return found


# seconds that each way to run training steps takes by the clock of the tests: any that is tried is faster than before
PACES = {"plain steps": 2e-3, "channels last": 8e-4, "compiled net": 6e-4, "one graph a step": 4e-4,
         "8 steps a graph": 2e-4}


@pytest.fixture(scope="session")
def paces():
    """What each way takes; a test that changes it does so by monkeypatch."""
    return dict(PACES)


@pytest.fixture(scope="session")
def real_clock():
    """How fast mode reads the time outside of tests."""
    return StepAutotuner.__dict__["now"]


@pytest.fixture(autouse=True, scope="session")
def paced(paces, real_clock):
    """Fast mode chooses by a clock that goes by ``paces``, so that a busy machine makes no difference."""
    reading = [0.0]

    def now(tuner, step):
        reading[0] += paces[tuner.candidate.name] * max(tuner.in_window, 1)
        return reading[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepAutotuner, "now", now)
        yield


# the files that take longest: begun last, one of them would keep a worker at work after the other has ended
LONGEST = ("test_faults.py", "test_same_numbers.py", "test_launched.py", "test_benchmarks.py", "test_types.py",
           "test_shards.py", "test_fast.py", "test_live.py", "test_resumed_logs.py", "test_launchers.py",
           "test_collectives.py", "test_launch_ends.py", "test_readme.py", "test_mnist_cnn.py")


def pytest_collection_modifyitems(items):
    """Put the longest files first."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Fails a test that leaves threads, children, variables, handlers, settings or files."""
    before = footprint()
    yield
    assert lasting_changes(before) == []
