"""The run that all fault tests stop and take up again: a bit of everything whose state can be lost."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, Dataset, TensorDataset

from torchkeras import Callback, KerasModel, Model
from torchkeras.state.components import components_of

SAMPLES, BATCH, EPOCHS = 101, 8, 3  # 101 = 12 x 8 + 5: the last batch is short


class Noisy(Dataset):
    """Samples with noise from all three global generators."""

    def __init__(self, samples: int = SAMPLES, noise: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(samples, 6, generator=generator, dtype=torch.float64)
        self.y = (self.x.sum(dim=1) > 0).long() + (self.x[:, 0] > 1).long()
        self.noise = noise
        self.seen: list[int] = []

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append(index)
        x = self.x[index]
        if self.noise:
            x = x + 0.1 * torch.randn(6, dtype=torch.float64) + 0.1 * random.random() + 0.1 * np.random.rand()
        return x, self.y[index]


class Averaged(Callback):
    """Moving averages of the weights: a listener with a state."""

    def __init__(self) -> None:
        self.average: dict[str, torch.Tensor] = {}

    def on_step_end(self, model: Any) -> None:
        if model.run.stage == "train":
            for name, value in model.net.state_dict().items():
                if value.is_floating_point():
                    self.average[name] = 0.9 * self.average.get(name, value) + 0.1 * value

    def state_dict(self) -> dict[str, Any]:
        return {"average": {name: value.clone() for name, value in self.average.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.average = dict(state["average"])


class StopAt(Callback):
    """Ends a run at a training step, in one of several ways."""

    def __init__(self, step: int, how: str = "stop") -> None:
        self.step, self.how = step, how

    def on_step_end(self, model: Any) -> None:
        if model.run.stage == "train" and model.run.global_step == self.step:
            if self.how == "raise":
                raise RuntimeError("stopped by the test")
            model.run.stop("by the test")


def build(epochs: int = EPOCHS, windows: int = 13) -> KerasModel:
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    net = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.3), nn.Linear(12, 3)).double()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
    scheduler = OneCycleLR(optimizer, 0.05, total_steps=epochs * windows)
    return KerasModel(net, nn.CrossEntropyLoss(), {"acc": "accuracy", "worst": worst}, optimizer, scheduler)


class Centred(nn.Module):
    """A loss with a weight that learns and a mean that moves in every forward."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("mean", torch.zeros(3))
        self.dropout = nn.Dropout(0.2)

    def forward(self, preds: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.cross_entropy(self.dropout(preds - self.mean) * self.scale, labels)
        with torch.no_grad():
            self.mean.lerp_(preds.mean(dim=0), 0.1)
        return loss


def build_more() -> KerasModel:
    """A loss with a state, and two optimizers with a schedule each."""
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Dropout(0.3), nn.Linear(7, 3))
    loss_fn = Centred()
    optimizers = {"net": torch.optim.AdamW(net.parameters(), lr=1e-2),
                  "loss": torch.optim.SGD(loss_fn.parameters(), lr=1e-2, momentum=0.9)}
    schedules = {"net": OneCycleLR(optimizers["net"], 0.05, total_steps=3 * 34),
                 "loss": torch.optim.lr_scheduler.StepLR(optimizers["loss"], 1)}
    return KerasModel(net, loss_fn, {"acc": "accuracy"}, optimizers, schedules)


def odd() -> DataLoader:
    """Samples in memory of which a batch of three has no size that memory is laid out by."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(SAMPLES, 5, generator=generator)
    return DataLoader(TensorDataset(x, (x.sum(dim=1) > 0).long()), 3, shuffle=True)


def worst(preds: torch.Tensor, labels: torch.Tensor) -> float:
    """A function as a metric: all predictions are kept until the epoch ends."""
    return float(nn.functional.cross_entropy(preds, labels, reduction="none").max())


def run(path: Path | str, callbacks: Any = (), *, epochs: int = EPOCHS, noise: bool = True, train: Any = None,
        val: Any = None, accumulation: int = 1, length: int | None = None, more: bool = False, face: type = KerasModel,
        **options: Any) -> dict[str, str]:
    """Build everything anew, train, and say in fingerprints what came of it; ``more``: with all that has a state."""
    model = build_more() if more else build(length or epochs, -(-13 // accumulation))
    if face is Model:
        model = in_keras_words(model)
    train, val = (odd(), odd()) if more else (train, val)
    average = Averaged()
    train = DataLoader(Noisy(noise=noise), BATCH, shuffle=True) if train is None else train
    val = DataLoader(Noisy(40, noise=noise), 16) if val is None else val
    asked = {"epochs": epochs, "ckpt_path": str(path), "patience": None, "gradient_accumulation_steps": accumulation,
             "callbacks": [average, *callbacks], **options}
    val = None if val is False else val
    if isinstance(model, Model):
        told = model.fit(train, validation_data=val, verbose=0, **asked)
        history = model.engine.history.to_frame()
        assert told.history.get("loss", []) == model.engine.history.get("train_loss", [])
        return prints(model.engine, history, average)
    return prints(model, model.fit(train, val, quiet=True, **asked), average)


def in_keras_words(model: KerasModel) -> Model:
    """The same parts in a ``Model``."""
    other = Model(model.net)
    other.compile(loss_func=model.loss_fn, optimizer=model.optimizer, metrics_dict=dict(model.metrics_dict),
                  lr_scheduler=model.lr_scheduler)
    return other


def prints(model: KerasModel, history: Any, average: Averaged) -> dict[str, str]:
    """Fingerprints of all that a run leaves."""
    parts = components_of(model)
    optimizer = {f"{which}.{number}.{name}": value for which, one in parts.optimizers.items()
                 for number, state in one.state_dict()["state"].items() for name, value in state.items()}
    columns = history.to_dict("list").items()
    file = Path(str(model.ckpt_path))
    return {"weights": of_tensors(model.net.state_dict()), "optimizer": of_tensors(optimizer),
            "others": repr([of_tensors(one.state_dict()) for one in model.learners()[1:]]),
            "schedule": repr([(one.state_dict()["last_epoch"], model.optimizer.param_groups[0]["lr"])
                              for one in parts.schedulers.values()]),
            "history": json.dumps({name: [float(one).hex() for one in column] for name, column in columns}),
            "averages": of_tensors(average.average),
            "best": repr((model.run.monitor.best, model.run.monitor.best_epoch)),
            "random": repr((torch.rand(1).item(), random.random(), np.random.rand())),
            "file": of_tensors(torch.load(file, weights_only=True)) if file.exists() else ""}


def of_tensors(tensors: dict[str, torch.Tensor]) -> str:
    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(name.encode() + torch.as_tensor(value).detach().numpy().tobytes())
    return found.hexdigest()[:16]


def states(path: Path | str) -> list[Path]:
    """The states of a run, oldest first."""
    return sorted(one for one in Path(f"{path}.state").iterdir() if one.name.isdigit())


def warm_up() -> None:
    """Train once, so that what is imported on first use is there for all children that are forked from this process."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        run(Path(folder) / "best", epochs=1, length=1, save_every=2)
        run(Path(folder) / "best", epochs=1, length=1, resume=True)
