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
import tempfile
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
        limit: the most that is asked, or the least.
        measure: what is measured.
        against: what it is held against, such as a plain loop; None for a figure that stands alone.
        compare: the figure, from the medians of both.
        least: whether the limit is the least, as for something that has to be managed.
    """

    what: str
    unit: str
    limit: float
    measure: Measure
    against: Measure | None
    compare: Callable[[float, float], float]
    least: bool = False

    def holds(self, figure: float) -> bool:
        """Return whether a figure is within the limit."""
        return figure >= self.limit if self.least else figure <= self.limit


ROWS: dict[str, Row] = {}


def row(name: str, what: str, *, unit: str, limit: float, against: Measure | None = None,
        compare: Callable[[float, float], float] | None = None,
        least: bool = False) -> Callable[[Measure], Measure]:
    """Enter a function as a row. A name is the section, a hyphen and a word."""
    chosen = compare or (alone if against is None else difference)

    def enter(measure: Measure) -> Measure:
        ROWS[name] = Row(what=what, unit=unit, limit=limit, measure=measure, against=against,
                         compare=chosen, least=least)
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
        history=history, epoch=epochs + 1, stage="train", step=1, steps=10, global_step=1, notes=[],
        device="cpu", current_metrics=lambda: {"train_loss": 1.0}, monitor=monitor,
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


# ---- evaluate: what two processes compute, as the number of batches grows ----

def seconds_of_two(scale: float, metric: str) -> float:
    """Return the CPU seconds of two processes that measure 300,000 samples in batches of 32."""
    import resource

    from torchkeras import KerasModel

    x = torch.randn(sized(3e5, scale), 4, generator=torch.Generator().manual_seed(0))
    y = (x.sum(dim=1, keepdim=True) > 0).float()
    model = KerasModel(nn.Linear(4, 1), nn.BCEWithLogitsLoss(), {metric: metric})

    def spent() -> float:
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    before = spent()
    model.evaluate_ddp(2, (x, y), batch_size=32, cpu=True)
    return spent() - before


@row("evaluate-auc", "evaluate_ddp with AUC, which keeps every score, over it with accuracy",
     unit="x", limit=1.2, against=lambda scale: seconds_of_two(scale, "accuracy"), compare=ratio)
def evaluate_auc(scale: float) -> float:
    return seconds_of_two(scale, "auc")


# ---- svg: the picture of a drawn net ----

def seconds_of_picture(layers: int) -> float:
    """Return the CPU seconds of the picture of a chain of small layers, the best of several."""
    from torchkeras.functional import Input, build, to_svg

    x = value = Input((4,))
    for _ in range(layers):
        value = nn.Linear(4, 4)(value)
    net = build(x, value)
    return min(cpu_seconds(lambda: to_svg(net)) for _ in range(10))


def picture_of_500(scale: float) -> float:
    return seconds_of_picture(sized(500, scale, least=8))


row("svg-500", "the picture of a net of 500 layers", unit="s", limit=0.1)(picture_of_500)
row("svg-growth", "its exponent from 125 layers to 500", unit="", limit=1.2, compare=exponent(4),
    against=lambda scale: seconds_of_picture(sized(125, scale, least=2)))(picture_of_500)


# ---- end: what comes after the last step ----

def many_tensors(count: int) -> nn.Module:
    """Return a net of so many small tensors."""
    return nn.Sequential(*[nn.Linear(2, 2) for _ in range(count // 2)])


def seconds_to_the_end(tensors: int) -> float:
    """Return the CPU seconds from the last step of a net to the return of fit."""
    from torchkeras import Callback, KerasModel

    class Clock(Callback):
        """Reads the time after each step."""

        def on_step_end(self, model: Any) -> None:
            self.read = time.process_time()

    clock, x = Clock(), torch.ones(4, 2)
    KerasModel(many_tensors(tensors), "mse", optimizer="sgd").fit(
        (x, x), epochs=1, ckpt_path=None, quiet=True, cpu=True, callbacks=[clock])
    return time.process_time() - clock.read


def end_of(scale: float, tensors: int) -> float:
    seconds_to_the_end(64)  # imports pandas
    return seconds_to_the_end(sized(tensors, scale))


def end_of_12000(scale: float) -> float:
    return end_of(scale, 12_000)


row("end-tensors", "from the last step to the return of fit, a net of 12,000 tensors, no file",
    unit="s", limit=0.2)(end_of_12000)
row("end-growth", "its exponent from 3,000 tensors", unit="", limit=1.2, compare=exponent(4),
    against=lambda scale: end_of(scale, 3000))(end_of_12000)


# ---- weights, state: what keeping costs ----

SMALL = 1e-4  # a net before the one that is measured, so that code is in memory


def large_net(scale: float) -> tuple[nn.Module, Tensor, Tensor]:
    """Return a net of 30,000,000 weights, and two batches for it."""
    net = nn.Linear(sized(3e4, scale, least=1), 1000, bias=False)
    return net, torch.randn(8, net.in_features), torch.randn(8, 1000)


def in_nets(megabytes: float, net: nn.Module) -> float:
    """Return how often a net goes into so much memory."""
    return megabytes * MB / sum(weights.nbytes for weights in net.parameters())


def peak_of_loop(scale: float, optimizer: Callable[..., torch.optim.Optimizer]) -> float:
    """Return the peak of a plain loop of three epochs, in nets."""
    if scale > SMALL:
        peak_of_loop(SMALL, optimizer)
    net, x, y = large_net(scale)

    def work() -> torch.optim.Optimizer:
        chosen = optimizer(net.parameters(), lr=0.001)
        for _ in range(3):
            for features, labels in zip(x.split(4), y.split(4), strict=True):
                chosen.zero_grad()
                nn.functional.mse_loss(net(features), labels).backward()
                chosen.step()
        return chosen

    return in_nets(peak(work), net)


def peak_of_fit(scale: float, optimizer: str, **options: Any) -> float:
    """Return the peak of the same in fit, with its best weights in a file."""
    from torchkeras import KerasModel

    if scale > SMALL:
        peak_of_fit(SMALL, optimizer, **options)
    net, x, y = large_net(scale)
    with tempfile.TemporaryDirectory() as folder:
        model = KerasModel(net, "mse", optimizer=optimizer)
        return in_nets(peak(lambda: model.fit(
            (x, y), epochs=3, batch_size=4, ckpt_path=f"{folder}/best.pt", quiet=True, cpu=True,
            **options)), net)


def sgd_loop(scale: float) -> float:
    return peak_of_loop(scale, torch.optim.SGD)


def adam_loop(scale: float) -> float:
    return peak_of_loop(scale, torch.optim.Adam)


@row("weights-best", "peak of fit, 30,000,000 weights, SGD, the best kept; beside it a plain loop",
     unit="nets", limit=2.2, against=sgd_loop, compare=alone)
def weights_best(scale: float) -> float:
    return peak_of_fit(scale, "sgd")


@row("state-sgd", 'the same with save_every="epoch"', unit="nets", limit=3.3, against=sgd_loop,
     compare=alone)
def state_sgd(scale: float) -> float:
    return peak_of_fit(scale, "sgd", save_every="epoch")


@row("state-adam", "the same with Adam", unit="nets", limit=9.3, against=adam_loop, compare=alone)
def state_adam(scale: float) -> float:
    return peak_of_fit(scale, "adam", save_every="epoch")


@row("state-split", "training thread with save_every=100 over without; 900,000 rows of a split",
     unit="x", limit=1.1)
def state_split(scale: float) -> float:
    from torch.utils.data import DataLoader, TensorDataset, random_split

    from torchkeras import KerasModel

    x = torch.randn(sized(1e6, scale, least=2000), 4)
    part, _ = random_split(TensorDataset(x, x.sum(1, keepdim=True)), [0.9, 0.1])
    loader = DataLoader(part, batch_size=900, shuffle=True)

    def seconds(**options: Any) -> float:
        with tempfile.TemporaryDirectory() as folder:
            model = KerasModel(nn.Linear(4, 1), "mse", optimizer="sgd")
            begun = time.thread_time()
            model.fit(loader, epochs=1, seed=1, ckpt_path=f"{folder}/best.pt", quiet=True, cpu=True,
                      **options)
            return time.thread_time() - begun

    pairs = [(seconds(save_every=100), seconds()) for _ in range(sized(21, scale, least=2))]
    return statistics.median(saving / plain for saving, plain in pairs[1:])  # the first imports


@row("state-tensors", "tensors of a net whose run is saved and resumed", unit="", limit=100_000,
     least=True)
def state_tensors(scale: float) -> float:
    return resumed_tensors(scale, "sgd")


@row("tensors-adam", "the same with Adam, whose state has three tensors for each", unit="",
     limit=100_000, least=True)
def tensors_adam(scale: float) -> float:
    return resumed_tensors(scale, "adam")


def resumed_tensors(scale: float, optimizer: str) -> float:
    """Return the number of tensors of a net whose run was saved and resumed."""
    from torchkeras import KerasModel

    count, x = sized(1e5, scale), torch.ones(4, 2)
    with tempfile.TemporaryDirectory() as folder:
        for epochs in (1, 2):
            model = KerasModel(many_tensors(count), "mse", optimizer=optimizer)
            history = model.fit((x, x), epochs=epochs, ckpt_path=f"{folder}/best.pt", quiet=True,
                                cpu=True, save_every="epoch", resume=epochs > 1)
            if len(history) != epochs or any("could not" in note for note in model.run.notes):
                raise RuntimeError(f"{len(history)} epochs of {epochs}: {model.run.notes}")
    return len(list(model.net.parameters()))


# ---- history: what a save costs as it grows ----

def seconds_of_a_save(epochs: int, saves: int) -> float:
    """Return the CPU seconds of one save, all threads together, beside so many epochs."""
    from torchkeras import Callback, KerasModel

    numbers = dict.fromkeys(["train_loss", "lr", "train_mae", "val_loss", "val_mae"], 0.5)

    class Saves(Callback):
        """Lets epochs go by, and saves after each of the last."""

        def on_validation_epoch_end(self, model: Any) -> None:
            run = model.run
            for epoch in range(2, epochs + saves):
                run.history.open(epoch)
                run.history.record(numbers)
                if epoch >= epochs:
                    run.checkpointer.save("epoch", epoch + 1)
                if epoch == epochs:
                    run.checkpointer.wait()
                    begun = time.process_time()
            run.checkpointer.wait()
            self.seconds = (time.process_time() - begun) / (saves - 1)

    listener, x = Saves(), torch.ones(4, 2)
    with tempfile.TemporaryDirectory() as folder:
        KerasModel(nn.Linear(2, 2), "mse", optimizer="sgd").fit(
            (x, x), epochs=1, ckpt_path=f"{folder}/best.pt", quiet=True, cpu=True,
            save_every=10, callbacks=[listener])
    return listener.seconds


@row("history-save", "a save after 10,000 epochs of 6 columns over one after 100", unit="x",
     limit=1.2, compare=ratio,
     against=lambda scale: seconds_of_a_save(sized(100, scale, least=2), sized(200, scale, least=3)))
def history_save(scale: float) -> float:
    return seconds_of_a_save(sized(1e4, scale, least=4), sized(200, scale, least=3))


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
    facts = {"row": name, "what": chosen.what, "unit": chosen.unit, "asked": chosen.limit,
             "least": chosen.least}
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
                    "within": chosen.holds(figure)}


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
    asked = f"{'>=' if found['least'] else '<='} {found['asked']:,g}"
    if "error" in found:
        return [found["row"], "-", "-", "-", found["unit"], asked, "failed", found["error"]]
    both = [shown(statistics.median(found[part])) if found[part] else "-"
            for part in ("measured", "against")]
    return [found["row"], *both, f"{found['figure']:,.2f}", found["unit"], asked,
            "" if found["within"] else "under" if found["least"] else "over", found["what"]]


def shown(value: float) -> str:
    """Return a number with three digits that tell something, or more where they come before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


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
    text = f"{table(rows)}\n\n{below(options)}"
    print(text, file=sys.stderr if options.json else sys.stdout)
    if options.json:
        facts = {"scale": options.scale, "torch": torch.__version__, "rows": rows}
        print(json.dumps(facts, indent=1))
    if any("error" in found for found in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
