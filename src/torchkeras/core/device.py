"""Move models to devices, and describe devices."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from torchkeras.core import internals
from torchkeras.core.optimizers import Schedulers, each_of
from torchkeras.core.scaling import ScaledOptimizers
from torchkeras.core.tree import map_tree
from torchkeras.core.types import Leaf, OneOrMany

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def on_device(device: torch.device, net: nn.Module, *others: object,
              optimizers: Iterable[Optimizer] = ()) -> Iterator[None]:
    """Move net, loss, metrics and optimizer states to a device; move each back where it was.

    A module on several devices is left alone, and one that is there already.
    """
    movable = list({id(one): one for one in (net, *others) if isinstance(one, nn.Module)}.values())
    homes = [(one, home_of(one, device_of(net))) for one in movable
             if not is_spread(one) and not is_on(one, device)]
    moved, states = [one for one, _ in homes], list(optimizers)
    with current_device(device):
        try:
            for one in moved:
                one.to(device)
            move_states(states, moved)
            yield
        finally:
            for one, home in homes:
                if home is not None:
                    one.to(home)
            move_states(states, moved)


@contextmanager
def current_device(device: torch.device) -> Iterator[None]:
    """Let ``"cuda"`` without a number mean this device within."""
    if device.index is None or device.type not in ("cuda", "xpu"):
        yield
        return
    with torch.accelerator.device_index(device.index):
        yield


@contextmanager
def cache_freed(device: torch.device, net: nn.Module) -> Iterator[None]:
    """Give unused memory back to the system at the end, if the net is elsewhere outside of it.

    Otherwise the accelerator looks full to other programs although nothing is there.
    """
    home = device_of(net)
    try:
        yield
    finally:
        if device.type != "cpu" and home is not None and home.type != device.type:
            with suppress(RuntimeError):  # not every device can
                torch.accelerator.empty_cache()


def move_states(optimizers: Iterable[Optimizer], modules: Iterable[nn.Module]) -> None:
    """Move what optimizers remember of each parameter of some modules to where it is.

    Step counters stay on the CPU unless a ``fused`` or ``capturable`` optimizer reads them on the
    device: reading one there waits for the device, twice a parameter and step.
    """
    own = {id(weight) for module in modules for weight in module.parameters()}
    for optimizer in optimizers:
        counts_there = {id(weight) for group in optimizer.param_groups for weight in group["params"]
                        if group.get("fused") or group.get("capturable")}
        for weight, state in optimizer.state.items():
            if id(weight) in own and isinstance(state, dict):
                move_state(state, weight, step_too=id(weight) in counts_there)


def move_state(state: dict[str, Any], weight: Tensor, *, step_too: bool) -> None:
    """Move one parameter's state, nested lists of tensors too."""
    def move(leaf: Leaf) -> Leaf:
        return leaf.to(weight.device) if isinstance(leaf, Tensor) else leaf

    for name, value in state.items():
        if name != "step" or step_too:
            state[name] = map_tree(move, value)


def home_of(module: nn.Module, otherwise: torch.device | None) -> torch.device | None:
    """Return where a module is; a metric without parameters or buffers may tell its device."""
    home = device_of(module)
    if home is None:
        told = getattr(module, "device", None)
        home = told if isinstance(told, torch.device) else otherwise
    return home


def is_on(module: nn.Module, device: torch.device) -> bool:
    """Tell whether a module has its weights on a device."""
    home = device_of(module)
    return home is not None and is_same_device(home, device)


def is_spread(module: nn.Module) -> bool:
    """Tell whether a module is on several devices."""
    return len({value.device for value in (*module.parameters(), *module.buffers())}) > 1


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

    # accelerate would move step counters to the device, from which each step would read them
    wrapped = {key: accelerator.prepare_optimizer(one, device_placement=False)
               for key, one in each_of(optimizer).items()}
    of = {id(one.optimizer): one for one in wrapped.values()}
    first = next(iter(wrapped.values()))
    # split_batches keeps accelerate from stepping once for every process
    schedulers = {key: AcceleratedScheduler(one, of.get(id(getattr(one, "optimizer", None)), first),
                                            split_batches=True)
                  for key, one in each_of(lr_scheduler).items()}
    several = bool(schedulers) and None not in schedulers
    return (wrapped[None] if None in wrapped else ScaledOptimizers(wrapped),
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
