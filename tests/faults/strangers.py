"""Somebody else on the machine, while ``fit_ddp``'s processes meet: in their ports, and in the temporary folder."""

from __future__ import annotations

import os
import pickle
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from torchkeras.core.rng import random_states
from torchkeras.distributed import job_folder, launcher, rendezvous

LATE = 1.5  # seconds that the second process comes later, in which a stranger has time


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def numbers(mark: Path) -> list[bytes]:
    """The numbers by which gloo's processes know each other, with a message behind each."""
    payload = pickle.dumps(Payload(mark))
    return [struct.pack("<q", number) + after for number in range(-1, 6) for after in (b"", payload)]


def rubbish(mark: Path) -> list[bytes]:
    """Keys of a store, pickles, a browser's words, bytes without a meaning, nothing."""
    return [b"", os.urandom(3), os.urandom(5000), b"GET / HTTP/1.0\r\n\r\n", pickle.dumps(Payload(mark)),
            b"\x00" + struct.pack("<q", 9) + b"0//cpu//0" + struct.pack("<q", 4) + b"evil"]


class Stranger:
    """Connects to every port on which processes of this one listen, for as long as it lives.

    Args:
        words: what it writes, each into a connection of its own, of which every other one stays open.
        after: seconds to wait from the first port on.
    """

    def __init__(self, words: list[bytes], after: float = 0.0) -> None:
        self.words, self.after = words, after
        self.seen: set[int] = set()
        self.kept: list[socket.socket] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def __enter__(self) -> Stranger:
        self.thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.over.set()
        self.thread.join()
        for one in self.kept:
            one.close()

    def look(self) -> None:
        """Try each new port once."""
        began = None
        while not self.over.wait(0.002):
            new = ports_of_children() - self.seen
            if new and began is None:
                began = time.monotonic()
            if began is None or time.monotonic() < began + self.after:
                continue
            self.seen |= new
            for port in new:
                for turn, word in enumerate(self.words):
                    with suppress(OSError):
                        self.kept.append(socket.create_connection(("127.0.0.1", port), 1))
                        self.kept[-1].sendall(word)
                        if turn % 2 and word in self.words[:-1]:
                            self.kept.pop().close()


def ports_of_children() -> set[int]:
    """The ports on which children of this process listen."""
    inodes, found = set(), set()
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):
            for child in (task / "children").read_text().split():
                inodes |= {os.readlink(link).removeprefix("socket:[").rstrip("]")
                           for link in Path(f"/proc/{child}/fd").iterdir()}
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, address, _, state, *rest = line.split()
        if state == "0A" and rest[5] in inodes:
            found.add(int(address.partition(":")[2], 16))
    return found


def work(late: float, rounds: int) -> dict[str, Any]:
    """What each process does: comes, meets, adds up and exchanges objects."""
    rank = int(os.environ["RANK"])
    time.sleep(late * rank)
    rendezvous.meet("gloo")
    total = 0.0
    for number in range(rounds):
        value, box = torch.tensor([float(number + rank)]), [None, None]
        torch.distributed.all_reduce(value)
        torch.distributed.all_gather_object(box, {"rank": rank})
        assert box == [{"rank": 0}, {"rank": 1}]
        total += value.item()
        time.sleep(0.05)
    return {"total": total}


def job(late: float, rounds: int) -> Any:
    """A job of two processes: what its processes added up."""
    parts = {"work": work, "arguments": {"late": late, "rounds": rounds}, "dtype": torch.float32,
             "random": random_states()}
    return launcher.run(2, parts)["total"]


def attacked(say: Callable[[Path], list[bytes]], late: float, rounds: int, after: float) -> str:
    """How a job ends that a stranger connects to, which began when it was to be attacked."""
    expected = float(sum(2 * number + 1 for number in range(rounds)))
    with tempfile.TemporaryDirectory() as name, Stranger(say(Path(name) / "mark"), after) as stranger:
        began = time.monotonic()
        try:
            found = "right" if job(late, rounds) == expected else "other numbers"
        except rendezvous.StrangerConnected:
            found = "refused"
        except Exception as error:
            found = f"{type(error).__name__}: {error}"[:300]
        if not stranger.seen:
            return "not attacked"
        if (Path(name) / "mark").exists():
            return "code was run"
        return found if time.monotonic() - began < 90 else f"{found}, late"


def connecting(quick: bool = False) -> dict[str, Any]:
    """A stranger in the ports, as the processes meet and as they work: a job goes on, or says why not."""
    whole = {"numbers as they meet": (numbers, LATE, 3, 0.0), "rubbish as they work": (rubbish, 0.0, 30, 1.0),
             "rubbish as they meet": (rubbish, LATE, 3, 0.0), "numbers as they work": (numbers, 0.0, 30, 1.0)}
    cases = dict(list(whole.items())[:2]) if quick else whole
    found = {name: attacked(*case) for name, case in cases.items()}
    wrong = {name: how for name, how in found.items() if how not in ("right", "refused")}
    return {"passed": len(found) - len(wrong), "of": len(found), "right": not wrong, "found": found}


def planted() -> dict[str, Any]:
    """Files of a stranger in the temporary folder: none is followed, deleted or waited for."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as other:
        folder, precious = Path(name), Path(other) / "precious"
        precious.write_text("mine")
        before, tempfile.tempdir = tempfile.tempdir, name
        try:
            kept = plant(folder, precious)
            began = time.monotonic()
            with job_folder.job_folder() as own:
                fresh = own.stat().st_mode & 0o777 == 0o700
            passed = [fresh, precious.read_text() == "mine", time.monotonic() - began < 5,
                      {one.name for one in folder.iterdir()} == kept]
        finally:
            tempfile.tempdir = before
    return {"passed": sum(passed), "of": len(passed), "right": all(passed)}


def plant(folder: Path, precious: Path) -> set[str]:
    """Put there what looks like jobs; the names of what must stay."""
    def left(name: str, mode: int = 0o700) -> Path:
        made = folder / f"{job_folder.PREFIX}{name}"
        made.mkdir()
        made.chmod(mode)
        (made / job_folder.JOB).write_text("")
        return made

    (left("open", 0o755) / job_folder.LOCK).touch()
    (left("linked-lock") / job_folder.LOCK).symlink_to(precious)
    os.mkfifo(left("fifo") / job_folder.LOCK)
    (left("folder") / job_folder.LOCK).mkdir()
    (folder / f"{job_folder.PREFIX}link").symlink_to(precious.parent)
    (precious.parent / job_folder.JOB).touch()
    (precious.parent / job_folder.LOCK).touch()
    (folder / f"{job_folder.PREFIX}loop").symlink_to(folder / f"{job_folder.PREFIX}loop")
    (folder / f"{job_folder.PREFIX}file").write_text("")
    os.mkfifo(folder / f"{job_folder.PREFIX}pipe")
    if os.getuid() == 0:
        alien = left("alien")
        (alien / job_folder.LOCK).touch()
        os.chown(alien, 65534, 65534)
    kept = {one.name for one in folder.iterdir()}
    (left("own") / job_folder.LOCK).touch()  # control: this one is cleared
    return kept
