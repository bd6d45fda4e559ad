"""Measure how costs grow, beside plain loops: ``python -m benchmarks.growth [NAME ...]``.

A row is a function here, in the section of its subject. Each measurement is a process of its own,
so that memory which one gave back is no room for another; a row and what it is held against take
turns. Time is what the CPU did for the process, memory the peak over what it held before.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
LIMIT_S = 900  # for one process
MB = 1e6
HEADINGS = ("row", "measured", "against", "figure", "", "asked", "", "what it is")

Measure = Callable[[float], float]  # from a scale, 1 for the sizes that a row names, to a number


@dataclass(frozen=True, kw_only=True)
class Row:
    """A figure of growth.

    Attributes:
        what: one line on what the figure is.
        unit: of the figure.
        limit: the most that is asked.
        measure: what is measured.
        against: what it is held against, such as a plain loop; None for a figure that stands alone.
        compare: the figure, from the medians of both.
    """

    what: str
    unit: str
    limit: float
    measure: Measure
    against: Measure | None
    compare: Callable[[float, float], float]


ROWS: dict[str, Row] = {}


def row(name: str, what: str, *, unit: str, limit: float, against: Measure | None = None,
        compare: Callable[[float, float], float] | None = None) -> Callable[[Measure], Measure]:
    """Enter a function as a row. A name is the section, a hyphen and a word."""
    chosen = compare or (alone if against is None else difference)

    def enter(measure: Measure) -> Measure:
        ROWS[name] = Row(what=what, unit=unit, limit=limit, measure=measure, against=against,
                         compare=chosen)
        return measure

    return enter


def alone(value: float, _: float) -> float:
    return value


def difference(value: float, other: float) -> float:
    return value - other


def ratio(value: float, other: float) -> float:
    return value / other


def exponent(factor: float) -> Callable[[float, float], float]:
    """Return a comparison for two sizes so many times apart: 1 is linear, 2 is quadratic."""
    return lambda value, other: math.log(value / other) / math.log(factor)


def sized(most: float, scale: float, least: int = 64) -> int:
    """Return how many of something there are at a scale."""
    return max(round(most * scale), least)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return what the CPU did for this process meanwhile, all threads together."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def peak(work: Callable[[], object]) -> float:
    """Return the megabytes at the highest moment of some work, over those before; needs Linux."""
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten
    before = memory("VmRSS")
    kept = work()  # held, as the caller would
    highest = memory("VmHWM")
    del kept
    return (highest - before) / MB


def memory(name: str) -> int:
    """Return a count of bytes from what Linux tells of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


# ---- notebook: the file that keeps the last view of a run ----

def saved_notebook(epochs: int) -> float:
    """Return the kilobytes of a notebook file with one cell that fitted for so many epochs."""
    from torchkeras import KerasModel
    from torchkeras.display.notebook import NotebookProgress

    views: list[dict[str, str]] = []
    x = torch.randn(8, 4)
    model = KerasModel(nn.Linear(4, 2), "cross_entropy", ["accuracy"], "sgd")
    data = (x, x.argmax(1) % 2)
    model.fit(data, data, epochs=epochs, ckpt_path=None, patience=None, quiet=True,
              callbacks=[NotebookProgress(show=views.append)])
    shown = {kind: text.splitlines(keepends=True) for kind, text in views[-1].items()}
    output = {"output_type": "display_data", "data": shown, "metadata": {}}
    cell = {"cell_type": "code", "execution_count": 1, "metadata": {}, "source": ["model.fit(...)"],
            "outputs": [output]}
    notebook = {"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    return len(json.dumps(notebook, indent=1, ensure_ascii=False).encode()) / 1e3


@row("notebook-file", "a notebook file after 10,000 epochs", unit="kB", limit=100)
def notebook(scale: float) -> float:
    return saved_notebook(sized(10_000, scale, least=10))


def seconds_of_a_view(epochs: int) -> float:
    """Return the CPU seconds of one view in mid-run, beside a history of so many epochs."""
    from types import SimpleNamespace

    from torchkeras.display.notebook import NotebookProgress
    from torchkeras.engine.history import History

    history = History(epoch=list(range(1, epochs + 1)))
    history |= {name: [1 / epoch for epoch in history["epoch"]]
                for name in ("train_loss", "train_accuracy", "lr", "val_loss", "val_accuracy")}
    monitor = SimpleNamespace(name="val_loss", best=0.1, best_epoch=epochs // 2)
    run = SimpleNamespace(
        history=history, epoch=epochs + 1, stage="train", step=1, steps=10, trained=1, notes=[],
        device="cpu", numbers=lambda: {"train_loss": 1.0}, monitor=monitor,
        config=SimpleNamespace(epochs=2 * epochs, initial_epoch=0))
    listener = NotebookProgress(show=lambda view: None)
    listener.on_fit_start(SimpleNamespace(run=run))  # it takes in the epochs that are there
    return min(cpu_seconds(lambda: listener.draw(run, listener.clock())) for _ in range(20))


@row("notebook-view", "a view's share of the time after 100,000 epochs, one each 2 s", unit="%",
     limit=1)
def notebook_view(scale: float) -> float:
    from torchkeras.display.notebook import LONGEST_WAIT

    return 100 * seconds_of_a_view(sized(100_000, scale, least=10)) / LONGEST_WAIT


# ---- predict: memory beside a loop that keeps a list of outputs and joins them ----

INPUTS = 8


def net_and_rows(scale: float) -> tuple[nn.Module, Tensor]:
    """Return a net of one output, and ten million samples for it."""
    torch.manual_seed(0)
    return nn.Linear(INPUTS, 1), torch.randn(sized(1e7, scale), INPUTS)


def plain_predictions(net: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    with torch.no_grad():
        return torch.cat([net(part) for part in x.split(batch_size)])


def peak_of_plain(scale: float, batch_size: int = 1024) -> float:
    net, x = net_and_rows(scale)
    plain_predictions(net, x[:100], batch_size)
    return peak(lambda: plain_predictions(net, x, batch_size))


def peak_of_predict(scale: float, batch_size: int = 1024, labels: bool = False) -> float:
    from torchkeras import KerasModel

    net, x = net_and_rows(scale)
    model = KerasModel(net, "mse")
    data = (x, torch.ones_like(x)) if labels else x
    model.predict(x[:100], batch_size=batch_size, cpu=True)
    return peak(lambda: model.predict(data, batch_size=batch_size, cpu=True))


@row("predict-peak", "peak of 10,000,000 predictions over a plain loop's", unit="MB", limit=20,
     against=peak_of_plain)
def predict(scale: float) -> float:
    return peak_of_predict(scale)


@row("predict-labels", "the same of (x, y) with y as large as x", unit="MB", limit=20,
     against=peak_of_plain)
def predict_labels(scale: float) -> float:
    return peak_of_predict(scale, labels=True)


@row("predict-32", "the same of x in batches of 32", unit="MB", limit=20,
     against=lambda scale: peak_of_plain(scale, batch_size=32))
def predict_small_batches(scale: float) -> float:
    return peak_of_predict(scale, batch_size=32)


class TwoOutputs(nn.Module):
    """Gives a dict of two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(INPUTS, 1), nn.Linear(INPUTS, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Compute both."""
        return {"first": self.first(x), "second": self.second(x)}


DICTS = 3e6 / 1e7  # samples


def plain_dict(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        found = [net(part) for part in x.split(64)]
        return {name: torch.cat([one[name] for one in found]) for name in found[0]}


def peak_of_plain_dict(scale: float) -> float:
    net, (_, x) = TwoOutputs(), net_and_rows(scale * DICTS)
    plain_dict(net, x[:100])
    return peak(lambda: plain_dict(net, x))


@row("predict-dict", "peak of 3,000,000 predictions of dicts in batches of 64 over a plain loop's",
     unit="MB", limit=20, against=peak_of_plain_dict)
def predict_dict(scale: float) -> float:
    from torchkeras import KerasModel

    _, x = net_and_rows(scale * DICTS)
    model = KerasModel(TwoOutputs(), "mse")
    model.predict(x[:100], batch_size=64, cpu=True)
    return peak(lambda: model.predict(x, batch_size=64, cpu=True))


def loader_of(scale: float, labels: bool) -> Any:
    """Return a loader of 2,000,000 samples in batches of 1,024, and of labels as large."""
    from torch.utils.data import DataLoader, TensorDataset

    _, x = net_and_rows(scale / 5)
    return DataLoader(TensorDataset(x, x) if labels else TensorDataset(x), batch_size=1024)


def peak_of_plain_loader(scale: float, labels: bool = False) -> float:
    """Return the peak of a loop that joins outputs, and labels, at its end."""
    net, loader = nn.Linear(INPUTS, 1), loader_of(scale, labels)

    def work() -> list[Tensor]:
        with torch.no_grad():
            found = [[net(x), *rest] for x, *rest in loader]
        return [torch.cat(column) for column in zip(*found, strict=True)]

    return peak(work)


def peak_of_predict_loader(scale: float, labels: bool = False) -> float:
    from torchkeras import KerasModel

    loader, model = loader_of(scale, labels), KerasModel(nn.Linear(INPUTS, 1), "mse")
    model.predict(torch.ones(100, INPUTS), cpu=True)
    return peak(lambda: model.predict(loader, with_labels=labels, cpu=True))


@row("predict-loader", "peak of 2,000,000 predictions of a DataLoader over a plain loop's",
     unit="MB", limit=20, against=peak_of_plain_loader)
def predict_loader(scale: float) -> float:
    return peak_of_predict_loader(scale)


@row("predict-pairs", "the same with labels of 8 numbers: with_labels=True", unit="MB", limit=20,
     against=lambda scale: peak_of_plain_loader(scale, labels=True))
def predict_pairs(scale: float) -> float:
    return peak_of_predict_loader(scale, labels=True)


# ---- metrics: what one more costs in a step, and what they keep ----

def step_microseconds(scale: float, make: Callable[[], dict[str, Any]]) -> float:
    """Return the CPU time of a training step of 32 samples in fit."""
    from torchkeras import KerasModel

    torch.manual_seed(0)
    steps = sized(2000, scale)
    x, y = torch.randn(steps * 32, 20), torch.randint(10, (steps * 32,))

    def fit(rows: int) -> None:
        model = KerasModel(nn.Linear(20, 10), "cross_entropy", make(), "sgd")
        model.fit((x[:rows], y[:rows]), epochs=1, batch_size=32, ckpt_path=None, quiet=True,
                  cpu=True)

    fit(64)
    return (cpu_seconds(lambda: fit(len(x))) - cpu_seconds(lambda: fit(64))) / steps * 1e6


def own_accuracies(count: int) -> Callable[[], dict[str, Any]]:
    from torchkeras.metrics import Accuracy

    return lambda: {f"accuracy{number}": Accuracy() for number in range(count)}


def per_metric(value: float, other: float) -> float:
    return (value - other) / 30


@row("metric-step", "one more Accuracy in a step of 32 samples, of 30 of them", unit="us", limit=12,
     against=lambda scale: step_microseconds(scale, dict), compare=per_metric)
def metric_step(scale: float) -> float:
    return step_microseconds(scale, own_accuracies(30))


@row("auc-bytes", "what AUC keeps of a score, a million in batches of 32", unit="bytes", limit=8)
def auc_bytes(scale: float) -> float:
    from torchkeras.metrics import AUC

    metric, batches = AUC(), sized(1e6 / 32, scale)
    scores, labels = torch.rand(32), torch.randint(2, (32,))
    metric.update(scores, labels)
    metric.reset()

    def update() -> AUC:
        for _ in range(batches):
            metric.update(scores, labels)
        return metric

    before = memory("VmRSS")
    update()
    return (memory("VmRSS") - before) / (batches * 32)


# ---- what runs the rows and shows them ----

def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("names", nargs="*",
                        help=f"rows or sections; default: all of {', '.join(ROWS)}")
    parser.add_argument("--repeats", type=int, default=3,
                        help="fresh processes for each measurement")
    parser.add_argument("--scale", type=float, default=1.0,
                        help="a share of all sizes: does it run?")
    parser.add_argument("--json", action="store_true",
                        help="print JSON, and the table on standard error")
    parser.add_argument("--one", choices=("measure", "against"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    unknown = [name for name in options.names if not matching([name])]
    if unknown:
        parser.error(f"no row or section {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return options


def matching(names: Sequence[str]) -> list[str]:
    """Return the rows of these names or sections; all for none."""
    return [each for each in ROWS if not names or each in names or each.partition("-")[0] in names]


def in_process(name: str, part: str, scale: float) -> float:
    """Return one measurement, made in a fresh process with one thread."""
    inherited = os.environ.get("PYTHONPATH")
    paths = os.pathsep.join(filter(None, [str(ROOT), inherited]))
    command = [sys.executable, "-m", "benchmarks.growth", name, "--one", part,
               "--scale", str(scale)]
    done = subprocess.run(command, text=True, capture_output=True, timeout=LIMIT_S,
                          env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(done.stderr.strip().rsplit("\n", 1)[-1])
    return float(json.loads(done.stdout.splitlines()[-1]))


def measured(name: str, repeats: int, scale: float) -> dict[str, Any]:
    """Return a row's medians and its figure; of a row that fails, why."""
    chosen, found = ROWS[name], {"measure": [], "against": []}
    parts = ["measure", *(["against"] if chosen.against else [])]
    facts = {"row": name, "what": chosen.what, "unit": chosen.unit, "asked": chosen.limit}
    try:
        for _ in range(repeats):
            for part in parts:
                found[part].append(in_process(name, part, scale))
    except (RuntimeError, subprocess.TimeoutExpired, json.JSONDecodeError) as error:
        return facts | {"error": str(error)[-300:]}
    value = statistics.median(found["measure"])
    other = statistics.median(found["against"]) if chosen.against else math.nan
    figure = chosen.compare(value, other)
    return facts | {"measured": found["measure"], "against": found["against"], "figure": figure,
                    "within": figure <= chosen.limit}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return measurements as lines of text."""
    lines = [list(HEADINGS), *map(line, rows)]
    widths = [max(len(one[place]) for one in lines) for place in range(len(HEADINGS))]
    return "\n".join("  ".join(map(padded, cells, widths, HEADINGS)).rstrip() for cells in lines)


def padded(cell: str, width: int, heading: str) -> str:
    """Return a cell as wide as its column: numbers to the right."""
    number = heading in ("measured", "against", "figure", "asked")
    return cell.rjust(width) if number else cell.ljust(width)


def line(found: dict[str, Any]) -> list[str]:
    """Return the cells of a row."""
    asked = f"<= {found['asked']:g}"
    if "error" in found:
        return [found["row"], "-", "-", "-", found["unit"], asked, "failed", found["error"]]
    both = [f"{statistics.median(found[part]):,.1f}" if found[part] else "-"
            for part in ("measured", "against")]
    return [found["row"], *both, f"{found['figure']:,.2f}", found["unit"], asked,
            "" if found["within"] else "over", found["what"]]


def below(options: argparse.Namespace) -> str:
    """Return what the numbers depend on."""
    small = f"; sizes times {options.scale:g}: these figures mean nothing"
    return (f"torch {torch.__version__}, 1 thread, CPU time, medians of {options.repeats}"
            f"{'' if options.scale == 1 else small}")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the rows asked for, and print them."""
    options = parse(argv)
    if options.one:
        torch.set_num_threads(1)
        with contextlib.redirect_stdout(sys.stderr):
            value = getattr(ROWS[options.names[0]], options.one)(options.scale)
        print(json.dumps(value))
        return
    rows = []
    for name in matching(options.names):
        print(f"measuring {name}", file=sys.stderr)
        rows.append(measured(name, options.repeats, options.scale))
    shown = f"{table(rows)}\n\n{below(options)}"
    print(shown, file=sys.stderr if options.json else sys.stdout)
    if options.json:
        facts = {"scale": options.scale, "torch": torch.__version__, "rows": rows}
        print(json.dumps(facts, indent=1))
    if any("error" in found for found in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
