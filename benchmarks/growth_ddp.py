"""How what two processes compute grows with the number of batches: ``python -m benchmarks.growth_ddp``."""

from __future__ import annotations

import json
import resource
import time

import torch
from torch import nn

from torchkeras import KerasModel

SAMPLES, BATCH = 300_000, 32


def seconds(metric: str, samples: int = SAMPLES) -> tuple[float, float]:
    """Return the processor seconds of both processes and the time by the clock of one ``evaluate_ddp``."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(samples, 4, generator=generator)
    y = (x.sum(dim=1, keepdim=True) > 0).float()
    model = KerasModel(nn.Linear(4, 1), nn.BCEWithLogitsLoss(), {metric: metric})
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    model.evaluate_ddp(2, (x, y), batch_size=BATCH, cpu=True)
    after, ended = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, ended - began


def main() -> None:
    """Print one line of JSON: what a metric that keeps every score costs over one that adds up."""
    # the lower of two each, in turn: what else the machine does can only add to it
    runs = [(metric, seconds(metric)[0]) for _ in range(2) for metric in ("accuracy", "auc")]
    processor = {metric: min(found for name, found in runs if name == metric) for metric, _ in runs}
    print(json.dumps({"evaluate_ddp AUC over accuracy": round(processor["auc"] / processor["accuracy"], 3)}))


if __name__ == "__main__":
    main()
