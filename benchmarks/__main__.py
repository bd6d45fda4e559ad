"""Train the same nets with each library in turn, and print how their times compare: ``python -m benchmarks``."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import one, peers
from benchmarks.registry import CONTENDERS
from benchmarks.table import table
from benchmarks.workloads import WORKLOADS

ROOT = Path(__file__).parents[1]
LIMIT_S = 1800  # for one process


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="everything tiny: does it run?")
    parser.add_argument("--only", nargs="+", choices=WORKLOADS, metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, metavar="CONTENDER", default=list(CONTENDERS),
                        help=f"of {', '.join(CONTENDERS)}")
    parser.add_argument("--data", type=lambda path: Path(path).resolve(), help="folder with MNIST's idx files, gzipped")
    parser.add_argument("--repeats", type=int, default=3, help="fresh processes for each measurement")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="torch's; default: one for each core")
    parser.add_argument("--cpu-time", action="store_true",
                        help="time by what the CPU did for the process: for a machine that is shared, with --threads 1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="write every measurement as JSON")
    parser.add_argument("--environments", type=Path, default=peers.HERE, help="folder that holds those of the peers")
    return parser.parse_args(argv)


def call(python: str, arguments: list[str]) -> list[dict[str, Any]]:
    """What a fresh process of ``benchmarks.one`` reports. It runs in a folder of its own: some peers write files."""
    inherited = os.environ.get("PYTHONPATH") if python == sys.executable else None  # may hold this torchkeras
    paths = os.pathsep.join(filter(None, [str(ROOT), inherited]))
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([python, "-m", "benchmarks.one", *arguments], cwd=folder, text=True, capture_output=True,
                              env={**os.environ, "PYTHONPATH": paths}, timeout=LIMIT_S)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rsplit("\n", 1)[-1])
    return [json.loads(line) for line in done.stdout.splitlines()]


@cache
def inventory(python: str) -> dict[str, Any]:
    """What an interpreter can run, and on what."""
    return one.inventory() if python == sys.executable else call(python, ["--inventory"])[0]


def pythons(options: argparse.Namespace) -> dict[str, str]:
    """The interpreter for each contender; where a peer's environment is not set up, the one that runs this."""
    found = {name: peers.python_of(CONTENDERS[name].environment, options.environments)
             if CONTENDERS[name].environment else None for name in options.contenders}
    return {name: str(path or sys.executable) for name, path in found.items()}


def calls(options: argparse.Namespace, runnable: dict[str, str],
          workloads: list[str]) -> Iterator[tuple[list[str], list[str], str]]:
    """Contenders and workloads of each process: one of each, in turn; in a smoke run all that share an interpreter."""
    names = list(runnable)
    if options.smoke:
        for python in dict.fromkeys(runnable.values()):
            yield [name for name in names if runnable[name] == python and CONTENDERS[name].smoke], workloads, python
        return
    for repeat in range(options.repeats):
        first = repeat * len(names) // options.repeats
        for workload in workloads:
            for name in names[first:] + names[:first]:
                if CONTENDERS[name].takes(workload):
                    yield [name], [workload], runnable[name]


def measured(options: argparse.Namespace, names: list[str], workloads: list[str], python: str) -> list[dict[str, Any]]:
    """Run one process; if it dies, that is what is reported."""
    arguments = ["--contenders", *names, "--workloads", *workloads, "--threads", str(options.threads), "--seed",
                 str(options.seed), *(["--smoke"] if options.smoke else []),
                 *(["--cpu-time"] if options.cpu_time else []),
                 *(["--data", str(options.data)] if options.data else [])]
    try:
        return call(python, arguments)
    except (RuntimeError, subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        return [{"contender": name, "workload": workload, "error": str(error)[-300:]}
                for name in names for workload in workloads]


def below(options: argparse.Namespace, versions: dict[str, str | None], hardware: dict[str, Any]) -> str:
    """What the numbers depend on, and who is not among them."""
    able = [name for name, found in versions.items() if found is not None]
    missing = [name for name, found in versions.items() if found is None]
    torches = {name: inventory(python)["hardware"]["torch"] for name, python in pythons(options).items()}
    return "\n".join([
        f"{hardware['cpu']}, {hardware['cores']} cores, torch threads: {options.threads}, "
        f"GPU: {hardware['gpu'] or 'none'}; timed by {'CPU time' if options.cpu_time else 'the clock on the wall'}",
        f"Python {hardware['python']}; " + "; ".join(dict.fromkeys(
            f"{CONTENDERS[name].package} {versions[name]}" for name in able)),
        *(f"{name} ran with torch {torches[name]}" for name in able if torches[name] != hardware["torch"]),
        *(f"{name} {CONTENDERS[name].note}" for name in able if CONTENDERS[name].note),
        *([f"not installed: {', '.join(missing)}"] if missing else [])])


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    where = pythons(options)
    versions = {name: inventory(python)["versions"][name] for name, python in where.items()}
    hardware = inventory(sys.executable)["hardware"]
    workloads = options.only or [name for name, each in WORKLOADS.items() if hardware["gpu"] or not each.needs_gpu]
    planned = list(calls(options, {name: python for name, python in where.items() if versions[name]}, workloads))
    measurements: list[dict[str, Any]] = []
    for number, (names, chosen, python) in enumerate(planned, start=1):
        print(f"{number}/{len(planned)}  {', '.join(chosen)}: {', '.join(names)}", file=sys.stderr)
        measurements += measured(options, names, chosen, python)
    if options.smoke:
        print("a smoke run: these times mean nothing\n")
    print(table(measurements), below(options, versions, hardware), sep="\n\n")
    if options.out:
        options.out.write_text(json.dumps({"hardware": hardware, "threads": options.threads,
                                           "cpu_time": options.cpu_time, "versions": versions,
                                           "measurements": measurements}, indent=1))


if __name__ == "__main__":
    main()
