"""Weights after fit equal, bit for bit, those of the loop that a careful person writes by hand."""

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR, StepLR
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import KerasModel

EPOCHS, SAMPLES, BATCH = 3, 101, 16  # 101 = 6 x 16 + 5: a ragged last batch


def data() -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(SAMPLES, 6, generator=generator),
                         torch.randint(0, 3, (SAMPLES,), generator=generator))


def parts(schedule: str):
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0.1)
    scheduler = {"step": lambda: OneCycleLR(optimizer, 0.05, total_steps=EPOCHS * 7),
                 "epoch": lambda: StepLR(optimizer, 1, 0.5), "none": lambda: None}[schedule]()
    return net, optimizer, scheduler


def by_hand(schedule: str, accumulation: int, seed: int = 5, clip: float | None = None) -> nn.Module:
    net, optimizer, scheduler = parts(schedule)
    loader, loss_fn = DataLoader(data(), batch_size=BATCH, shuffle=True), nn.CrossEntropyLoss()
    torch.manual_seed(seed)
    net.train()
    for _ in range(EPOCHS):
        window = []
        for position, batch in enumerate(loader, start=1):
            window.append(batch)
            if len(window) < accumulation and position < len(loader):
                continue
            samples = sum(len(y) for _, y in window)
            for x, y in window:
                loss = loss_fn(net(x), y)
                (loss if accumulation == 1 else loss / (samples / len(y))).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(net.parameters(), clip)
            optimizer.step()
            if schedule == "step":
                scheduler.step()
            optimizer.zero_grad()
            window = []
        if schedule == "epoch":
            scheduler.step()
    return net


def by_fit(schedule: str, accumulation: int, train=None, **options) -> nn.Module:
    net, optimizer, scheduler = parts(schedule)
    model = KerasModel(net, nn.CrossEntropyLoss(), {"acc": "accuracy"}, optimizer, scheduler)
    train = DataLoader(data(), batch_size=BATCH, shuffle=True) if train is None else train
    # an epoch's accuracy rises or not; what is compared are the last weights, so every epoch must be "best"
    model.metrics_dict["count"] = Epochs()
    options = {"seed": 5, "monitor": "train_count", "mode": "max"} | options
    model.fit(train, epochs=EPOCHS, ckpt_path=None, quiet=True, gradient_accumulation_steps=accumulation, **options)
    return net


class Epochs:
    """A metric that rises by one each epoch."""

    def __init__(self) -> None:
        self.epochs = 0

    def update(self, preds, labels) -> None: ...

    def compute(self) -> int:
        self.epochs += 1
        return self.epochs

    def reset(self) -> None: ...


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("accumulation", [1, 4, 3])
@pytest.mark.parametrize("schedule", ["none", "step", "epoch"])
def test_weights_are_those_of_the_hand_written_loop(schedule, accumulation):
    assert equal(by_fit(schedule, accumulation), by_hand(schedule, accumulation))


@pytest.mark.parametrize("accumulation", [1, 4])
def test_control_another_seed_gives_other_weights(accumulation):
    assert not equal(by_fit("step", accumulation, seed=6), by_hand("step", accumulation))


def test_control_another_accumulation_gives_other_weights():
    assert not equal(by_fit("none", 4), by_hand("none", 1))


def test_clipping_on_request_is_the_hand_written_clipping():
    assert equal(by_fit("none", 1, clip_grad_norm=0.1), by_hand("none", 1, clip=0.1))
    assert not equal(by_fit("none", 1), by_hand("none", 1, clip=0.1))


def test_arrays_given_to_fit_train_as_a_dataloader_does():
    x, y = data().tensors
    assert equal(by_fit("step", 1, train=(x, y), batch_size=BATCH), by_hand("step", 1))
    assert not equal(by_fit("step", 1, train=(x, y), batch_size=BATCH, shuffle=False), by_hand("step", 1))


def test_validation_in_between_draws_no_more_than_a_dataloader_does():
    net, optimizer, _ = parts("none")
    loader, val, loss_fn = (DataLoader(data(), batch_size=BATCH, shuffle=True), DataLoader(data(), batch_size=50),
                            nn.CrossEntropyLoss())
    torch.manual_seed(5)
    for _ in range(EPOCHS):
        net.train()
        for x, y in loader:
            loss_fn(net(x), y).backward()
            optimizer.step()
            optimizer.zero_grad()
        net.eval()
        for _ in val:
            pass
    fitted = by_fit("none", 1, val_data=val)
    assert equal(fitted, net.train())
    assert not equal(by_fit("none", 1), net)  # without the validation's draw, later orders differ


def test_the_best_weights_come_back_not_the_last():
    net, optimizer, _ = parts("none")
    scheduler = CosineAnnealingLR(optimizer, 3)
    seen = []

    class Keep:
        def on_validation_epoch_end(self, model):
            seen.append({name: value.clone() for name, value in model.net.state_dict().items()})

    model = KerasModel(net, nn.CrossEntropyLoss(), {"falls": Epochs()}, optimizer, scheduler)
    history = model.fit(data(), epochs=3, ckpt_path=None, quiet=True, monitor="train_falls", mode="min",
                        callbacks=[Keep()])
    assert model.run.monitor.best_epoch == 1
    assert all(torch.equal(value, seen[0][name]) for name, value in net.state_dict().items())
    assert not all(torch.equal(value, seen[-1][name]) for name, value in net.state_dict().items())
    assert history["train_falls"].tolist() == [1, 2, 3]
