"""What it costs to keep the state of a run: ``python -m benchmarks.saving``, the MNIST CNN, in turn, in one process."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.workloads import WORKLOADS
from torchkeras import Callback, KerasModel

WAYS: dict[str, dict[str, Any]] = {"without": {}, 'save_every="epoch"': {"save_every": "epoch"},
                                   "save_every=50": {"save_every": 50}}


class Clock(Callback):
    """The seconds of every epoch, from its start to that of the next, so that what lies between them counts."""

    def on_fit_start(self, model: Any) -> None:
        """Begin a list."""
        self.times: list[float] = []

    def on_epoch_start(self, model: Any) -> None:
        """An epoch begins, and the one before is over."""
        self.times.append(time.perf_counter())

    def on_fit_end(self, model: Any) -> None:
        """So is the last."""
        self.times.append(time.perf_counter())


def epochs(options: dict[str, Any], data: Path | None, count: int, seed: int) -> list[float]:
    """The seconds of each epoch but the first, of a run of its own."""
    job, clock = WORKLOADS["mnist"].job(seed, data), Clock()
    model = KerasModel(job.net, job.loss_fn, ["accuracy"], job.optimizer())
    with tempfile.TemporaryDirectory() as folder:
        model.fit(job.loader(), epochs=count, ckpt_path=f"{folder}/best", quiet=True, callbacks=[clock], **options)
    return [after - before for before, after in zip(clock.times[1:], clock.times[2:], strict=False)]


def main() -> None:
    """Run each way in turn, again and again, and compare medians of the pairs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.saving", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with MNIST's idx files, gzipped")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    found: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    for repeat in range(options.repeats):
        for name, way in WAYS.items():
            found[name].append(epochs(way, options.data, options.epochs, repeat))
    for name, runs in found.items():
        ratios = [sum(own) / sum(plain) for own, plain in zip(runs, found["without"], strict=True)]
        fastest = min(one for run in runs for one in run) / min(one for run in found["without"] for one in run)
        print(f"{name:20} {statistics.median(one for run in runs for one in run):7.3f} s an epoch  "
              f"median ratio {statistics.median(ratios):.3f}  ratio of the fastest epochs {fastest:.3f}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
