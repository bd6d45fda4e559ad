"""Start several processes from a script or a notebook, and bring back what they did.

Each process is a fresh Python that gets everything through a file: nothing is forked, so it does not matter whether an
accelerator was in use, and nothing is imported from the caller's script, so it needs no ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from torchkeras.engine import leftover
from torchkeras.engine.checks import bad_type, bad_value
from torchkeras.engine.ending import ProcessFailed

PREFIX = "torchkeras-"
PATIENCE = 15.0  # seconds for the others to end by themselves after one has failed


def check_count(num_processes: int, cpu: bool) -> None:
    """Refuse more processes than there are accelerators."""
    available = torch.accelerator.device_count() if torch.accelerator.is_available() and not cpu else None
    if available is not None and num_processes > available:
        raise bad_value("num_processes", received=num_processes, expected=f"at most {available}, one an accelerator",
                        fix="Pass cpu=True to compute on the CPU.")


def send(parts: Mapping[str, Any], path: Path) -> None:
    """Write what the processes need to a file; names the part that cannot be sent."""
    import cloudpickle

    try:
        with path.open("wb") as file:
            torch.save(dict(parts), file, pickle_module=cloudpickle)
    except Exception:
        for name, part in parts.items():
            check_sendable(name, part)
        raise


def check_sendable(name: str, part: Any) -> None:
    """Refuse what cannot be pickled, going into lists and dicts to name it as closely as can be."""
    import cloudpickle

    try:
        torch.save(part, io.BytesIO(), pickle_module=cloudpickle)
    except Exception as error:
        items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, (list, tuple)) else ()
        for key, one in items:
            check_sendable(f"{name}[{key!r}]", one)
        raise bad_type(name, received=f"a {type(part).__name__} that cannot be sent to another process "
                                      f"({type(error).__name__}: {error})", expected="what can be pickled",
                       fix="Open files, connections and locks where they are used, not where the object is "
                           "made, or start the script with torchrun.") from error


def run(num_processes: int, parts: Mapping[str, Any]) -> Any:
    """Run a job in several processes on this machine; what process 0 returned, or the error that ended it."""
    leftover.clear(Path(tempfile.gettempdir()), PREFIX)
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{leftover.owned()}-") as name:
        folder = Path(name)
        send(parts, folder / "job")
        # this process keeps the store by which the others find each other, so that no port can be lost in between
        store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        workers = [start(rank, num_processes, store.port, folder) for rank in range(num_processes)]
        readers = [threading.Thread(target=forward, args=(one,), daemon=True) for one in workers if one.stdout]
        for reader in readers:
            reader.start()
        try:
            wait(workers)
        finally:
            for worker in workers:
                end(worker)
            for reader in readers:
                reader.join()
        return answer(folder, workers)


def start(rank: int, world: int, port: int, folder: Path) -> subprocess.Popen[str]:
    """One process of the job; only the first one's output is shown, errors of all are kept."""
    threads = str(max(torch.get_num_threads() // world, 1))
    environment = {"OMP_NUM_THREADS": threads, **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank),
                   "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True",
                   "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    output = None if in_terminal() else subprocess.PIPE
    with (folder / f"errors-{rank}").open("w") as errors:
        return subprocess.Popen(
            [sys.executable, "-m", "torchkeras.engine.worker", str(folder)], env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=output if rank == 0 else subprocess.DEVNULL, stderr=errors,
            start_new_session=True)  # Ctrl-C comes to this process, which passes it on once


def in_terminal() -> bool:
    """Whether standard output is the terminal itself, where a live line can be drawn."""
    try:
        return sys.stdout.fileno() == 1 and os.isatty(1)
    except (OSError, ValueError, AttributeError):
        return False


def forward(worker: subprocess.Popen[str]) -> None:
    """Show a process's lines where this one's go: in the notebook's cell, say."""
    with worker.stdout or io.StringIO() as lines:
        for line in lines:
            sys.stdout.write(line)


def wait(workers: list[subprocess.Popen[str]]) -> None:
    """Until all have ended, or one has failed and the others had time to; passes the first Ctrl-C on."""
    pressed, deadline = False, None
    while any(worker.poll() is None for worker in workers):
        try:
            time.sleep(0.05)
        except KeyboardInterrupt:
            if pressed:
                raise
            pressed = True
            workers[0].send_signal(signal.SIGINT)
        if deadline is None and any(worker.poll() for worker in workers):
            deadline = time.monotonic() + PATIENCE
        if deadline is not None and time.monotonic() > deadline:
            return


def end(worker: subprocess.Popen[str]) -> None:
    """Make sure that a process is gone, and what it started with it."""
    if worker.poll() is None:
        worker.terminate()
        try:
            worker.wait(timeout=3)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()


def answer(folder: Path, workers: list[subprocess.Popen[str]]) -> Any:
    """The result that process 0 left, or the error of the process that failed first."""
    errors = [torch.load(path, weights_only=False) for path in sorted(folder.glob("error-*"))]
    errors.sort(key=lambda one: isinstance(one, ProcessFailed))  # one that only followed another comes last
    if errors:
        raise errors[0]
    codes = [worker.returncode for worker in workers]
    if any(codes):
        rank = next(rank for rank, code in enumerate(codes) if code)
        last_words = (folder / f"errors-{rank}").read_text(errors="replace")[-2000:]
        raise ProcessFailed(f"process {rank} of {len(codes)} ended with exit code {codes[rank]}: killed, or out of "
                            f"memory? Its last words: {last_words or 'none'}")
    return torch.load(folder / "result", weights_only=False, map_location="cpu")
