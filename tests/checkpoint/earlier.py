"""Small runs whose files earlier versions wrote, by ``python tests/checkpoint/earlier.py FOLDER``.

5.0.0a1 wrote tests/fixtures/5.0.0a1. Before the rows of the history had a file of their own, ``tests/fixtures/state-2``
was written, with ``later`` behind the folder: a frozen layer, and samples that ``random_split`` chose.
"""

import json
import sys
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

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


def build(later=False):
    """Return the model: the same weights each time."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    if later:  # without a bias before BatchNorm, of which the gradient is rounding alone
        net[0] = nn.Linear(4, 8, bias=False)
        net[4].requires_grad_(False)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    return KerasModel(net, "cross_entropy", ["accuracy"], optimizer, scheduler)


def data(later=False):
    """Return 40 samples to train with, in a new order each epoch, and 16 to measure with."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(56, 4, generator=draw)
    y = x[:, :3].argmax(dim=1)
    samples = TensorDataset(x[:40], y[:40])
    if later:
        samples, _ = random_split(samples, [36, 4], generator=draw)
    train = DataLoader(samples, batch_size=8, shuffle=True)
    return train, DataLoader(TensorDataset(x[40:], y[40:]), batch_size=8)


def run(path, stop=None, later=False, **options):
    """Train; return the model, its history and the callback."""
    model, callback = build(later), Averages(stop)
    train, val = data(later)
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
    if sys.argv[2:] == ["later"]:
        run(folder / "best.pt", STOP, later=True, resume=True, save_every="epoch", keep=1)
        sys.exit()
    run(folder / "best.pt", STOP, resume=True, save_every="epoch", keep=1)
    whole = run(folder / "whole.pt")
    run(folder / "whole.safetensors")
    (folder / "numbers.json").write_text(json.dumps(numbers(*whole), indent=1) + "\n")
