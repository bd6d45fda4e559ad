"""A small run whose files 5.0.0a1 wrote into tests/fixtures/5.0.0a1, by ``python tests/engine/earlier.py FOLDER``."""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import Callback, KerasModel

EPOCHS, STOP = 4, 11  # five steps and two of validation an epoch: the stop is in the middle of the second


class Averages(Callback):
    """Remembers a moving average of the weights."""

    def __init__(self, stop=None):
        self.steps, self.average, self.stop = 0, 0.0, stop

    def on_step_end(self, model):
        self.steps += 1
        self.average = 0.9 * self.average + 0.1 * float(model.net[0].weight.detach().double().sum())
        if self.steps == self.stop:
            model.run.stop("the test stops here")

    def state_dict(self):
        return {"steps": self.steps, "average": self.average}

    def load_state_dict(self, state):
        self.steps, self.average = state["steps"], state["average"]


def build():
    """Return the model: the same weights each time."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    return KerasModel(net, "cross_entropy", ["accuracy"], optimizer, scheduler)


def data():
    """Return 40 samples to train with, in a new order each epoch, and 16 to measure with."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(56, 4, generator=draw)
    y = x[:, :3].argmax(dim=1)
    train = DataLoader(TensorDataset(x[:40], y[:40]), batch_size=8, shuffle=True)
    return train, DataLoader(TensorDataset(x[40:], y[40:]), batch_size=8)


def run(path, stop=None, **options):
    """Train; return the model, its history and the callback."""
    model, callback = build(), Averages(stop)
    train, val = data()
    history = model.fit(train, val, epochs=EPOCHS, ckpt_path=path, patience=None, seed=3, callbacks=[callback],
                        quiet=True, **options)
    return model, history, callback


def numbers(model, history, callback):
    """Return what the run came to, in plain numbers."""
    return {"history": {name: list(map(float, column)) for name, column in history.to_dict("list").items()},
            "weights": {name: value.double().flatten().tolist() for name, value in model.net.state_dict().items()},
            "callback": callback.state_dict()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    run(folder / "best.pt", STOP, resume=True, save_every="epoch", keep=1)
    whole = run(folder / "whole.pt")
    run(folder / "whole.safetensors")
    (folder / "numbers.json").write_text(json.dumps(numbers(*whole), indent=1) + "\n")
