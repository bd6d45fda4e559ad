"""Nets, data, the loop by hand and the same by ``fit``, on a device that is told."""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from torchkeras import Callback, KerasModel

QUIET = {"ckpt_path": None, "quiet": True, "patience": None}


def mlp(inputs=7, width=32, dropout=0.2):
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout),
                         nn.Linear(width, 3))


def cnn():
    """A net whose kernels give the same bits each time."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(0.1),
                         nn.Linear(256, 10))


def table(samples=330, inputs=7):
    drawn = torch.Generator().manual_seed(5)
    x = torch.randn(samples, inputs, generator=drawn)
    return x, torch.randint(0, 3, (samples,), generator=drawn)


def images(samples=200):
    drawn = torch.Generator().manual_seed(6)
    x = torch.randn(samples, 1, 14, 14, generator=drawn)
    return x, torch.randint(0, 10, (samples,), generator=drawn)


class Rows(Dataset):
    """The same samples one by one, so that no batch is selected on the device."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data[0])

    def __getitem__(self, number):
        return tuple(one[number] for one in self.data)


def loader_of(data, batch=33, **options):
    return DataLoader(TensorDataset(*data), batch, **{"shuffle": True, **options})


def adam(net, **options):
    return torch.optim.Adam(net.parameters(), lr=1e-2, **options)


def sgd(net):
    return torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)


def on_cpu(state):
    return {name: value.detach().to("cpu", copy=True) for name, value in state.items()}


class Last(Callback):
    """Keeps the weights after the newest training pass, before the best are restored."""

    def on_train_epoch_end(self, model):
        self.weights = on_cpu(model.net.state_dict())


def update(optimizer, scaler, parameters, clip):
    if scaler is not None and clip is not None:
        scaler.unscale_(optimizer)
    if clip is not None:
        nn.utils.clip_grad_norm_(parameters, clip)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad()


def by_hand(device, net, optimizer, loader, epochs=2, *, dtype=None, clip=None, accumulation=1):
    """The weights after the loop that a careful person writes; ``dtype`` is that of autocast."""
    loss_fn = nn.CrossEntropyLoss()
    net.to(device).train()
    scaler = torch.amp.GradScaler("cuda") if dtype == torch.float16 else None
    for _ in range(epochs):
        window = []
        for position, (x, y) in enumerate(loader, start=1):
            window.append((x.to(device), y.to(device)))
            if len(window) < accumulation and position < len(loader):
                continue
            samples = sum(len(y) for _, y in window)
            for x, y in window:
                with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
                    loss = loss_fn(net(x), y)
                    loss = loss if accumulation == 1 else loss / (samples / len(y))
                (loss if scaler is None else scaler.scale(loss)).backward()
            update(optimizer, scaler, net.parameters(), clip)
            window = []
    return on_cpu(net.state_dict())


def by_fit(device, net, optimizer, data, epochs=2, *, metrics=None, callbacks=(), **options):
    """The weights after the last training pass, the model and the history."""
    last = Last()
    model = KerasModel(net, nn.CrossEntropyLoss(), metrics, optimizer)
    options = {**QUIET, "cpu": device.type == "cpu", **options}
    history = model.fit(data, epochs=epochs, callbacks=[last, *callbacks], **options)
    return last.weights, model, history


def distance(weights, others):
    """How far two state dicts are apart, over the norm of the second."""
    rows = [torch.cat([one.double().reshape(-1) for one in state.values()])
            for state in (weights, others)]
    return ((rows[0] - rows[1]).norm() / rows[1].norm()).item()


def differing(weights, others):
    """The names under which two state dicts are not bit-equal."""
    return [name for name in others if not torch.equal(weights[name], others[name])]
