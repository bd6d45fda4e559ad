"""Devices and precision: the only file that builds an Accelerator."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchkeras.core.allocator import keep_freed_memory
from torchkeras.core.errors import bad_value
from torchkeras.core.optimizers import Optimizers, Schedulers, each_of
from torchkeras.distributed.communicator import Alone
from torchkeras.distributed.rendezvous import meet
from torchkeras.distributed.restart import join_attempt

if TYPE_CHECKING:
    from accelerate import Accelerator


ONE_AT_A_TIME = threading.Lock()


def start(*, mixed_precision: str = "no", cpu: bool = False, accumulation: int = 1) -> Accelerator:
    """An Accelerator for one call of fit, evaluate or predict, on the best device there is."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # in a notebook, from what accelerate imports
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState, GradientState, PartialState

    # left to itself, accelerate takes processes that were launched without a device of theirs for lone ones
    cpu = cpu or (launched() and not has_device_for_each())
    if mixed_precision == "fp16" and (cpu or not torch.accelerator.is_available()):
        raise bad_value("mixed_precision", received="'fp16' on the CPU", expected="'no' or 'bf16' there",
                        fix="fp16 needs an accelerator.")
    if launched():
        meet(group_backend(cpu))
        join_attempt(group_backend(cpu))
    # accelerate keeps the first precision, device and accumulation of a process for good; a fresh dict for each
    # Accelerator leaves those that are still at work with the state they were made with
    with ONE_AT_A_TIME:
        for state in (AcceleratorState, GradientState, *(() if launched() else (PartialState,))):
            state._shared_state = type(state._shared_state)()
        accelerator = Accelerator(mixed_precision=mixed_precision, cpu=cpu, gradient_accumulation_steps=accumulation)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    return accelerator


def launched() -> bool:
    """Whether torchrun, accelerate or ``fit_ddp`` started this process as one of a job."""
    return "LOCAL_RANK" in os.environ


def group_backend(cpu: bool) -> str:
    """How the processes of a job talk on the devices that they compute on, as accelerate chooses it."""
    kind = None if cpu else torch.accelerator.current_accelerator()
    return {"cuda": "nccl", "xpu": "xccl"}.get("cpu" if kind is None else kind.type, "gloo")


def has_device_for_each() -> bool:
    """Whether the accelerators here are of a kind that several processes can share out; Apple's is one device."""
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return kind is not None and kind.type != "mps"


@contextmanager
def placed(device: torch.device, net: nn.Module, *others: Any, optimizers: Iterable[Any] = ()) -> Iterator[None]:
    """Net, loss, metrics and optimizer states on the device of the run; afterwards back where they were found."""
    home, states = device_of(net), list(optimizers)
    movable = [one for one in (net, *others) if isinstance(one, nn.Module)]
    if home is None or same(home, device):
        for one in movable[1:]:
            one.to(device)
        yield
        return
    move(movable, states, device)
    try:
        yield
    finally:
        move(movable, states, home)


def move(modules: list[nn.Module], optimizers: list[Any], device: torch.device) -> None:
    """Move modules in place, and the states of optimizers after them."""
    for module in modules:
        module.to(device)
    for state in (state for optimizer in optimizers for state in optimizer.state.values() if isinstance(state, dict)):
        for name, value in state.items():
            # torch keeps step counters where the optimizer made them, on the CPU as a rule
            if isinstance(value, Tensor) and name != "step":
                state[name] = value.to(device)


def device_of(net: nn.Module) -> torch.device | None:
    """Where a net lives; None for a net without weights, or spread over several devices, which is left alone."""
    homes = {value.device for value in (*net.parameters(), *net.buffers())}
    return homes.pop() if len(homes) == 1 else None


def same(one: torch.device, other: torch.device) -> bool:
    """Whether two names mean one device: ``cuda`` is ``cuda:0``."""
    return one.type == other.type and (one.index or 0) == (other.index or 0)


def wrap(accelerator: Accelerator, optimizer: Any, lr_scheduler: Any) -> tuple[Any, Any]:
    """Optimizer and scheduler that follow the accelerator: its scaler, its accumulation windows."""
    from accelerate.scheduler import AcceleratedScheduler

    wrapped = {key: accelerator.prepare_optimizer(one) for key, one in each_of(optimizer).items()}
    of = {id(one.optimizer): one for one in wrapped.values()}
    first = next(iter(wrapped.values()))
    # split_batches keeps accelerate from stepping once for every process
    schedulers = {key: AcceleratedScheduler(one, of.get(id(getattr(one, "optimizer", None)), first), split_batches=True)
                  for key, one in each_of(lr_scheduler).items()}
    return (wrapped[None] if None in wrapped else Optimizers(wrapped),
            schedulers.get(None) if not schedulers or None in schedulers else Schedulers(schedulers))


def micro_batch(accelerator: Accelerator, divisor: float | Tensor, last: bool) -> None:
    """Tell the step which part of an accumulation window it is: what to divide its loss by, and whether to update."""
    accelerator.gradient_accumulation_steps = divisor
    accelerator.gradient_state._set_sync_gradients(last)


def place_in_pass(accelerator: Accelerator, done: int) -> None:
    """Set the count by which ``accelerator.accumulate`` finds its windows, for loops that accumulate with it.

    Left alone it counts on through passes and through what is measured in between.
    """
    accelerator.step = done


def close_window(accelerator: Accelerator) -> None:
    """Let the step update, however short its window is: no batch follows in this pass."""
    accelerator.gradient_state._set_sync_gradients(True)


class InAStep:
    """The accelerator as a user's own step sees it in one of several processes: what it gathers is its own part.

    Parts are joined when a pass is over. Steps written to gather each batch would count everything once a process, and
    wait for ever where the processes have unequally many batches to measure.
    """

    def __init__(self, accelerator: Any) -> None:
        self.__dict__["accelerator"] = accelerator

    def gather(self, value: Any) -> Any:
        """The value itself."""
        return value

    def gather_for_metrics(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        """The value itself."""
        return value

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["accelerator"], name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.__dict__["accelerator"], name, value)


def same_weights(together: Alone, *modules: Any) -> None:
    """The weights and buffers of process 0 in every process."""
    for module in modules if together.world > 1 else ():
        for value in module.state_dict().values() if isinstance(module, nn.Module) else ():
            if isinstance(value, Tensor):
                torch.distributed.broadcast(value.detach(), src=0)


def same_buffers(together: Alone, *modules: nn.Module) -> None:
    """The buffers of process 0 in every process, such as the running means of BatchNorm or the centre of a loss."""
    for module in modules if together.world > 1 else ():
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer.detach(), src=0)


@dataclass(frozen=True)
class Device:
    """One device that can train: its kind, its name, and its memory in GiB."""

    kind: str
    name: str
    memory_gib: float | None

    def __str__(self) -> str:
        memory = "" if self.memory_gib is None else f", {self.memory_gib:.1f} GiB"
        return f"{self.kind}: {self.name}{memory}"


def devices() -> list[Device]:
    """See what ``fit`` can train on, the CPU last.

    Returns:
        One :class:`Device` for each accelerator and one for the CPU; memory is the whole of it, in GiB
        (None where the system does not tell).

    Example:
        >>> [device.kind for device in devices()][-1]
        'cpu'
    """
    found = []
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        if kind is not None:
            found = [accelerator_device(kind.type, index) for index in range(torch.accelerator.device_count())]
    return [*found, Device("cpu", cpu_name(), cpu_memory())]


def accelerator_device(kind: str, index: int) -> Device:
    """What torch tells about one accelerator."""
    module = getattr(torch, kind, None)
    tell = getattr(module, "get_device_properties", None)
    about = tell(index) if tell is not None else None
    memory = getattr(about, "total_memory", None)
    return Device(f"{kind}:{index}", getattr(about, "name", kind), memory / 2**30 if memory else None)


def cpu_name() -> str:
    """The processor and the threads that torch uses on it."""
    import platform

    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def cpu_memory() -> float | None:
    """Main memory in GiB."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return None
