"""What a step costs over the tuned loop by hand, in this tree and beside another checkout.

    python -m benchmarks.stepcost --baseline ../other/src

Fresh processes take turns, one with each tree; in each the tuned loop runs beside ``fit``, and a
time is the CPU time of a step in the quickest epoch, on one thread. Each ratio is between
neighbours: the time over the tuned loop's of the same process, of this tree over the baseline.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.nets import Scale
from benchmarks.one import hardware, is_right, measure
from benchmarks.registry import CONTENDERS
from benchmarks.table import aligned
from benchmarks.workloads import WORKLOADS, Workload

ROOT = Path(__file__).parents[1]
EPOCHS = 12
TUNED, WAYS = "tuned loop", {"exact": "torchkeras exact", "fast": "torchkeras fast"}
HEADINGS = ("", "us a step", "baseline", "us over tuned", "baseline", "ratio", "lowest-highest", "weights")


def signs(folder: Path | None) -> tuple[Tensor, Tensor]:
    x = torch.randn(2000, 1)
    return x, (x > 0).float()


CASES = {name: dataclasses.replace(one, epochs=EPOCHS) for name, one in {
    "empty net": WORKLOADS["empty"],
    "empty net, accuracy": Workload("a net of one parameter that tells signs", signs, Scale, 1, 10, EPOCHS,
                                    nn.BCEWithLogitsLoss, torch.optim.SGD, 1e-2),
    "MLP": dataclasses.replace(WORKLOADS["tiny"], classes=0),
    "MLP, accuracy": WORKLOADS["tiny"]}.items()}


def step_time(found: dict[str, Any]) -> float:
    """Microseconds a step in the quickest epoch of the second half: by then all is set up."""
    later = found["times"][len(found["times"]) // 2:]
    return 1e6 * float(min(later)) / int(found["steps"])


def work(options: argparse.Namespace) -> dict[str, Any]:
    """Measure every case and way in this process: microseconds a step, and whether weights are right."""
    import torchkeras

    torch.set_num_threads(1)
    measured: dict[str, dict[str, Any]] = {}
    for case, workload in CASES.items():
        for name in (TUNED, *WAYS.values()):
            found = measure(CONTENDERS[name], workload, smoke=options.smoke, cpu_time=not options.wall)
            measured[f"{case}: {name}"] = {"us": step_time(found), "right": is_right(found),
                                           "difference": found["difference"]}
    return {"package": torchkeras.__file__, "measured": measured}


def call(source: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run a worker with the package of ``source``; return what it measured."""
    flags = [f"--{name}" for name in ("smoke", "wall") if getattr(options, name)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(source)])}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, "-m", "benchmarks.stepcost", "--worker", *flags], cwd=folder,
                              env=environment, text=True, capture_output=True, timeout=1800)
    if done.returncode:
        raise SystemExit(f"with {source}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if not Path(found["package"]).is_relative_to(source):
        raise SystemExit(f"{source} holds no package torchkeras: {found['package']} was imported.")
    measured: dict[str, Any] = found["measured"]
    return measured


def pairs(options: argparse.Namespace) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Measure this tree and the baseline in turn; every other time the baseline goes first."""
    found = []
    for repeat in range(options.repeats):
        sources = [ROOT / "src", options.baseline]
        order = sources if repeat % 2 == 0 else sources[::-1]
        print(f"{repeat + 1}/{options.repeats}", file=sys.stderr)
        one, other = (call(source, options) for source in order)
        found.append((one, other) if repeat % 2 == 0 else (other, one))
        if options.out:
            options.out.write_text(json.dumps({"hardware": hardware(), "pairs": found}, indent=1))
    return found


def row(case: str, way: str, found: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """Return the line of a case and a way; no times where weights are wrong."""
    key, floor = f"{case}: {WAYS[way]}", f"{case}: {TUNED}"
    name = f"{case}, {way}"
    if not all(one[key]["right"] for pair in found for one in pair):
        return [name, *["-"] * (len(HEADINGS) - 2), "wrong numbers"]
    times = [median(pair[side][key]["us"] for pair in found) for side in (0, 1)]
    over = [median(pair[side][key]["us"] - pair[side][floor]["us"] for pair in found) for side in (0, 1)]
    ratios = [new[key]["us"] / new[floor]["us"] * old[floor]["us"] / old[key]["us"] for new, old in found]
    furthest = max(one[key]["difference"] for pair in found for one in pair)
    return [name, *(f"{one:.1f}" for one in times), *(f"{one:+.1f}" for one in over), f"{median(ratios):.3f}",
            f"{min(ratios):.3f}-{max(ratios):.3f}", "bit-equal" if furthest == 0 else f"up to {furthest:.1e} apart"]


def table(found: list[tuple[dict[str, Any], dict[str, Any]]]) -> str:
    """Return the lines of all cases in columns."""
    lines = [list(HEADINGS), *(row(case, way, found) for case in CASES for way in WAYS)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADINGS))]
    return "\n".join(aligned(line, widths) for line in lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stepcost", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=lambda path: Path(path).resolve(), default=ROOT / "src",
                        help="the folder src of another checkout; default: this one, which shows the noise")
    parser.add_argument("--repeats", type=int, default=5, help="fresh processes for each tree")
    parser.add_argument("--wall", action="store_true", help="time by the clock on the wall, as a GPU needs")
    parser.add_argument("--smoke", action="store_true", help="everything tiny: does it run?")
    parser.add_argument("--out", type=Path, help="write every measurement as JSON, after each repeat")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    if options.worker:
        print(json.dumps(work(options)))
        return
    found = pairs(options)
    if options.smoke:
        print("a smoke run: these times mean nothing\n")
    machine = hardware()
    print(table(found), f"{machine['cpu']}, GPU: {machine['gpu'] or 'none'}, one thread, {options.repeats} repeats; "
          f"torch {machine['torch']}; timed by {'the clock on the wall' if options.wall else 'CPU time'}", sep="\n\n")


if __name__ == "__main__":
    main()
