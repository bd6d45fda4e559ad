"""Runs with logs that are killed at random moments: each log must hold the rows of the run without a break."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.faults import kills, runs
from torchkeras import Callback
from torchkeras.kerascallbacks import CSVLogger, EpochCheckpoint, JSONLLogger, TensorBoardCallback

KILLS_A_RUN = 3


class Slow(Callback):
    """Gives a kill between a row and its state a chance."""

    def on_validation_epoch_end(self, model: Any) -> None:
        time.sleep(0.02)


def loggers(folder: Path) -> list[Any]:
    """Every log that is a file; MLflow and W&B take seconds to begin, tests/callbacks stops runs with them."""
    found: list[Any] = [CSVLogger(folder / "log.csv"), JSONLLogger(folder / "log.jsonl"),
                        EpochCheckpoint(folder / "weights", max_ckpt=2)]
    if find_spec("tensorboard"):
        found.append(TensorBoardCallback(folder, "events"))
    return found


def train(folder: Path) -> None:
    """The run of a child."""
    warnings.simplefilter("ignore")
    runs.run(folder / "best", [*loggers(folder), Slow()], epochs=4, resume=True, save_every=5)


def rows(folder: Path) -> dict[str, Any]:
    """What all logs of a folder hold."""
    found: dict[str, Any] = {name: (folder / name).read_text() for name in ("log.csv", "log.jsonl")}
    found["weights"] = sorted(os.listdir(folder / "weights"))
    if find_spec("tensorboard"):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(folder / "events")).Reload()
        found["tensorboard"] = {name: [(one.step, one.value) for one in events.Scalars(name)]
                                for name in events.Tags()["scalars"]}
    return found


def stopped(folder: Path, dice: random.Random, longest: float) -> int:
    """Kill a run up to so many times, then let it end; how often it was killed."""
    killed = 0
    for _ in range(KILLS_A_RUN):
        pid = kills.child(lambda: train(folder))
        time.sleep(dice.random() * longest)
        os.kill(pid, signal.SIGKILL)
        killed += kills.ended(pid) == -signal.SIGKILL
    return killed if kills.ended(kills.child(lambda: train(folder))) == 0 else -1


def loggers_killed(count: int) -> dict[str, Any]:
    """Kill runs with logs, take them up again, and compare their logs with those of the run without a break."""
    dice, right, killed, different = random.Random(0), 0, 0, []
    with tempfile.TemporaryDirectory() as name:
        whole = Path(name) / "whole"
        whole.mkdir()
        began = time.perf_counter()
        kills.ended(kills.child(lambda: train(whole)))
        longest = 0.8 * (time.perf_counter() - began)
        expected = rows(whole)
        for number in range(count):
            folder = Path(name) / str(number)
            folder.mkdir()
            times = stopped(folder, dice, longest)
            found = rows(folder)
            unlike = [log for log, one in expected.items() if found[log] != one]
            right, killed = right + (not unlike and times >= 0), killed + max(times, 0)
            different += [f"{number}: {[(log, found[log]) for log in unlike]}"[:500]] if unlike else []
    return {"passed": right, "of": count, "right": right == count and killed > 0, "kills": killed,
            "different": different[:3]}
