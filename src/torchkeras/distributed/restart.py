"""A job that torchrun has started again: its processes must not read what those of the first attempt left."""

from __future__ import annotations

import os
from datetime import timedelta

ATTEMPT = "TORCHELASTIC_RESTART_COUNT"
PATIENCE = timedelta(minutes=30)  # torch's own for gloo


def join_attempt(backend: str) -> None:
    """Form the process group of a second or later attempt under keys of its own.

    torchrun keeps one key-value store for all attempts, and torch forms the group under the same keys each time: a
    process that is quick reads the addresses of one that is dead, and waits for it (seen with torch 2.13 and gloo).

    Args:
        backend: torch's name for how the processes talk, such as "gloo" or "nccl".
    """
    from torch import distributed

    attempt = os.environ.get(ATTEMPT, "0")
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if attempt == "0" or not shared or distributed.is_initialized():
        return
    # torch's wheels for Windows are built without libuv, and refuse to begin with it
    libuv = os.name != "nt" and os.environ.get("USE_LIBUV", "1") == "1"
    store = distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False,
                                 timeout=PATIENCE, use_libuv=libuv)
    distributed.init_process_group(backend, store=distributed.PrefixStore(f"attempt {attempt}", store),
                                   rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
