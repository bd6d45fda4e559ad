"""One process of a job that :mod:`torchkeras.distributed.launcher` started."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import torch

from torchkeras.distributed import rendezvous
from torchkeras.distributed.communicator import sendable
from torchkeras.distributed.job_folder import JOB, remove, tell_mapped
from torchkeras.state.rng import put_random_states, random_states


def main(folder: Path) -> int:
    """Do the job; leave its result, or the error that ended it, in the folder."""
    import cloudpickle

    rank = int(os.environ["RANK"])
    try:
        # mapped, so that the processes share one copy of large tensors until they write to them
        job = torch.load(folder / JOB, map_location="cpu", weights_only=False, mmap=True)
        tell_mapped(folder, rank)
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


def follow(caller: int, folder: Path) -> None:
    """End when the process that started this one is gone, and remove what it left.

    Args:
        caller: the end of a pipe from that process, which nobody writes to.
        folder: the job's.
    """
    while os.read(caller, 1):
        pass
    remove(folder)
    os._exit(1)


def pipe_from_caller() -> int:
    """Take the pipe that is standard input, which reads as empty from now on."""
    pipe = os.dup(0)  # no process that this one starts gets it
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return pipe


def speak_utf8() -> None:
    """Write what the caller can read, whatever the language of the system, and end of no letter."""
    for stream in (sys.stdout, sys.stderr):
        if not stream.isatty():
            stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]


def hear_break() -> None:
    """Take Ctrl-Break for Ctrl-C on Windows, which cannot send one process of several that."""
    if hasattr(signal, "SIGBREAK"):
        signal.signal(signal.SIGBREAK, lambda number, frame: signal.raise_signal(signal.SIGINT))


def begin(folder: str, paths: str) -> None:
    """Be the process: modules are looked for where the caller looks for them."""
    threading.Thread(target=follow, args=(pipe_from_caller(), Path(folder)), daemon=True).start()
    speak_utf8()
    hear_break()
    rendezvous.file = Path(folder) / "meeting"
    sys.path[:] = json.loads(paths)
    code = main(Path(folder))
    sys.stdout.flush()
    if code == 0 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    sys.exit(code)
