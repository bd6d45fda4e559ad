"""One process of a job that :mod:`torchkeras.engine.launch` started."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch

from torchkeras.engine.state import put_random_states, random_states
from torchkeras.engine.together import sendable


def main(folder: Path) -> int:
    """Do the job; leave its result, or the error that ended it, in the folder."""
    import cloudpickle

    threading.Thread(target=follow, args=(os.getppid(), folder), daemon=True).start()
    rank = int(os.environ["RANK"])
    try:
        # mapped, so that the processes share one copy of large tensors until they write to them
        job = torch.load(folder / "job", map_location="cpu", weights_only=False, mmap=True)
        torch.set_default_dtype(job["dtype"])
        put_random_states(job["random"])
        result = job["work"](**job["arguments"])
        if rank == 0:
            result["random"] = {**random_states(), "cuda": []}
            with (folder / "unfinished").open("wb") as file:
                torch.save(result, file, pickle_module=cloudpickle)
            (folder / "unfinished").rename(folder / "result")
    except BaseException as error:
        leave(error, folder / f"error-{rank}")
        return 1
    return 0


def leave(error: BaseException, path: Path) -> None:
    """Write an error where the caller finds it, with the place in which it arose."""
    import cloudpickle

    traceback.print_exc()
    where = "".join(traceback.format_exception(error))
    sent: Any = sendable(error, cloudpickle)
    process = f"In process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"
    # a mistake of the caller's explains itself
    sent.add_note(f"{process}." if getattr(error, "user_mistake", False) else f"{process}:\n{where}")
    torch.save(sent, path, pickle_module=cloudpickle)


def follow(parent: int, folder: Path) -> None:
    """End when the process that started this one is gone, and remove what it left."""
    while os.getppid() == parent:
        time.sleep(0.5)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def begin(folder: str, paths: str) -> None:
    """Be the process: modules are looked for where the caller looks for them."""
    sys.path[:] = json.loads(paths)
    code = main(Path(folder))
    sys.stdout.flush()
    if code == 0 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.exit(code)
