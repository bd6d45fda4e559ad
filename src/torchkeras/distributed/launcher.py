"""Start several processes from a script or a notebook, and bring back what they did.

Each process is a fresh Python that gets everything through a file: nothing is forked, so it does not matter whether an
accelerator was in use, and nothing is imported from the caller's script, so it needs no ``if __name__ == "__main__"``.
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
# what torch and this library import is found before the caller's own folder, where a numbers.py may lie
BOOT = "import sys; sys.path[:] = sys.argv[3:]; from torchkeras.distributed import worker; worker.begin(*sys.argv[1:3])"


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
            torch.save(dict(parts), file, pickle_module=cloudpickle,
                       pickle_protocol=cloudpickle.DEFAULT_PROTOCOL)
    except OSError:  # a disk that is full, say
        raise
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
    """Take down that SIGTERM came, which the processes of the job are told; a signal that is ignored stays so."""
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
    """Start one process of the job; only the first one's output is shown, errors of all are kept.

    Its standard input is a pipe from here, which ends when this process does: so it learns of that.
    """
    paths = [os.path.abspath(path) for path in sys.path]
    output = None if in_terminal() else subprocess.PIPE
    with (folder / f"errors-{rank}").open("wb") as errors:
        return subprocess.Popen(
            [sys.executable, *flags(), "-c", BOOT, str(folder), json.dumps(paths), *users_last(paths)],
            env=environment(rank, world), stdin=subprocess.PIPE, stderr=errors,
            stdout=output if rank == 0 else subprocess.DEVNULL, **own_group())


def flags() -> list[str]:
    """Return the options that keep a process from looking for modules where this one does not."""
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

    That was in another folder, perhaps: a relative path counts only where it leads to the same now.
    """
    whole = (os.path.abspath(one) for one in asked.split(os.pathsep))
    return os.pathsep.join(path for path in whole if path in sys.path)


def own_group() -> dict[str, Any]:
    """Return what keeps Ctrl-C from a process: it comes to this one, which passes it on once."""
    if WINDOWS:
        return {"creationflags": getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0x200)}
    return {"start_new_session": True}


def users_last(paths: list[str]) -> list[str]:
    """Return the paths with the current folder and the script's behind the others: files there may have any name."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    own = {os.getcwd(), os.path.dirname(os.path.abspath(script))} if script else {os.getcwd()}
    return [path for path in paths if path not in own] + [path for path in paths if path in own]


def in_terminal() -> bool:
    """Whether standard output is the terminal itself, where a live line can be drawn."""
    try:
        return sys.stdout.fileno() == 1 and os.isatty(1)
    except (OSError, ValueError, AttributeError):
        return False


def forward(worker: subprocess.Popen[bytes]) -> None:
    """Show a process's lines where this one's go, in the notebook's cell, say, until it says no more.

    Whatever stands in the way of showing them, they are read: a process whose output nobody takes
    would end of it.
    """
    with io.TextIOWrapper(worker.stdout or io.BytesIO(), encoding="utf-8", errors="replace") as lines:
        for line in lines:
            with suppress(Exception):
                sys.stdout.write(encodable(line, getattr(sys.stdout, "encoding", None) or "utf-8"))


def wait(workers: list[subprocess.Popen[bytes]], terminated: threading.Event, folder: Path) -> None:
    """Until all have ended, or one has failed and the others had time to; passes SIGTERM and the first Ctrl-C on."""
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
    """Send a signal to the first process, which tells the others; to all, where it is gone."""
    sent.add(number)
    if WINDOWS:  # the only signal that another process can be sent there
        number = signal.CTRL_BREAK_EVENT  # type: ignore[attr-defined]
    for worker in workers[:1] if workers[0].poll() is None else workers:
        worker.send_signal(number)


def end(worker: subprocess.Popen[bytes]) -> None:
    """Make sure that a process is gone, and what it started with it."""
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
    """The result that process 0 left, or the error of the process that failed first.

    Args:
        folder: where they were left.
        codes: how the processes had ended when they were waited for no longer; None for one that had to be ended.
    """
    errors = [torch.load(path, weights_only=False) for path in sorted(folder.glob("error-*"))]
    errors.sort(key=lambda one: isinstance(one, ProcessFailed))  # one that only followed another comes last
    killed = next((rank for rank, code in enumerate(codes) if code is not None and code < 0), None)
    if errors and (killed is None or not isinstance(errors[0], ProcessFailed)):
        raise errors[0]
    if any(code != 0 for code in codes):
        rank = killed if killed is not None else next(rank for rank, code in enumerate(codes) if code != 0)
        last_words = (folder / f"errors-{rank}").read_text("utf-8", "replace")[-2000:]
        raise ProcessFailed(f"process {rank} of {len(codes)} ended with exit code {codes[rank]}: killed, or out of "
                            f"memory? Its last words: {last_words or 'none'}")
    return torch.load(folder / "result", weights_only=False, map_location="cpu")
