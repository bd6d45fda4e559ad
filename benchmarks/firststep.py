"""How soon ``speed="fast"`` helps: without and with compiled graphs of an earlier run.

    python -m benchmarks.firststep

Each measurement is a fresh process that trains one net in fast mode with a cache folder of its own:
first an empty one, then the same again. "first fast step" is the time from the call of ``fit`` to the
end of the first step by a compiled graph; what compilers and other processes started by it did is in
the second column. Imports of torch and this package are not counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.one import hardware
from benchmarks.table import aligned
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
HEADINGS = ("", "cache", "first fast step s", "CPU s", "of other processes", "trained by")
LIMIT_S = 1800
STEPS = 250  # enough to try all ways


def cpu_times() -> tuple[float, float]:
    """Seconds that the CPU worked for this process, and for those it started."""
    now = os.times()
    return now.user + now.system, now.children_user + now.children_system


def work(options: argparse.Namespace) -> dict[str, Any]:
    """Train a net in fast mode in this process; return when the first compiled step was done."""
    import torch

    from torchkeras import KerasModel
    from torchkeras.acceleration import autotuner

    torch.set_num_threads(options.threads)
    autotuner.COMPILE_TIME = 1e-9  # compile, however short the run
    autotuner.SLOWER = 1e9  # and whatever was found before
    job = WORKLOADS[options.worker].job(0, smoke=options.smoke)
    model = KerasModel(job.net, job.loss_fn, ["accuracy"], job.optimizer())
    first: list[float] = []
    step = autotuner.StepAutotuner.step

    def watched(tuner: Any, *arguments: Any) -> Any:
        compiled = tuner.candidate.compiles > 0
        output = step(tuner, *arguments)
        if compiled and not first:
            wall, (own, others) = time.perf_counter() - began[0], cpu_times()
            first.extend((wall, own - began[1], others - began[2]))
        return output

    autotuner.StepAutotuner.step = watched  # type: ignore[method-assign]
    began = (time.perf_counter(), *cpu_times())
    model.fit((job.x, job.y), epochs=1 + STEPS * job.batch_size // len(job.x), batch_size=job.batch_size,
              ckpt_path=None, patience=None, quiet=True, speed="fast")
    return {"seconds": first or None, "note": next(one for one in model.run.notes[::-1] if "(plain" in one)}


def call(workload: str, home: str, options: argparse.Namespace) -> dict[str, Any]:
    """Run a worker with its caches below ``home``."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("TORCHINDUCTOR_CACHE_DIR", "TORCHKERAS_COMPILE_CACHE")}
    command = [sys.executable, "-m", "benchmarks.firststep", "--worker", workload, "--threads", str(options.threads),
               *(["--smoke"] if options.smoke else [])]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=LIMIT_S,
                          env={**environment, "XDG_CACHE_HOME": home, "LOCALAPPDATA": home, "TMPDIR": home})
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(workload: str, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Return what a run without a cache found, and those after it."""
    with tempfile.TemporaryDirectory() as home:
        cold, *warm = (call(workload, home, options) for _ in range(1 + options.repeats))
    return {"empty": [cold], "filled": warm}


def row(workload: str, cache: str, found: list[dict[str, Any]]) -> list[str]:
    """Return a line of the table: medians, and the range of the first column."""
    times = [one["seconds"] for one in found]
    if not all(times):
        return [workload, cache, "never", "-", "-", found[0]["note"]]
    columns = [median(column) for column in zip(*times, strict=True)]
    spread = f" ({min(times)[0]:.1f}-{max(times)[0]:.1f})" if len(times) > 1 else ""
    return [workload, cache, f"{columns[0]:.2f}{spread}", f"{columns[1]:.2f}", f"{columns[2]:.2f}",
            found[-1]["note"].removeprefix("fast: ").split(" (")[0]]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.firststep", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, default=["tiny", "mnist"], metavar="WORKLOAD")
    parser.add_argument("--repeats", type=int, default=3, help="runs with the filled cache")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--smoke", action="store_true", help="everything tiny: does it run?")
    parser.add_argument("--out", type=Path, help="write every measurement as JSON")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        print(json.dumps(work(options)))
        return
    found = {name: measured(name, options) for name in options.only}
    lines = [list(HEADINGS), *(row(name, cache, each) for name, both in found.items() for cache, each in both.items())]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    print("\n".join(aligned(line, widths) for line in lines))
    machine = hardware()
    print(f"\n{machine['cpu']}, {options.threads} threads, GPU: {machine['gpu'] or 'none'}; torch {machine['torch']}")
    if options.out:
        options.out.write_text(json.dumps({"hardware": machine, "measured": found}, indent=1))


if __name__ == "__main__":
    main()
