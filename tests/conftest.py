"""Each test leaves the process as it found it."""

import multiprocessing
import os
import signal
import threading
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
torch.set_num_threads(1)  # sums in the same order on every machine


def footprint() -> dict[str, object]:
    """What a test must not change."""
    return {
        "threads": {thread for thread in threading.enumerate() if not thread.daemon},
        "children": [child.pid for child in multiprocessing.active_children()],
        "environment": {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"},
        "Ctrl-C": signal.getsignal(signal.SIGINT),
        "folder": os.getcwd(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "files": sorted(os.listdir(ROOT)),
    }


# what a program sets on its own account the first time it is used: not a test's doing
IGNORED_VARIABLES = {"KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"}


def changes(before: dict[str, object], after: dict[str, object]) -> list[str]:
    """What differs between two footprints, in words."""
    def cleaned(value):
        return {k: v for k, v in value.items() if k not in IGNORED_VARIABLES} if isinstance(value, dict) else value

    return [f"{name}: {before[name]} became {after[name]}" for name in before
            if cleaned(before[name]) != cleaned(after[name])]


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Fails a test that leaves threads, children, variables, handlers, settings or files."""
    before = footprint()
    yield
    assert changes(before, footprint()) == []
