"""The checks and the timings that want a GPU, with torch and what this package imports and nothing else.

    PYTHONPATH=src python -m benchmarks.gpu                 # on a GPU: under 8 minutes
    PYTHONPATH=src python -m benchmarks.gpu --only mlp gpt  # some of the workloads, no checks

First come the tests of ``tests/gpu``, where pytest is installed, then four workloads, each in a process
of its own that trains with one loop after another. Everything goes into one JSON file, after each
measurement, so what was measured before a process died or its time was up is kept. Without a GPU all
runs in small, to see that it runs: checks that need one are named as skipped, nothing is compiled to
machine code, and times mean nothing.
"""

import argparse
import dataclasses
import gc
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from xml.etree import ElementTree

import torch
from torch import Tensor, nn

from benchmarks import contenders, others
from benchmarks.nets import GPT, resnet18
from benchmarks.one import hardware, measure
from benchmarks.registry import Contender
from benchmarks.table import aligned
from benchmarks.workloads import Job, Workload, cnn, mlp, ring

ROOT = Path(__file__).parents[1]
HEADINGS = ("", "us a step", "lowest-highest", "x plain", "a second", "first epoch s", "peak MB",
            "weights apart, % of their way")
CHECKS_S, BUDGET_S = 150.0, 450.0  # for the tests, and for everything


class TiedGPT(GPT):
    """The GPT of 124 million parameters: its last layer is its table of tokens."""

    def __init__(self, vocabulary: int, length: int, width: int, heads: int, layers: int) -> None:
        super().__init__(vocabulary, length, width, heads, layers)
        self.head = nn.Linear(width, vocabulary, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.head.weight = self.tokens.weight


def few(folder: Path | None) -> tuple[Tensor, Tensor]:
    """Return some points of the plane."""
    return ring(folder, 64)


def images(count: int, channels: int, size: int) -> Callable[[Path | None], tuple[Tensor, Tensor]]:
    """Return a function that draws pictures of ten classes."""
    return lambda folder: (torch.randn(count, channels, size, size), torch.randint(10, (count,)))


def tokens(count: int, length: int, vocabulary: int) -> Callable[[Path | None], tuple[Tensor, Tensor]]:
    """Return a function that draws texts; the label of a token is the next one."""
    def draw(folder: Path | None) -> tuple[Tensor, Tensor]:
        ids = torch.randint(vocabulary, (count, length + 1))
        return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()

    return draw


def workloads(small: bool) -> dict[str, Workload]:
    """Return what is trained, or the same in small."""
    rows, vocabulary, length, sizes = ((64, 50, 16, (32, 2, 2)) if small else (400, 50_304, 1_024, (768, 12, 12)))
    return {
        "mlp": Workload("MLP 2-4-8-1 on 10,000 rows, batch 100", few if small else ring, mlp, 1,
                        16 if small else 100, 2 if small else 16,
                        nn.BCEWithLogitsLoss, learning_rate=1e-2),
        "cnn": Workload("CNN on 60,000 random pictures of 28 by 28, batch 128", images(64 if small else 60_000, 1, 28),
                        cnn, 10, 16 if small else 128, 2 if small else 6),
        "resnet": Workload("ResNet-18 on 20,000 random pictures of 32 by 32, batch 512, bf16",
                           images(8 if small else 20_000, 3, 32), resnet18, 10, 4 if small else 512,
                           2 if small else 6, optimizer=torch.optim.SGD, learning_rate=1e-2),
        "gpt": Workload(f"GPT of {sizes[2]} layers of {sizes[0]} on {length:,} tokens, batch 8, bf16",
                        tokens(rows, length, vocabulary), lambda: TiedGPT(vocabulary, length, *sizes), 0, 8,
                        2 if small else 4, learning_rate=1e-4)}


IN_BF16 = ("resnet", "gpt")


def compiled_net(job: Job, bf16: bool) -> float | None:
    """The plain loop with the net compiled."""
    job.net.compile(backend="inductor" if job.device.type == "cuda" else "eager")
    return contenders.plain(job, bf16=bf16)


def lightning(job: Job, bf16: bool) -> float | None:
    """pytorch-lightning, in the precision of the others."""
    return others.lightning(job, precision="bf16-mixed" if bf16 else "32-true")


def loops(bf16: bool) -> dict[str, Callable[[Job], float | None]]:
    """Return the loops to time, by name."""
    precision = {"mixed_precision": "bf16"} if bf16 else {}
    found: dict[str, Callable[[Job], float | None]] = {
        "plain": lambda job: contenders.plain(job, bf16=bf16),
        "compiled": lambda job: compiled_net(job, bf16),
        "torchkeras exact": lambda job: contenders.torchkeras(job, **precision),
        "torchkeras fast": lambda job: (contenders.torchkeras_long(job, **precision) if job.device.type == "cuda"
                                        else contenders.torchkeras(job, speed="fast", **precision))}
    if importlib.util.find_spec("pytorch_lightning"):
        found["pytorch-lightning"] = lambda job: lightning(job, bf16)
    return found | {"plain, again": found["plain"]}  # what the machine itself does to a time


def work(options: argparse.Namespace) -> None:
    """Measure all loops on one workload in this process; print a line of JSON for each."""
    small, bf16 = not torch.cuda.is_available(), options.worker in IN_BF16
    workload = workloads(small)[options.worker]
    if small:
        torch.set_num_threads(1)
        workload = dataclasses.replace(workload, title=f"{workload.title}, in small")
    reference = loops(bf16)["plain"]
    for name, loop in loops(bf16).items():
        if torch.cuda.is_available():
            gc.collect()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        try:
            found = measure(Contender(loop, reference=reference), workload)
            found["peak"] = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        except Exception as error:
            found = {"error": " ".join(f"{type(error).__name__}: {error}".split())[:200]}
        print(json.dumps({"loop": name, "workload": options.worker, "title": workload.title,
                          "batch_size": workload.batch_size, **found}), flush=True)
        torch.compiler.reset()


def call(command: list[str], seconds: float, sound: tuple[int, ...] = (0,)) -> Iterator[str]:
    """Yield the lines that a process printed, and why it ended if not with a ``sound`` exit code.

    It is ended when its time is up.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    with tempfile.TemporaryFile("w+") as errors, tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, text=True,
                                   stdout=output, stderr=errors)
        late = False
        try:
            process.wait(timeout=max(seconds, 1))
        except subprocess.TimeoutExpired:
            late = True
            process.kill()
            process.wait()
            yield json.dumps({"error": f"not done within {seconds:.0f} s"})
        output.seek(0)
        yield from output.read().splitlines()
        errors.seek(0)
        if not late and process.returncode not in sound:  # below 0: by a signal, as if memory runs out
            said = " ".join(errors.read().split())[-300:]
            yield json.dumps({"error": f"ended with exit code {process.returncode}: {said}"})


def checks(seconds: float) -> dict[str, Any]:
    """Run the tests of ``tests/gpu``; return the outcome of each by name."""
    if importlib.util.find_spec("pytest") is None:
        return {"error": "pytest is not installed: the tests of tests/gpu are left out"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = ["-m", "pytest", "tests/gpu", "-q", "-c", os.devnull, "--rootdir", str(ROOT), "--import-mode=importlib",
                   "-p", "no:cacheprovider", "-o", f"pythonpath={ROOT}", f"--junitxml={report}"]
        printed = list(call(command, seconds, sound=(0, 1)))  # 1: a test failed, which the report tells
        if not report.exists():
            told = [line for line in printed if line.startswith('{"error"')]
            return {"error": "\n".join(dict.fromkeys((*told, *printed[-3:])))}
        found = {f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}": outcome_of(case)
                 for case in ElementTree.parse(report).iter("testcase")}
        return found or {"error": "no check was found in tests/gpu"}


def outcome_of(case: ElementTree.Element) -> str:
    """Return how a test of a JUnit report ended, and why if it did not pass."""
    for kind in ("failure", "error", "skipped"):
        found = case.find(kind)
        if found is not None:
            return f"{kind}: {found.get('message', '')[:200]}"
    return "passed"


def failures(result: dict[str, Any]) -> list[str]:
    """Return what failed, by name: checks, all checks together, or a timing."""
    failed = ["the checks as a whole" if name == "error" else name for name, outcome in result["checks"].items()
              if name == "error" or outcome.startswith(("failure", "error"))]
    return failed + ["a timing, see above"] * any("error" in one for one in result["timings"])


def row(found: dict[str, Any], plain: float) -> list[str]:
    """Return a line of the table."""
    if "error" in found:
        return [found.get("loop", "?"), *["-"] * (len(HEADINGS) - 2), found["error"]]
    later = [1e6 * one / found["steps"] for one in found["times"][len(found["times"]) // 2:]]
    took, peak = median(later), found["peak"]
    apart = f"{100 * found['apart'] / found['moved']:.3f}" if found["moved"] else "did not move"
    return [found["loop"], f"{took:.0f}", f"{min(later):.0f}-{max(later):.0f}",
            f"{took / plain:.2f}" if plain else "-", f"{1e6 * found['batch_size'] / took:,.0f}",
            f"{found['times'][0]:.1f}", "-" if peak is None else f"{peak / 1e6:,.0f}", apart]


def table(timings: list[dict[str, Any]]) -> str:
    """Return all timings in columns, workload by workload."""
    lines, at = [list(HEADINGS)], ""
    titles = {one["workload"]: one["title"] for one in timings if "title" in one}
    for found in timings:
        if found["workload"] != at:
            at = found["workload"]
            lines.append([f"\n{at}: {titles.get(at, '')}"])
        plain = [1e6 * median(one["times"][len(one["times"]) // 2:]) / one["steps"] for one in timings
                 if one["workload"] == at and one.get("loop") == "plain" and "times" in one]
        lines.append(row(found, plain[0] if plain else 0.0))
    widths = [max(len(line[column]) for line in lines if len(line) > 1) for column in range(len(HEADINGS))]
    return "\n".join(aligned(line, widths) if len(line) > 1 else line[0] for line in lines)


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    names = list(workloads(small=True))
    parser.add_argument("--only", nargs="+", choices=names, help=f"of {', '.join(names)}; leaves the checks out")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")) / "gpu.json",
                        help="the JSON file; default: gpu.json in $OUT or here")
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds for everything")
    parser.add_argument("--worker", choices=names, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    options = parse(argv)
    if options.worker:
        work(options)
        return
    ends, machine = time.monotonic() + options.budget, hardware()
    chosen = options.only or list(workloads(small=True))
    result: dict[str, Any] = {"hardware": machine, "checks": {}, "timings": []}
    if not options.only:
        result["checks"] = checks(min(CHECKS_S, options.budget / 3))
        for name, outcome in result["checks"].items():
            print(f"{name}: {outcome}", flush=True)
    for number, name in enumerate(chosen):
        # long ones come last: what those before leave of their time is theirs
        seconds = (ends - time.monotonic()) / (len(chosen) - number) * (1.0 if number == len(chosen) - 1 else 0.9)
        result["timings"] += [{"workload": name} | json.loads(line) for line in call(
            ["-m", "benchmarks.gpu", "--worker", name], seconds) if line.startswith("{")]
        options.out.write_text(json.dumps(result, indent=1))
        print(f"{name}: done, {ends - time.monotonic():.0f} s are left", file=sys.stderr)
    print(table(result["timings"]), f"{machine['gpu'] or machine['cpu'] + ', no GPU: times mean nothing'}; "
          f"torch {machine['torch']}, Python {machine['python']}", sep="\n\n")
    failed = failures(result)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
