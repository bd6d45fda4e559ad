"""How many messages two processes exchange for one batch: ``python -m benchmarks.collectives``.

Counted by torch's profiler, as the difference between runs of 20 and of 40 batches, so that what a run or an epoch
costs once does not count. The reference is a loop with DistributedDataParallel that measures as it should be done by
hand: the loss and the number of hits are added up on the device and reduced once an epoch.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from torchkeras.distributed.accelerator import start_accelerator

BATCH, CLASSES = 32, 3
MANY, REPEATS = 520, 5  # batches of a timed run


def parts() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A net with BatchNorm, whose buffers DistributedDataParallel sends with every batch, and its data."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, CLASSES))
    return net, torch.randn(MANY * BATCH, 8), torch.randint(0, CLASSES, (MANY * BATCH,))


def by_hand(train: int, val: int) -> None:
    """The loop that a careful person writes."""
    net, x, y = parts()
    rank, world = distributed.get_rank(), distributed.get_world_size()
    model = DistributedDataParallel(net)
    optimizer, sums = torch.optim.Adam(net.parameters()), torch.zeros(2)
    for learning, batches in ((True, train), (False, val)):
        model.train(learning)
        with torch.set_grad_enabled(learning):
            for number in range(batches):
                rows = slice(number * BATCH + rank * BATCH // world, number * BATCH + (rank + 1) * BATCH // world)
                preds = model(x[rows])
                loss = nn.functional.cross_entropy(preds, y[rows])
                if learning:
                    loss.backward()
                    optimizer.step()
                    optimizer.zero_grad()
                sums += torch.stack([loss.detach() * BATCH / world, (preds.argmax(1) == y[rows]).sum()])
    distributed.all_reduce(sums)


def by_fit(train: int, val: int) -> None:
    """The same with torchkeras, and a metric that keeps every score."""
    from torchkeras import KerasModel

    net, x, y = parts()
    metrics = {"accuracy": "accuracy", "spread": lambda preds, labels: preds.std()}
    model = KerasModel(net, "cross_entropy", metrics, "adam")
    model.fit((x, y), (x, y), batch_size=BATCH, shuffle=False, steps_per_epoch=train, validation_steps=val, epochs=1,
              ckpt_path=None, quiet=True, cpu=True)


def messages(work: Callable[[int, int], None], train: int, val: int) -> int:
    """Collectives of one run."""
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work(train, val)
    return sum(event.count for event in found.key_averages() if event.key.startswith("c10d::"))


def measured(work: Callable[[int, int], None], repeats: int) -> dict[str, float]:
    """Messages for each batch more, and the time of a training step."""
    work(20, 20)
    base = messages(work, 20, 20)
    counts = {"train": (messages(work, 40, 20) - base) / 20, "val": (messages(work, 20, 40) - base) / 20}
    times = [seconds(work, MANY) - seconds(work, 20) for _ in range(repeats)]
    return counts | {"microseconds": statistics.median(times or [0]) / (MANY - 20) * 1e6}


def seconds(work: Callable[[int, int], None], train: int) -> float:
    """The time of one run."""
    began = time.perf_counter()
    work(train, 20)
    return time.perf_counter() - began


def job(path: str, repeats: int) -> None:
    """One of the two processes."""
    torch.set_num_threads(1)

    start_accelerator(cpu=True)  # joins the job
    found = {"DDP by hand": measured(by_hand, repeats), "torchkeras": measured(by_fit, repeats)}
    if distributed.get_rank() == 0:
        Path(path).write_text(json.dumps(found))


def run(path: Path, repeats: int = REPEATS) -> dict[str, dict[str, float]]:
    """Start two processes; what they counted, and the median time of so many runs."""
    subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
                    "benchmarks.collectives", str(path), str(repeats)], check=True, capture_output=True, timeout=120)
    return json.loads(path.read_text())


def main() -> None:
    """Print the table."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        found = run(Path(folder) / "counts.json")
    print(f"{'':14}{'messages a training step':>28}{'a validation step':>20}{'us a training step':>20}")
    for name, row in found.items():
        print(f"{name:14}{row['train']:28.2f}{row['val']:20.2f}{row['microseconds']:20.0f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        job(sys.argv[1], int(sys.argv[2]))
    else:
        main()
