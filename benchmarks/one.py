"""One measurement: ``python -m benchmarks.one --contenders "plain loop" --workloads tiny`` prints a line of JSON."""

import argparse
import contextlib
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.registry import CONTENDERS, Contender, Loop
from benchmarks.workloads import WORKLOADS, Job, Workload, weights_of

TOLERANCE = 0.01  # of the way the weights have come: far above rounding, far below any mistake of a loop


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """What is printed here is not shown: the output is for JSON."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def train(run: Loop, job: Job, seed: int) -> float | None:
    """Let a loop train a job; what it draws at random is the same for all."""
    torch.manual_seed(seed)
    with silence():
        return run(job)


def measure(contender: Contender, workload: Workload, seed: int = 0, data: Path | None = None,
            smoke: bool = False, cpu_time: bool = False) -> dict[str, Any]:
    """Time a contender, then hold its weights and accuracy against the reference's after a short training."""
    shuffle = not contender.own_order
    reference, checked = (workload.gate_job(seed, shuffle, data, smoke) for _ in range(2))
    before = weights_of(reference.net)
    expected = train(contender.reference, reference, seed)
    job = workload.job(seed, data, smoke)
    job.timer = time.process_time if cpu_time else time.perf_counter
    train(contender.run, job, seed)
    accuracy = train(contender.run, checked, seed)
    if {len(job.times) - job.epochs, len(checked.times) - checked.epochs} != {0}:
        raise RuntimeError(f"reported {len(job.times)} epochs of {job.epochs}")
    apart, moved = (differences(checked.weights, reference.weights), differences(reference.weights, before))
    return {"times": job.times, "steps": -(-len(job.x) // job.batch_size), "difference": largest(apart),
            "apart": apart.norm().item(), "moved": moved.norm().item(), "accuracy": accuracy,
            "expected_accuracy": expected}


def differences(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> torch.Tensor:
    """How each weight differs, all in one row."""
    return torch.cat([(weights[name].double() - others[name].double()).reshape(-1) for name in others])


def largest(apart: torch.Tensor) -> float:
    """The largest difference of any weight; infinite where a weight is not a finite number."""
    return apart.abs().max().item() if apart.isfinite().all() else math.inf


def is_right(found: dict[str, Any]) -> bool:
    """Whether a measurement has passed the gate; without that its times mean nothing."""
    if not 0 < found["moved"] < math.inf or not found["apart"] <= TOLERANCE * found["moved"]:
        return False
    same = (found["accuracy"] is None) == (found["expected_accuracy"] is None)
    return same and abs((found["accuracy"] or 0) - (found["expected_accuracy"] or 0)) < 0.01


def hardware() -> dict[str, Any]:
    """What this runs on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = (one.split(":", 1)[1].strip() for one in lines if one.startswith("model name"))
    return {"cpu": next(named, platform.processor() or platform.machine()), "cores": os.cpu_count(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
            "python": platform.python_version(), "torch": torch.__version__}


def inventory() -> dict[str, Any]:
    """The hardware, and the version of each contender that this interpreter can run."""
    with silence():  # some print when they are imported
        return {"hardware": hardware(), "versions": {name: one.installed() for name, one in CONTENDERS.items()}}


def report(name: str, workload: str, options: argparse.Namespace) -> dict[str, Any]:
    """A measurement with its names; what went wrong in place of numbers."""
    names = {"contender": name, "workload": workload}
    try:
        return names | measure(CONTENDERS[name], WORKLOADS[workload], options.seed, options.data, options.smoke,
                               options.cpu_time)
    except Exception as error:
        return names | {"error": " ".join(f"{type(error).__name__}: {error}".split())[:200]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=[])
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=[])
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--inventory", action="store_true", help="print what is installed here, and stop")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.inventory:
        print(json.dumps(inventory()))
    for workload in options.workloads:
        for name in filter(lambda name: CONTENDERS[name].takes(workload), options.contenders):
            print(json.dumps(report(name, workload, options)), flush=True)


if __name__ == "__main__":
    main()
