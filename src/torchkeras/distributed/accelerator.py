"""Build the Accelerator: device, precision, and the process group of a launched job."""

from __future__ import annotations

import os
import threading
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from torchkeras.core import internals
from torchkeras.core.allocator import keep_freed_memory
from torchkeras.core.errors import bad_value
from torchkeras.core.rng import begin_generators
from torchkeras.distributed.rendezvous import meet
from torchkeras.distributed.restart import PATIENCE, join_attempt

if TYPE_CHECKING:
    from accelerate import Accelerator
    from accelerate.utils import AutocastKwargs

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
ONE_AT_A_TIME = threading.Lock()


def start_accelerator(*, mixed_precision: str = "no", cpu: bool = False, accumulation: int = 1,
                      home: torch.device | None = None) -> Accelerator:
    """Return an Accelerator for one call of fit, evaluate or predict, on the best device there is.

    In a launched job, form the process group first. Otherwise a net that is on one of several
    accelerators is computed there, not on the first.

    Args:
        mixed_precision: "no", "bf16" or "fp16".
        cpu: whether to use the CPU.
        accumulation: the batches of one update.
        home: where the net is; None: nowhere in particular.
    """
    with warnings.catch_warnings():
        # in a notebook, from a package that accelerate imports
        warnings.filterwarnings("ignore", "IProgress not found")
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, GradientState, PartialState
        from accelerate.utils import InitProcessGroupKwargs

    # without cpu=True, accelerate would not make launched processes without devices one job
    cpu = cpu or (launched() and not has_device_for_each())
    if mixed_precision == "fp16" and (cpu or not torch.accelerator.is_available()):
        raise bad_value("mixed_precision", received="'fp16' on the CPU",
                        expected="'no' or 'bf16' there", fix="fp16 needs an accelerator.")
    if launched():
        meet(group_backend(cpu))
        join_attempt(group_backend(cpu))
    # accelerate keeps the first precision, device and accumulation of a process for good; with a
    # fresh dict for each Accelerator, those in use keep the state that they were made with
    with ONE_AT_A_TIME:
        internals.renew_states(
            AcceleratorState, GradientState, *(() if launched() else (PartialState,)))
        accelerator = Accelerator(mixed_precision=mixed_precision, cpu=cpu,
                                  gradient_accumulation_steps=accumulation,
                                  kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    accelerator.autocast = partial(autocast, accelerator)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    elif not launched() and home is not None and home.type == accelerator.device.type:
        accelerator.state.device = home
    begin_generators(accelerator.device)
    return accelerator


def autocast(accelerator: Accelerator,
             autocast_handler: AutocastKwargs | None = None) -> AbstractContextManager[Any]:
    """Return the context in which an Accelerator computes in its precision.

    Up to 1.10, accelerate's own stays on after an error, so all that the process computes
    later would be rounded to bfloat16; and it takes the precision of the newest Accelerator, not
    its own, where several live.
    """
    dtype = DTYPES.get(accelerator.mixed_precision)
    handler = autocast_handler or accelerator.autocast_handler
    options = {} if handler is None else handler.to_kwargs()
    return nullcontext() if dtype is None else torch.autocast(
        accelerator.device.type, dtype=dtype, **options)


def launched() -> bool:
    """Return whether torchrun, accelerate or ``fit_ddp`` started this process as one of a job."""
    return "LOCAL_RANK" in os.environ


def group_backend(cpu: bool) -> str:
    """Return the backend of the process group for the devices in use, as accelerate chooses it."""
    kind = None if cpu else torch.accelerator.current_accelerator()
    return {"cuda": "nccl", "xpu": "xccl"}.get("cpu" if kind is None else kind.type, "gloo")


def has_device_for_each() -> bool:
    """Return whether each process can have its own accelerator; Apple's is a single device."""
    available = torch.accelerator.is_available()
    kind = torch.accelerator.current_accelerator() if available else None
    return kind is not None and kind.type != "mps"
