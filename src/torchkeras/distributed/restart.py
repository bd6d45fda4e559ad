"""Keep the processes of a job that torchrun restarted from reading keys of the first attempt."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

ATTEMPT = "TORCHELASTIC_RESTART_COUNT"
# torch's own for gloo; NCCL's 10 minutes would end a job during a long callback of process 0
PATIENCE = timedelta(minutes=30)


def join_attempt(backend: str) -> None:
    """Form the process group of a second or later attempt under keys of its own.

    torchrun keeps one key-value store for all attempts, and torch forms the group under the same
    keys each time: a fast process reads the address of a dead one, and waits for it (seen with
    torch 2.13 and gloo).

    Args:
        backend: the backend of the process group, such as "gloo" or "nccl".
    """
    from torch import distributed

    stores: Any = distributed  # which does not declare its stores as exported
    attempt = os.environ.get(ATTEMPT, "0")
    shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    if attempt == "0" or not shared or distributed.is_initialized():
        return
    # torch's wheels for Windows are built without libuv, and fail with it
    libuv = os.name != "nt" and os.environ.get("USE_LIBUV", "1") == "1"
    store = stores.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]),
                            is_master=False, timeout=PATIENCE, use_libuv=libuv)
    distributed.init_process_group(
        backend, timeout=PATIENCE, store=stores.PrefixStore(f"attempt {attempt}", store),
        rank=int(os.environ["RANK"]), world_size=int(os.environ["WORLD_SIZE"]))
