"""Start several processes from a script or a notebook, and bring back their result.

Each process is a fresh Python that gets everything through a file: nothing is forked, so it does
not matter whether an accelerator was in use, and nothing is imported from the caller's script, so
it needs no ``if __name__ == "__main__"``.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from torchkeras.core.errors import bad_type, bad_value
from torchkeras.core.stop import ProcessFailed
from torchkeras.core.text import encodable
from torchkeras.distributed.job_folder import JOB, check_room, job_folder, let_go

PATIENCE = 15.0  # seconds for the others to end by themselves after one has failed
WINDOWS = os.name == "nt"
# torch and this library are found before the caller's folder, which may hold a numbers.py
BOOT = ("import sys; sys.path[:] = sys.argv[3:]; from torchkeras.distributed import worker; "
        "worker.begin(*sys.argv[1:3])")


def check_count(num_processes: int, cpu: bool) -> None:
    """Refuse more processes than there are accelerators."""
    if cpu or not torch.accelerator.is_available():
        return
    available = torch.accelerator.device_count()
    if num_processes > available:
        raise bad_value("num_processes", received=num_processes,
                        expected=f"at most {available}, one an accelerator",
                        fix="Pass cpu=True to compute on the CPU.")


def send(parts: Mapping[str, object], path: Path) -> None:
    """Write the job to a file; an error names the part that cannot be pickled."""
    import cloudpickle

    try:
        with path.open("wb") as file:
            torch.save(dict(parts), file, pickle_module=cloudpickle,
                       pickle_protocol=cloudpickle.DEFAULT_PROTOCOL)
    except OSError:  # such as a full disk
        raise
    except Exception:
        for name, part in parts.items():
            check_sendable(name, part)
        raise


def check_sendable(name: str, part: object) -> None:
    """Refuse what cannot be pickled; the error names the item of a list or dict at fault."""
    import cloudpickle

    try:
        torch.save(part, io.BytesIO(), pickle_module=cloudpickle)
    except Exception as error:
        items = enumerate(part) if isinstance(part, (list, tuple)) else ()
        for key, one in part.items() if isinstance(part, dict) else items:
            check_sendable(f"{name}[{key!r}]", one)
        raise bad_type(name, received=f"a {type(part).__name__} that cannot be sent to another "
                       f"process ({type(error).__name__}: {error})", expected="what can be pickled",
                       fix="Open files, connections and locks where they are used, not where the "
                       "object is made, or start the script with torchrun.") from error


def run(num_processes: int, parts: Mapping[str, object]) -> Any:
    """Run a job in several processes here; return process 0's result, or raise the error."""
    with job_folder() as folder, terminable() as terminated:
        check_room(parts, folder)
        send(parts, folder / JOB)
        workers: list[subprocess.Popen[bytes]] = []
        readers: list[threading.Thread] = []
        try:
            for rank in range(num_processes):
                workers.append(start(rank, num_processes, folder))
            readers += [threading.Thread(target=forward, args=(one,), daemon=True)
                        for one in workers if one.stdout]
            for reader in readers:
                reader.start()
            wait(workers, terminated, folder)
        finally:
            codes = [worker.poll() for worker in workers]
            for worker in workers:
                end(worker)
            for reader in readers:
                reader.join()
        if terminated.is_set():
            raise SystemExit(128 + signal.SIGTERM)
        return answer(folder, codes)


@contextmanager
def terminable() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM sets, to pass it on; a SIGTERM that is ignored stays so."""
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread() or (
            signal.getsignal(signal.SIGTERM) is signal.SIG_IGN):
        yield came
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.set())
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def start(rank: int, world: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start one process of the job; only the first one's output is shown, stderr goes to files.

    Its standard input is a pipe from this process, by whose end it notices that this one is gone.
    """
    paths = [os.path.abspath(path) for path in sys.path]
    output = None if in_terminal() else subprocess.PIPE
    with (folder / f"errors-{rank}").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, *flags(), "-c", BOOT, str(folder), json.dumps(paths),
             *users_last(paths)],
            env=environment(rank, world), stdin=subprocess.PIPE, stderr=errors,
            stdout=output if rank == 0 else subprocess.DEVNULL, **own_group())


def flags() -> list[str]:
    """Return the Python options with which a process searches modules only where this one does."""
    own = sys.flags
    asked = {"-E": own.ignore_environment, "-s": own.no_user_site, "-S": own.no_site}
    return ["-P", *(flag for flag, on in asked.items() if on)]


def environment(rank: int, world: int) -> dict[str, str]:
    """Return the environment of one process of the job."""
    threads = str(max(torch.get_num_threads() // world, 1))
    own = {"RANK": str(rank), "LOCAL_RANK": str(rank),
           "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    if "PYTHONPATH" in os.environ:
        own["PYTHONPATH"] = python_path(os.environ["PYTHONPATH"])
    if WINDOWS:
        own["USE_LIBUV"] = "0"  # torch's wheels are built without it there
    return {"OMP_NUM_THREADS": threads, **os.environ, **own}


def python_path(asked: str) -> str:
    """Return a PYTHONPATH that means what it meant when this process began.

    The current folder may have changed since: a relative path is kept if it is still in sys.path.
    """
    whole = (os.path.abspath(one) for one in asked.split(os.pathsep))
    return os.pathsep.join(path for path in whole if path in sys.path)


def own_group() -> dict[str, Any]:
    """Return the Popen options that keep Ctrl-C from a process: this one passes it on once."""
    if WINDOWS:
        return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200)}
    return {"start_new_session": True}


def users_last(paths: list[str]) -> list[str]:
    """Return the paths, the current folder and the script's last: files there may have any name."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    own = {os.getcwd(), os.path.dirname(os.path.abspath(script))} if script else {os.getcwd()}
    return [path for path in paths if path not in own] + [path for path in paths if path in own]


def in_terminal() -> bool:
    """Return whether standard output is the terminal itself, where a live line can be drawn."""
    try:
        return sys.stdout.fileno() == 1 and os.isatty(1)
    except (OSError, ValueError, AttributeError):
        return False


def forward(worker: subprocess.Popen[bytes]) -> None:
    """Copy a process's output to this one's, such as a notebook's cell, until it is closed.

    It is read even if it cannot be shown: a process would block when its pipe is full.
    """
    stdout = worker.stdout or io.BytesIO()
    with io.TextIOWrapper(stdout, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(Exception):
                encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
                sys.stdout.write(encodable(line, encoding))


def wait(workers: list[subprocess.Popen[bytes]], terminated: threading.Event,
         folder: Path) -> None:
    """Wait until all have ended, or ``PATIENCE`` after one has failed.

    Passes SIGTERM and the first Ctrl-C on.
    """
    sent: set[int] = set()
    deadline, done = None, False
    while any(worker.poll() is None for worker in workers):
        try:
            time.sleep(0.05)
        except KeyboardInterrupt:
            if signal.SIGINT in sent:
                raise
            pass_on(signal.SIGINT, workers, sent)
        if terminated.is_set() and signal.SIGTERM not in sent:
            pass_on(signal.SIGTERM, workers, sent)
        done = done or let_go(folder, len(workers))
        if deadline is None and any(worker.poll() for worker in workers):
            deadline = time.monotonic() + PATIENCE
        if deadline is not None and time.monotonic() > deadline:
            return


def pass_on(number: int, workers: list[subprocess.Popen[bytes]], sent: set[int]) -> None:
    """Send a signal to the first process, which informs the others; to all, if it has ended."""
    sent.add(number)
    if WINDOWS:  # the only signal that can be sent to another process there
        number = signal.CTRL_BREAK_EVENT  # type: ignore[attr-defined]
    for worker in workers[:1] if workers[0].poll() is None else workers:
        worker.send_signal(number)


def end(worker: subprocess.Popen[bytes]) -> None:
    """Terminate a process if it still runs, and close the pipe to it."""
    if worker.poll() is None:
        worker.terminate()
        try:
            worker.wait(timeout=3)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
    if worker.stdin is not None:
        worker.stdin.close()


def answer(folder: Path, codes: list[int | None]) -> Any:
    """Return the result of process 0, or raise the error of the process that failed first.

    Args:
        folder: the folder of the job.
        codes: the exit codes of the processes; None for one that had to be terminated.
    """
    errors = [torch.load(path, weights_only=False) for path in sorted(folder.glob("error-*"))]
    errors.sort(key=lambda one: isinstance(one, ProcessFailed))  # consequences come last
    killed = next((rank for rank, code in enumerate(codes) if code is not None and code < 0), None)
    if errors and (killed is None or not isinstance(errors[0], ProcessFailed)):
        raise errors[0]
    if any(code != 0 for code in codes):
        failed = (rank for rank, code in enumerate(codes) if code != 0)
        rank = killed if killed is not None else next(failed)
        output = (folder / f"errors-{rank}").read_text("utf-8", "replace")[-2000:]
        raise ProcessFailed(f"process {rank} of {len(codes)} ended with exit code {codes[rank]}: "
                            f"killed, or out of memory? The end of its stderr: {output or 'empty'}")
    return torch.load(folder / "result", weights_only=False, map_location="cpu")
