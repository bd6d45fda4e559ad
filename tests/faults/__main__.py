"""Every fault that can be thought of, and whether a run survives it: ``python -m tests.faults`` (``make faults``)."""

from __future__ import annotations

import argparse
import json
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.faults import damage, forgeries, growth, kills, logs, places, processes, runs, strangers

FULL: dict[str, Callable[[], dict[str, Any]]] = {
    "kill -9 at random": lambda: kills.side_by_side(200),
    "kill -9 with a loss with a state, two optimizers, odd sizes": lambda: kills.kills(40, more=True),
    "control: without generators": kills.control,
    "SIGTERM at random": lambda: kills.kills(30, 1, signal.SIGTERM, 143),
    "a crash at every file operation": kills.crashes,
    "truncated files": lambda: damage.truncated(),
    "single bits flipped": lambda: damage.flipped(600),
    "control: the same by weights_only": damage.unchecked,
    "malicious states": damage.malicious,
    "odd files around the states": forgeries.around,
    "files that claim too much": forgeries.too_much,
    "full disk": lambda: places.full_disk(20),
    "full disk under the best file": lambda: places.full_under_best(20),
    "places that cannot be written": places.unwritable,
    "two runs in one folder": places.locked,
    "200 saves, 20 resumes": lambda: growth.growth(200, 20),
    "2 processes, one killed": lambda: processes.killed(2),
    "loggers in runs that are killed": lambda: logs.loggers_killed(20),
    "2 processes with FSDP, one killed": lambda: processes.killed(2, fsdp=True),
    "strangers who connect": strangers.connecting,
    "strangers' files in the temporary folder": strangers.planted,
}
QUICK: dict[str, Callable[[], dict[str, Any]]] = {
    "kill -9 at random": lambda: kills.kills(12),
    "kill -9 with a loss with a state, two optimizers, odd sizes": lambda: kills.kills(4, more=True),
    "control: without generators": kills.control,
    "SIGTERM at random": lambda: kills.kills(4, 1, signal.SIGTERM, 143),
    "a crash at every file operation": lambda: kills.crashes(every=7),
    "truncated files": lambda: damage.truncated(sparse=40),
    "single bits flipped": lambda: damage.flipped(60),
    "control: the same by weights_only": damage.unchecked,
    "malicious states": damage.malicious,
    "odd files around the states": lambda: forgeries.around(every=4),
    "files that claim too much": lambda: forgeries.too_much(every=3),
    "full disk": lambda: places.full_disk(3),
    "full disk under the best file": lambda: places.full_under_best(2),
    "places that cannot be written": places.unwritable,
    "two runs in one folder": places.locked,
    "200 saves, 20 resumes": lambda: growth.growth(20, 2),
    "2 processes, one killed": lambda: processes.killed(1),
    "loggers in runs that are killed": lambda: logs.loggers_killed(3),
    "strangers who connect": lambda: strangers.connecting(quick=True),
    "strangers' files in the temporary folder": strangers.planted,
}


def main() -> int:
    """Run all checks, print a line for each, and say by the exit code whether all were right."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few of each: what the tests run")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="checks whose names begin so")
    parser.add_argument("--out", type=Path, help="write the results as JSON")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="This process .* is multi-threaded")
    warnings.filterwarnings("ignore", message="Detected pickle protocol")
    torch.set_num_threads(1)
    runs.warm_up()
    results = {}
    for name, check in (QUICK if options.quick else FULL).items():
        if options.only and not name.startswith(tuple(options.only)):
            continue
        began = time.perf_counter()
        results[name] = {**check(), "seconds": round(time.perf_counter() - began, 1)}
        one = results[name]
        print(f"{'ok ' if one['right'] else 'BAD'} {name}: {one['passed']} of {one['of']} in {one['seconds']} s  "
              + ", ".join(f"{key}: {value}" for key, value in one.items()
                          if key not in ("passed", "of", "right", "seconds")), flush=True)
    if options.out:
        options.out.write_text(json.dumps(results))
    return 0 if all(one["right"] for one in results.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
