"""Two processes under torchrun, one of which is killed: the job that torchrun starts again must end the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from tests.faults import runs
from torchkeras import Callback

RANK = int(os.environ.get("RANK", 0))


class Die(Callback):
    """Kills a process of the first attempt at a step."""

    def __init__(self, rank: int, step: int, folder: Path) -> None:
        self.rank, self.step, self.mark = rank, step, folder / "has-died"

    def on_step_end(self, model: Any) -> None:
        here = self.rank == RANK and model.run.global_step == self.step and model.run.stage == "train"
        if here and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


def job(folder: Path, victim: int, fsdp: bool) -> None:
    """What each process does."""
    torch.set_num_threads(1)
    callbacks = [Die(victim, 19, folder)] if victim >= 0 else []
    found = runs.run(folder / "best", callbacks, noise=False, resume=True, save_every=2, fsdp=fsdp)
    if RANK == 0:
        (folder / "found").write_text(json.dumps(found))


def launched(folder: Path, victim: int, fsdp: bool = False) -> dict[str, str]:
    """The job under torchrun, started again when a process dies; no victim with -1."""
    folder.mkdir()
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")]),
                   "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "2",
         "-m", "tests.faults.processes", str(folder), str(victim), "fsdp" * fsdp],
        env=environment, capture_output=True, text=True, timeout=300, cwd=folder)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads((folder / "found").read_text())


def killed(count: int, fsdp: bool = False) -> dict[str, Any]:
    """Kill the second process, then the first one, which writes the states."""
    same, seconds, different = 0, [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = launched(folder / "whole", -1, fsdp)
        for victim in range(count):
            began = time.perf_counter()
            found = launched(folder / f"without-{victim}", victim, fsdp)
            seconds.append(round(time.perf_counter() - began))
            died = (folder / f"without-{victim}" / "has-died").exists()
            unlike = [what for what, value in reference.items() if found[what] != value]
            same += died and not unlike
            different += [f"process {victim}: {unlike or 'did not die'}"] if unlike or not died else []
    return {"passed": same, "of": count, "right": same == count, "different": different, "seconds each": seconds}


if __name__ == "__main__":
    job(Path(sys.argv[1]), int(sys.argv[2]), bool(sys.argv[3]))
