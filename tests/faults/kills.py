"""kill -9, SIGTERM and Ctrl-C at random moments, and a crash at every file operation of a save."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from tests.faults import runs
from tests.faults.runs import Noisy
from torchkeras import Callback
from torchkeras.checkpoint import rank_state, store

KILLS_A_RUN, INSIDE_A_WRITE = 3, 0.6
MOMENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "shutil.rmtree", "shutil.copyfile"}


class Log(Callback):
    """Writes down which samples each training step saw; what was written last for a step counts."""

    def __init__(self, dataset: Noisy, path: Path) -> None:
        self.dataset, self.path = dataset, path

    def on_step_end(self, model: Any) -> None:
        if model.run.stage == "train":
            with self.path.open("a") as file:
                file.write(json.dumps([model.run.global_step, self.dataset.seen]) + "\n")
            self.dataset.seen.clear()


def train(path: Path, before: Callable[[], None] = lambda: None, **options: Any) -> None:
    """The run of a child: to its end, or as far as it comes."""
    before()
    dataset = Noisy()
    log = Path(f"{path}.log")
    found = runs.run(path, [Log(dataset, log)], train=DataLoader(dataset, runs.BATCH, shuffle=True),
                     **{"resume": True, "save_every": 1, **options})
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("]]")]
    found["samples"] = json.dumps(sorted({step: seen for step, seen in lines}.items()))
    Path(f"{path}.found").write_text(json.dumps(found))


def child(work: Callable[[], None], code: int = 0) -> int:
    """A fork of this process that does something and ends."""
    pid = os.fork()
    if pid:
        return pid
    try:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (what it says as it dies is expected)
        work()
        os._exit(code)
    except SystemExit as end:
        os._exit(int(end.code or 0))
    except BaseException:
        os._exit(99)


def ended(pid: int) -> int:
    """How a child ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def found(path: Path) -> dict[str, str]:
    """What a run that came to its end left."""
    return json.loads(Path(f"{path}.found").read_text())


def whole(folder: Path, more: bool = False) -> dict[str, str]:
    """The same run without a break."""
    assert ended(child(lambda: train(folder / "whole", resume=False, save_every=None, more=more))) == 0
    return found(folder / "whole")


def litter(path: Path) -> list[str]:
    """What does not belong into the folder of the states, once a run is over."""
    return [one.name for one in Path(f"{path}.state").iterdir()
            if not (one.name.isdigit() or one.name in (".lock", ".owner"))]


def kill_one(path: Path, dice: random.Random, number: int = signal.SIGKILL, more: bool = False) -> int | None:
    """Start or take up a run, and send it a signal at a random moment; None when it was over before that."""
    reading, writing = os.pipe()

    def tells_of_writes() -> None:
        write = store.CheckpointStore.write

        def told(*arguments: Any) -> int:
            os.write(writing, b"w")
            return write(*arguments)

        store.CheckpointStore.write = told  # type: ignore[method-assign]

    pid = child(lambda: train(path, tells_of_writes, more=more))
    os.close(writing)
    if dice.random() < INSIDE_A_WRITE:
        for _ in range(dice.randint(1, 12)):
            select.select([reading], [], [], 5)
            os.read(reading, 1)
        time.sleep(dice.random() * 0.008)
    else:
        time.sleep(dice.random() * 0.5)
    os.close(reading)
    os.kill(pid, number)
    code = ended(pid)
    return None if code == 0 else code


def kills(count: int, seed: int = 0, number: int = signal.SIGKILL, expected: int | None = None,
          more: bool = False) -> dict[str, Any]:
    """So many signals; the runs that they hit are taken up until they end, and must leave what an unbroken one does."""
    dice, sent, same, codes, different = random.Random(seed), 0, 0, set(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = whole(folder, more)
        runs_done = 0
        while sent < count:
            path = folder / f"run{runs_done}"
            runs_done += 1
            hits = 0
            for _ in range(dice.randint(1, KILLS_A_RUN)):
                code = kill_one(path, dice, number, more)
                if code is None:
                    break
                codes.add(code)
                hits += 1
            if not Path(f"{path}.found").exists():
                assert ended(child(lambda path=path: train(path, more=more))) == 0, f"seed {seed}, run {runs_done}"
            sent += hits
            unlike = [what for what, value in reference.items() if found(path)[what] != value] + litter(path)
            same += hits if not unlike else 0
            different += [f"run {runs_done}: {unlike}"] if unlike else []
            shutil.rmtree(f"{path}.state")
    # before fit listens for it, SIGTERM ends a program by itself: minus 15
    return {"passed": same, "of": sent, "runs": runs_done, "ended with": sorted(codes), "different": different[:3],
            "right": same == sent and codes <= {expected or -number, -number} and (expected or -number) in codes}


def side_by_side(count: int, seed: int = 0) -> dict[str, Any]:
    """The same in two processes, half of the signals each."""
    with tempfile.TemporaryDirectory() as name:
        files = [Path(name) / str(number) for number in range(2)]
        pids = [child(lambda file=file, number=number: file.write_text(json.dumps(kills(count // 2, seed + number))) and
                      None) for number, file in enumerate(files)]
        assert [ended(pid) for pid in pids] == [0, 0]
        both = [json.loads(file.read_text()) for file in files]
    return {"passed": sum(one["passed"] for one in both), "of": sum(one["of"] for one in both),
            "runs": sum(one["runs"] for one in both), "different": both[0]["different"] + both[1]["different"],
            "right": all(one["right"] for one in both)}


def control() -> dict[str, Any]:
    """Without the generators put back, a run that was killed must come out different; else the above finds nothing."""
    def forgets() -> None:
        rank_state.set_rng_state = lambda *_: None

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = whole(folder)
        while kill_one(folder / "run", random.Random(4)) is None:
            shutil.rmtree(folder / "run.state", ignore_errors=True)
        assert ended(child(lambda: train(folder / "run", forgets))) == 0
        unlike = [what for what, value in reference.items() if found(folder / "run")[what] != value]
    return {"passed": int("weights" in unlike), "of": 1, "right": "weights" in unlike, "differs in": unlike}


def crash_at(moment: int, folder: str) -> Callable[[], None]:
    """Ends the process, as if it had been killed, at the so many-th file operation in a folder."""
    def watched() -> None:
        seen = 0

        def hook(event: str, arguments: Any) -> None:
            nonlocal seen
            if event in MOMENTS and any(folder in str(one) for one in arguments[:2]):
                seen += 1
                if seen == moment:
                    os._exit(137)

        sys.addaudithook(hook)

    return watched


def crashes(every: int = 1) -> dict[str, Any]:
    """A crash at each file operation of a run (or at every so many-th); each is taken up and must come out the same."""
    options = {"epochs": 1, "length": 1, "save_every": 6}
    same, points, different = 0, 0, []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        assert ended(child(lambda: train(folder / "whole", **options))) == 0
        reference, moment = found(folder / "whole"), 1
        while True:
            path = folder / f"run{moment}"
            code = ended(child(lambda path=path, moment=moment: train(
                path, crash_at(moment, f"run{moment}.state"), **options)))
            if code == 0:
                break
            points += 1
            again = ended(child(lambda path=path: train(path, **options)))
            unlike = [f"code {again}"] if again else [
                what for what, value in reference.items() if found(path)[what] != value] + litter(path)
            same += not unlike
            different += [f"point {moment}: {unlike}"] if unlike else []
            shutil.rmtree(f"{path}.state")
            moment += every
    return {"passed": same, "of": points, "different": different[:3], "right": same == points and points > 10 // every}
