"""Connect the processes that ``fit_ddp`` started with each other, and with nobody else.

They meet by a file in the job's folder, which only their user can read, and communicate over the
loopback device, which no other machine reaches. gloo accepts whoever connects first and sends a
small number as the process that it waits for, and messages between processes are unpickled. So once
all are connected, and before anything is sent, every process lists its connections in the file: a
connection that no other process lists is a stranger's.
"""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchkeras.distributed.restart import PATIENCE

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

LOOPBACKS = ("lo", "lo0", "Loopback Pseudo-Interface 1")  # on Linux, macOS, Windows
DESCRIPTORS = Path("/dev/fd")  # the open files of this process, where the system lists them
TRIES = 3  # a program that probes new ports must not end a job
Address = tuple[Any, ...]  # a host and a port
file: Path | None = None  # the file to meet by, in a process of ``fit_ddp``


class StrangerConnected(ConnectionError):
    """Another program connected to a process of the job while its processes were connecting."""

    user_mistake = True  # shown with a short traceback


def meet(backend: str) -> None:
    """Form the process group of a job of ``fit_ddp``; does nothing in any other process.

    Args:
        backend: the backend of the process group, such as "gloo" or "nccl".

    Raises:
        StrangerConnected: another program has connected to one of the processes.
    """
    from torch import distributed

    stores: Any = distributed  # which does not declare its stores as exported
    if file is None or distributed.is_initialized():
        return
    stay_on_this_machine()
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # on Windows, torch expects the name in the code page of the system
    name = str(file).encode("mbcs") if os.name == "nt" else os.fsencode(file)
    store = stores.FileStore(name, world)
    store.set_timeout(PATIENCE)
    for number in range(TRIES):
        once = stores.PrefixStore(f"try {number}", store)
        before = listeners()
        distributed.init_process_group(backend, timeout=PATIENCE, store=once, rank=rank,
                                       world_size=world)
        found = strangers(once, rank, world, listeners() - before)
        if not found:
            return
        distributed.destroy_process_group()
    raise StrangerConnected(
        f"somebody who is not of this job connected to it from {found[0][0]}, port {found[0][1]}, "
        f"before its processes had found each other, {TRIES} times: another user or program of "
        "this machine that tries ports. Nothing was sent or received. Start the job again.")


def stay_on_this_machine() -> None:
    """Make gloo and NCCL listen on the loopback device alone, unless the user chose a device."""
    from torch import distributed

    # all connections are made at once, so that all can be checked before anything is sent
    os.environ["TORCH_GLOO_LAZY_INIT"] = "0"
    if hasattr(distributed, "ProcessGroupGloo") and "GLOO_SOCKET_IFNAME" not in os.environ:
        for name in LOOPBACKS:
            with suppress(RuntimeError):  # no device has that name
                distributed.ProcessGroupGloo.create_device(interface=name)
                os.environ["GLOO_SOCKET_IFNAME"] = name
                os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
                return


def strangers(store: Store, rank: int, world: int, own: set[Address]) -> list[Address]:
    """Return the addresses of connections that are not of this job, the same in all processes.

    Args:
        store: the key-value store by which the processes list their connections.
        rank: this process's rank.
        world: the number of processes.
        own: the addresses at which this process listens for the others.
    """
    mine = connections()
    listed = [pair for one in all_gather(store, "connections", rank, world, mine) for pair in one]
    known = {(tuple(there), tuple(here)) for here, there in listed}
    found = [there for here, there in mine if here in own and (here, there) not in known]
    return [there for one in all_gather(store, "strangers", rank, world, found) for there in one]


def all_gather(store: Store, name: str, rank: int, world: int, value: list[Any]) -> list[list[Any]]:
    """Exchange a list by a key-value store; return those of all ranks."""
    store.set(f"{name}/{rank}", json.dumps(value))
    return [json.loads(store.get(f"{name}/{other}")) for other in range(world)]


def listeners() -> set[Address]:
    """Return the addresses at which this process listens for connections."""
    return {one.getsockname()[:2] for one in sockets()
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)}


def connections() -> list[tuple[Address, Address]]:
    """Return the ends of this process's connections: the address here and there."""
    found = []
    for one in sockets():
        with suppress(OSError):  # not connected
            found.append((one.getsockname()[:2], one.getpeername()[:2]))
    return found


def sockets() -> Iterator[socket.socket]:
    """Yield the TCP sockets of this process, where the system lists them: Windows does not."""
    for name in os.listdir(DESCRIPTORS) if DESCRIPTORS.is_dir() else ():
        with suppress(OSError):  # the descriptor of the listing itself is closed again
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as one:
                    families = socket.AF_INET, socket.AF_INET6
                    if one.type == socket.SOCK_STREAM and one.family in families:
                        yield one
