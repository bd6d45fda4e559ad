"""Disks that are full, folders that cannot be written, and two runs that want the same one."""

from __future__ import annotations

import os
import resource
import signal
import stat
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

from tests.faults import kills, runs
from torchkeras import Callback
from torchkeras.checkpoint import state_folder

NOBODY = 65534


def full_disk(count: int) -> dict[str, Any]:
    """Saves cut off by the system at so many sizes: the run goes on, the state before stays, and nothing lies about."""
    right, bad = 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = kills.whole(folder)
        kills.train(folder / "size", save_every=13)
        largest = max(one.stat().st_size for one in runs.states(folder / "size")[-1].iterdir())
        for number in range(count):
            path = folder / f"run{number}"
            outcome = limited(path, 1 + largest * number // count, reference)
            right += outcome == ""
            bad += [f"{number}: {outcome}"] if outcome else []
    return {"passed": right, "of": count, "bad": bad[:3], "right": right == count}


class Limit(Callback):
    """From a step on, no file may grow beyond a size, as on a disk with that much room."""

    def __init__(self, size: int) -> None:
        self.size = size

    def on_step_end(self, model: Any) -> None:
        if model.run.global_step == 14:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.RLIM_INFINITY))
        if model.run.global_step == 20:
            raise RuntimeError("far enough")


def limited(path: Path, size: int, reference: dict[str, str]) -> str:
    """What went wrong; nothing, where all went as it should."""
    def train() -> None:
        warnings.simplefilter("ignore")
        try:
            runs.run(path, [Limit(size)], resume=True, save_every=4)
        except RuntimeError as error:
            os._exit(7 if str(error) == "far enough" else 8)

    if kills.ended(kills.child(train)) != 7:
        return "the run did not go on"
    if kills.litter(path):
        return f"left behind: {kills.litter(path)}"
    for one in runs.states(path):
        state_folder.read_state(one, 0)
    if kills.ended(kills.child(lambda: kills.train(path))) != 0:
        return "the run could not be taken up"
    found = kills.found(path)
    unlike = [what for what, value in reference.items() if what != "samples" and found[what] != value]
    return f"different: {unlike}" if unlike else ""


def full_under_best(count: int) -> dict[str, Any]:
    """A file system that fills up under the best file: the run goes on, and writes it when there is room again."""
    right, bad = 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = kills.whole(folder)
        size = (folder / "whole").stat().st_size
        for number in range(count):
            path = folder / f"run{number}"
            outcome = squeezed(path, size * number // count, reference, room=number % 2 == 0)
            right += outcome == ""
            bad += [f"{number}: {outcome}"] if outcome else []
    return {"passed": right, "of": count, "bad": bad[:3], "right": right == count}


class Squeeze(Callback):
    """From the second epoch on no file may grow beyond a size; with room again in the last one, or never."""

    def __init__(self, size: int, room: bool) -> None:
        self.size, self.room = size, room

    def on_epoch_start(self, model: Any) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        if model.run.epoch > 1:
            free = self.room and model.run.epoch == runs.EPOCHS
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY if free else self.size,
                                                       resource.RLIM_INFINITY))


def squeezed(path: Path, size: int, reference: dict[str, str], room: bool) -> str:
    """What went wrong; nothing, where all went as it should."""
    def train() -> None:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            found = runs.run(path, [Squeeze(size, room)])
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        texts = " ".join(str(one.message) for one in warned)
        alike = all(found[what] == reference[what] for what in reference
                    if what not in ("samples", *(() if room else ("file",))))
        told = "tries again" in texts and ("another/place" in texts) == (not room)
        whole = path.exists() and not list(path.parent.glob(f".{path.name}.*"))
        os._exit(0 if alike and told and whole else 10 + alike + 2 * told + 4 * whole)

    code = kills.ended(kills.child(train))
    return "" if code == 0 else f"ended with {code}"


def unwritable() -> dict[str, Any]:
    """Places that cannot be written are found out before the first step."""
    right, tried = 0, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "file").write_text("")
        (folder / "best.state").write_text("in the way")
        locked_up = folder / "read-only"
        locked_up.mkdir()
        closed = folder / "closed.state"
        closed.mkdir()
        for one in (locked_up, closed):
            one.chmod(stat.S_IRUSR | stat.S_IXUSR | stat.S_IROTH | stat.S_IXOTH)
        for path in (locked_up / "best", Path("/proc/nowhere/best"), folder / "file" / "best", folder / "best",
                     folder / "closed"):
            tried += 1
            right += kills.ended(kills.child(lambda path=path: as_nobody(path), 0)) == 0
        for one in (locked_up, closed):
            one.chmod(0o755)
    return {"passed": right, "of": tried, "right": right == tried}


def as_nobody(path: Path) -> None:
    """Try to train there without the rights of root; ends well when it is refused before the first step."""
    class Never(Callback):
        def on_step_end(self, model: Any) -> None:
            os._exit(3)

    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    try:
        runs.run(path, [Never()], resume=True)
    except ValueError as error:
        os._exit(0 if "received" in str(error) and "expected" in str(error) else 4)
    os._exit(5)


def locked() -> dict[str, Any]:
    """A second run in the same folder is refused by name; the lock of one that was killed is taken over."""
    class Waits(Callback):
        def on_step_end(self, model: Any) -> None:
            if model.run.global_step == 5:
                time.sleep(60)

    found = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "best"
        first = kills.child(lambda: runs.run(path, [Waits()], resume=True, save_every=1) and None)
        while not Path(f"{path}.state/00000004").exists():
            time.sleep(0.01)
        try:
            runs.run(path, resume=True)
        except ValueError as error:
            found.append(f"which process {first} on" in str(error))
        os.kill(first, signal.SIGKILL)
        kills.ended(first)
        reference = kills.whole(Path(name))
        kills.train(path)
        found.append(all(kills.found(path)[what] == value for what, value in reference.items() if what != "samples"))
    return {"passed": sum(found), "of": 2, "right": found == [True, True]}
