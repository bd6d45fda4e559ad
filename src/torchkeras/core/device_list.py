"""List the devices that can train."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Device:
    """A device that can train: its kind, name and memory in GiB."""

    kind: str
    name: str
    memory_gib: float | None

    def __str__(self) -> str:
        memory = "" if self.memory_gib is None else f", {self.memory_gib:.1f} GiB"
        return f"{self.kind}: {self.name}{memory}"


def devices() -> list[Device]:
    """Return the devices that ``fit`` can train on, the CPU last.

    Returns:
        One :class:`Device` for each accelerator and one for the CPU, with its total memory in GiB
        (None where the system does not tell).

    Example:
        >>> [device.kind for device in devices()][-1]
        'cpu'
    """
    found = []
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        if kind is not None:
            found = [accelerator_device(kind.type, index)
                     for index in range(torch.accelerator.device_count())]
    return [*found, Device("cpu", cpu_name(), cpu_memory())]


def accelerator_device(kind: str, index: int) -> Device:
    """Return what torch says about one accelerator."""
    module = getattr(torch, kind, None)
    tell = getattr(module, "get_device_properties", None)
    about = tell(index) if tell is not None else None
    memory = getattr(about, "total_memory", None)
    gib = memory / 2**30 if memory else None
    return Device(f"{kind}:{index}", getattr(about, "name", kind), gib)


def cpu_name() -> str:
    """Return the name of the processor and the number of threads that torch uses."""
    import platform

    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def cpu_memory() -> float | None:
    """Return the size of main memory in GiB; None if the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return None
