"""How the processes that ``fit_ddp`` started find each other, and nobody else.

They meet by a file in the job's folder, which only their user can read, and talk over the loopback
device, which no other machine reaches. gloo takes whoever connects first and sends a small number
for the process that it waits for, and what processes send each other is unpickled. So once all are
connected, and before anything is sent, each looks who is at the other end: the processes write
their connections down in the file, and one that nobody wrote down is a stranger's.
"""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

PATIENCE = timedelta(minutes=30)  # torch's own for gloo
LOOPBACKS = ("lo", "lo0", "Loopback Pseudo-Interface 1")  # on Linux, macOS, Windows
DESCRIPTORS = Path("/dev/fd")  # what this process has open, where the system tells
TRIES = 3  # a program that looks into new ports is not to end a job
Address = tuple[Any, ...]  # a host and a port
file: Path | None = None  # by which to meet, in a process of a job of ``fit_ddp``


class StrangerConnected(ConnectionError):
    """Somebody who is not of the job connected to it as its processes looked for each other."""

    user_mistake = True  # shown with a short traceback


def meet(backend: str) -> None:
    """Form the process group of a job of ``fit_ddp``; does nothing in any other process.

    Args:
        backend: torch's name for how the processes talk, such as "gloo" or "nccl".

    Raises:
        StrangerConnected: somebody else has connected to one of the processes.
    """
    from torch import distributed

    if file is None or distributed.is_initialized():
        return
    stay_on_this_machine()
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    # on Windows, torch opens the file by a name in the code page of the system
    name: Any = str(file).encode("mbcs") if os.name == "nt" else os.fsencode(file)
    store = distributed.FileStore(name, world)
    store.set_timeout(PATIENCE)
    for number in range(TRIES):
        once = distributed.PrefixStore(f"try {number}", store)
        before = listeners()
        distributed.init_process_group(backend, store=once, rank=rank, world_size=world)
        found = strangers(once, rank, world, listeners() - before)
        if not found:
            return
        distributed.destroy_process_group()
    raise StrangerConnected(
        f"somebody who is not of this job connected to it from {found[0][0]}, port {found[0][1]}, "
        f"before its processes had found each other, {TRIES} times: another user or program of this "
        "machine that tries ports. Nothing was sent or received. Start the job again.")


def stay_on_this_machine() -> None:
    """Let gloo and NCCL listen on the loopback device alone, where the user has not chosen one."""
    from torch import distributed

    # all connections are made at once, so that all can be looked at before anything is sent
    os.environ["TORCH_GLOO_LAZY_INIT"] = "0"
    if hasattr(distributed, "ProcessGroupGloo") and "GLOO_SOCKET_IFNAME" not in os.environ:
        for name in LOOPBACKS:
            with suppress(RuntimeError):  # there is no device of that name
                distributed.ProcessGroupGloo.create_device(interface=name)
                os.environ["GLOO_SOCKET_IFNAME"] = name
                os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
                return


def strangers(store: Any, rank: int, world: int, own: set[Address]) -> list[Address]:
    """Return from where somebody who is not of this job connected to it, the same in all processes.

    Args:
        store: where the processes tell each other what they are connected with.
        rank: this process's number.
        world: how many processes there are.
        own: the addresses at which this process waits for the others.
    """
    mine = connections()
    told = [pair for one in exchanged(store, "connections", rank, world, mine) for pair in one]
    known = {(tuple(there), tuple(here)) for here, there in told}
    found = [there for here, there in mine if here in own and (here, there) not in known]
    return [there for one in exchanged(store, "strangers", rank, world, found) for there in one]


def exchanged(store: Any, name: str, rank: int, world: int, value: list[Any]) -> list[list[Any]]:
    """Return what each process says under a name."""
    store.set(f"{name}/{rank}", json.dumps(value))
    return [json.loads(store.get(f"{name}/{other}")) for other in range(world)]


def listeners() -> set[Address]:
    """Return the addresses at which this process waits for connections."""
    return {one.getsockname()[:2] for one in sockets()
            if one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)}


def connections() -> list[tuple[Address, Address]]:
    """Return the ends of this process's connections: the address here and there."""
    found = []
    for one in sockets():
        with suppress(OSError):  # it is not connected
            found.append((one.getsockname()[:2], one.getpeername()[:2]))
    return found


def sockets() -> Iterator[socket.socket]:
    """The TCP sockets of this process, where the system lists them: Windows does not."""
    for name in os.listdir(DESCRIPTORS) if DESCRIPTORS.is_dir() else ():
        with suppress(OSError):  # the descriptor of the list itself is closed again
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as one:
                    families = socket.AF_INET, socket.AF_INET6
                    if one.type == socket.SOCK_STREAM and one.family in families:
                        yield one
