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

from torchkeras.core.rng import cpu_random_states, put_random_states
from torchkeras.distributed import rendezvous
from torchkeras.distributed.communicator import sendable
from torchkeras.distributed.job_folder import JOB, remove, tell_mapped


def main(folder: Path) -> int:
    """Run the job; write its result, or the error that ended it, to the folder."""
    import cloudpickle

    rank = int(os.environ["RANK"])
    try:
        # with mmap, the processes share one copy of large tensors until they write to them
        job = torch.load(folder / JOB, map_location="cpu", weights_only=False, mmap=True)
        tell_mapped(folder, rank)
        torch.set_default_dtype(job["dtype"])
        put_random_states(job["random"])
        result = job["work"](**job["arguments"])
        if rank == 0:
            result["random"] = cpu_random_states()
            with (folder / "unfinished").open("wb") as file:
                torch.save(result, file, pickle_module=cloudpickle)
            (folder / "unfinished").rename(folder / "result")
    except BaseException as error:
        leave(error, folder / f"error-{rank}")
        return 1
    return 0


def leave(error: BaseException, path: Path) -> None:
    """Write an error to a file for the caller, with its traceback as a note."""
    import cloudpickle

    traceback.print_exc()
    where = "".join(traceback.format_exception(error))
    sent: Any = sendable(error, cloudpickle)
    process = f"In process {os.environ['RANK']} of {os.environ['WORLD_SIZE']}"
    short = getattr(error, "user_mistake", False)  # its text says it all
    sent.add_note(f"{process}." if short else f"{process}:\n{where}")
    torch.save(sent, path, pickle_module=cloudpickle)


def follow(caller: int, folder: Path) -> None:
    """Wait for the end of the process that started this one; then remove the folder and exit.

    Args:
        caller: the read end of a pipe from that process, to which it writes nothing.
        folder: the folder of the job.
    """
    while os.read(caller, 1):
        pass
    remove(folder)
    os._exit(1)


def pipe_from_caller() -> int:
    """Return the pipe that is standard input; standard input itself is empty from now on."""
    pipe = os.dup(0)  # child processes do not inherit it
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return pipe


def speak_utf8() -> None:
    """Write UTF-8, which the caller reads, whatever the locale; no character raises an error."""
    for stream in (sys.stdout, sys.stderr):
        if not stream.isatty():
            stream.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]


def hear_break() -> None:
    """Treat Ctrl-Break as Ctrl-C on Windows, where Ctrl-C cannot be sent to a single process."""
    if hasattr(signal, "SIGBREAK"):
        signal.signal(signal.SIGBREAK, lambda number, frame: signal.raise_signal(signal.SIGINT))


def begin(folder: str, paths: str) -> None:
    """Run a job in this process, with the caller's ``sys.path``, and exit with its code."""
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
