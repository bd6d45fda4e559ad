"""Each test here runs on the CPU, where that says something, and on a GPU where there is one."""

import gc
import os
import warnings

import pytest
import torch

if torch.cuda.is_available():  # cuBLAS asks for it before CUDA begins, to repeat its sums in order
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


# skip and not skipif: pytest then reports them in one line a file
MARKS = [] if torch.cuda.is_available() else [pytest.mark.skip(reason="needs a GPU")]
GPU = pytest.param("cuda", marks=MARKS)


@pytest.fixture(params=["cpu", GPU])
def device(request):
    """Both devices, one after the other."""
    return torch.device(request.param)


@pytest.fixture(params=[GPU])
def gpu(request):
    """The GPU alone, for what a CPU has not."""
    return torch.device(request.param)


@pytest.fixture
def deterministic():
    """Kernels that give the same bits each time, where torch has such."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*deterministic.*")
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(autouse=True)
def free_memory():
    """Gives back what a test has left to the garbage collector: the next one has all memory."""
    yield
    if torch.cuda.is_initialized():
        gc.collect()
        torch.cuda.empty_cache()
