"""Move models to devices, and describe devices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchkeras.core import internals
from torchkeras.core.optimizers import Optimizers, Schedulers, each_of
from torchkeras.core.types import OneOrMany

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def on_device(device: torch.device, net: nn.Module, *others: object,
              optimizers: Iterable[Optimizer] = ()) -> Iterator[None]:
    """Move net, loss, metrics and optimizer states to a device; move them back at the end."""
    home, states = device_of(net), list(optimizers)
    movable = [one for one in (net, *others) if isinstance(one, nn.Module)]
    if home is None or is_same_device(home, device):
        for one in movable[1:]:
            one.to(device)
        yield
        return
    move_to(movable, states, device)
    try:
        yield
    finally:
        move_to(movable, states, home)


def move_to(modules: list[nn.Module], optimizers: list[Optimizer], device: torch.device) -> None:
    """Move modules in place, and the states of optimizers."""
    for module in modules:
        module.to(device)
    for state in (state for optimizer in optimizers for state in optimizer.state.values()
                  if isinstance(state, dict)):
        for name, value in state.items():
            # step counters stay where the optimizer made them, usually on the CPU
            if isinstance(value, Tensor) and name != "step":
                state[name] = value.to(device)


def device_of(net: nn.Module) -> torch.device | None:
    """Return the device of a net; None without weights, or on several devices."""
    homes = {value.device for value in (*net.parameters(), *net.buffers())}
    return homes.pop() if len(homes) == 1 else None


def is_same_device(one: torch.device, other: torch.device) -> bool:
    """Tell whether two names mean one device: ``cuda`` is ``cuda:0``."""
    return one.type == other.type and (one.index or 0) == (other.index or 0)


def wrap_optimizers(accelerator: Accelerator, optimizer: OneOrMany,
                    lr_scheduler: OneOrMany) -> tuple[OneOrMany, OneOrMany]:
    """Wrap optimizer and scheduler for the accelerator's gradient scaler and accumulation."""
    from accelerate.scheduler import AcceleratedScheduler

    wrapped = {key: accelerator.prepare_optimizer(one) for key, one in each_of(optimizer).items()}
    of = {id(one.optimizer): one for one in wrapped.values()}
    first = next(iter(wrapped.values()))
    # split_batches keeps accelerate from stepping once for every process
    schedulers = {key: AcceleratedScheduler(one, of.get(id(getattr(one, "optimizer", None)), first),
                                            split_batches=True)
                  for key, one in each_of(lr_scheduler).items()}
    several = bool(schedulers) and None not in schedulers
    return (wrapped[None] if None in wrapped else Optimizers(wrapped),
            Schedulers(schedulers) if several else schedulers.get(None))


def set_microbatch(accelerator: Accelerator, divisor: float | Tensor, last: bool) -> None:
    """Set what a microbatch's loss is divided by, and whether the optimizer steps after it."""
    accelerator.gradient_accumulation_steps = divisor
    internals.set_sync_gradients(accelerator, last)


def set_accumulation_step(accelerator: Accelerator, done: int) -> None:
    """Set the counter by which ``accelerator.accumulate`` finds its windows.

    Otherwise it counts on across passes, and through validation.
    """
    accelerator.step = done


def force_sync(accelerator: Accelerator) -> None:
    """Let the optimizer step after this microbatch, since the pass has no further batch."""
    internals.set_sync_gradients(accelerator, True)
