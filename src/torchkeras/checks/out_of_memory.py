"""Say what helps when memory runs out; surviving it is left to whoever calls again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torchkeras.data import Batches

# MPS, cuBLAS and the CPU have no error type of their own for it
SIGNS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
         "not enough memory", "can't allocate memory")


@contextmanager
def memory_explained(run: Any, *data: Batches | None) -> Iterator[None]:
    """Give data that lives on the device back if its memory runs out, and note what needs less.

    Args:
        run: gives the device, and the options in use.
        data: the batches of the run.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            given_back = [one.give_back() for one in data if one is not None]
            note = advice(run, data[0], given_back=any(given_back))
            if not any("ran out of memory" in one for one in getattr(error, "__notes__", ())):
                error.add_note(note)
        raise


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that a device, or main memory, has no room left."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS))


def advice(run: Any, data: Batches | None, *, given_back: bool) -> str:
    """Return one sentence on the peak, the batch, and what needs less."""
    peak, size = peak_of(run.accelerator.device), getattr(data, "batch_size", None)
    found = f"{run.device} ran out of memory"
    found += "" if peak is None else f" at a peak of {peak / 2**30:.1f} GiB"
    found += f" with batch_size={size}" if isinstance(size, int) else ""
    found += (", and the copy of the data there was given back" if given_back else "")
    less = ["a smaller batch_size"]
    if run.objects.optimizer is not None:
        less[0] += " (with gradient_accumulation_steps, updates stay those of the larger batch)"
    if run.config.mixed_precision == "no":
        less.append("mixed_precision=\"bf16\"")
    return f"{found}: {' or '.join(less)} needs less."


def peak_of(device: torch.device) -> int | None:
    """Return the most bytes that tensors took on a device; None where it does not count."""
    if device.type == "cpu":
        return None
    try:
        return int(torch.accelerator.max_memory_allocated(device))
    except Exception:  # torch's error differs between devices and releases
        return None
