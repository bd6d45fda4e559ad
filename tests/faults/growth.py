"""Many saves and resumes leave nothing behind and cost no more each time."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from tests.faults import runs
from torchkeras.checkpoint import store


def memory() -> float:
    """What this process holds in main memory, in MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def held() -> tuple[int, int]:
    """Open files and threads."""
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def size(path: Path) -> int:
    """Bytes of the newest state."""
    return sum(one.stat().st_size for one in runs.states(path)[-1].iterdir())


def growth(saves: int, resumes: int) -> dict[str, Any]:
    """One run of many epochs, a save at the end of each; then many resumes of it, each with one epoch more."""
    total = saves + resumes
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "best"
        runs.run(path, epochs=3, length=total, resume=True)
        gc.collect()
        first, before, used = size(path), held(), memory()
        runs.run(path, epochs=saves, length=total, resume=True)
        gc.collect()
        per_hundred = (memory() - used) / saves * 100
        for number in range(resumes):
            runs.run(path, epochs=saves + number + 1, length=total, resume=True)
        gc.collect()
        last, after = size(path), held()
        folder = Path(f"{path}.state")
        others = [one.name for one in folder.iterdir() if not one.name.isdigit()]
        readable = store.CheckpointStore(folder).newest()[0] is not None
        states = len(runs.states(path))
    an_epoch = (last - first) / (total - 3)
    right = (an_epoch < 200 and states == 2 and sorted(others) == [".lock", ".owner"] and before == after and readable
             and (per_hundred < 1 or saves < 100))
    return {"passed": int(right), "of": 1, "right": right, "bytes an epoch": round(an_epoch), "states": states,
            "MB per 100 epochs": round(per_hundred, 2), "open files and threads": f"{before} then {after}"}
