"""Script, function, class: three ways to write the same training, one result."""

import inspect

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchkeras
from torchkeras import KerasModel, train_model

EPOCHS, SEED = 4, 7


def loaders() -> tuple[DataLoader, DataLoader]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(150, 6, generator=generator)
    data = TensorDataset(x, (x.abs().sum(dim=1) > 4.8).long())
    train, val = torch.utils.data.random_split(data, [101, 49], generator=generator)  # both with a ragged last batch
    return DataLoader(train, batch_size=16, shuffle=True), DataLoader(val, batch_size=16)


def parts():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 2))
    return net, torch.optim.Adam(net.parameters(), lr=0.01), nn.CrossEntropyLoss()


def measured(net, loss_fn, loader) -> tuple[float, float]:
    """Mean loss and accuracy."""
    net.eval()
    loss = right = samples = 0.0
    with torch.no_grad():
        for features, labels in loader:
            preds = net(features)
            loss += loss_fn(preds, labels).item() * len(labels)
            right += (preds.argmax(dim=1) == labels).sum().item()
            samples += len(labels)
    return loss / samples, right / samples


def script(seed: int = SEED):
    """The loop that a careful person writes, which keeps the best weights."""
    net, optimizer, loss_fn = parts()
    train, val = loaders()
    torch.manual_seed(seed)
    rows, best = [], None
    for epoch in range(1, EPOCHS + 1):
        net.train()
        loss_sum = right = samples = 0.0
        for features, labels in train:
            preds = net(features)
            loss = loss_fn(preds, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            loss_sum += loss.item() * len(labels)
            right += (preds.argmax(dim=1) == labels).sum().item()
            samples += len(labels)
        rows.append((epoch, loss_sum / samples, right / samples, 0.01, *measured(net, loss_fn, val)))
        if best is None or rows[-1][4] < best[0]:
            best = rows[-1][4], {name: value.clone() for name, value in net.state_dict().items()}
    net.load_state_dict(best[1])
    return np.array(rows), net.state_dict()


def function(seed: int = SEED, **options):
    net, optimizer, loss_fn = parts()
    history = train_model(net, optimizer, loss_fn, {"acc": "accuracy"}, *loaders(),
                          **{"epochs": EPOCHS, "ckpt_path": None, "seed": seed, "quiet": True} | options)
    return history, net.state_dict()


def class_style(seed: int = SEED):
    net, optimizer, loss_fn = parts()
    model = KerasModel(net, loss_fn, {"acc": "accuracy"}, optimizer)
    return model.fit(*loaders(), epochs=EPOCHS, ckpt_path=None, seed=seed, quiet=True), net.state_dict()


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("style", [function, class_style])
def test_each_style_gives_the_weights_of_the_script_bit_for_bit(style):
    rows, expected = script()
    history, weights = style()
    assert equal(weights, expected)
    assert list(history.columns) == ["epoch", "train_loss", "train_acc", "lr", "val_loss", "val_acc"]
    assert np.array_equal(history.to_numpy(), rows)


@pytest.mark.parametrize("style", [function, class_style])
def test_control_another_seed_gives_other_weights(style):
    assert not equal(style(seed=8)[1], script()[1])


@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated",
                            "ignore:The '.*_dataloader' does not have many workers")
def test_the_lightning_style_trains_to_the_same_last_weights():
    pytest.importorskip("pytorch_lightning", reason="needs pytorch_lightning: pip install pytorch-lightning")
    net, optimizer, loss_fn = parts()
    model = torchkeras.LightModel(net, loss_fn, {"acc": "accuracy"}, optimizer, quiet=True)
    trainer = torchkeras.LightModel.Trainer(
        gpus=0, max_epochs=EPOCHS, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False)
    torch.manual_seed(SEED)
    trainer.fit(model, *loaders())
    rows, _ = script()
    assert np.allclose(model.get_history(), rows, rtol=1e-12, atol=0)
    assert equal(net.state_dict(), last_weights())
    assert not equal(net.state_dict(), last_weights(seed=8))


def last_weights(seed: int = SEED):
    """Those of KerasModel when every epoch is better than the one before."""
    class Epochs:
        epochs = 0
        higher_is_better = True

        def update(self, preds, labels) -> None: ...

        def reset(self) -> None: ...

        def compute(self) -> int:
            self.epochs += 1
            return self.epochs

    net, optimizer, loss_fn = parts()
    train_model(net, optimizer, loss_fn, {"count": Epochs()}, *loaders(), epochs=EPOCHS, ckpt_path=None, seed=seed,
                quiet=True, monitor="val_count")
    return net.state_dict()


def test_the_function_writes_the_best_weights_where_it_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    weights = function(ckpt_path="best.pt")[1]
    assert equal(torch.load("best.pt"), weights)
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]
    assert inspect.signature(train_model).parameters["ckpt_path"].default == "checkpoint.pt"


def test_the_function_stops_when_patience_is_over():
    history, _ = function(epochs=60, patience=2)
    assert len(history) < 60
    assert history["val_loss"].idxmin() == len(history) - 3
    assert history.attrs["stop_reason"] == "val_loss without improvement in 2 epoch, early stopping"


@pytest.mark.parametrize(("mode", "better"), [("auto", "max"), ("min", "min")])
def test_the_function_watches_what_it_is_told(mode, better):
    history, _ = function(epochs=30, patience=3, monitor="val_acc", mode=mode)
    best = history["val_acc"].idxmax() if better == "max" else history["val_acc"].idxmin()
    assert len(history) == best + 4


def test_the_function_takes_its_arguments_in_the_order_of_the_interface():
    named = list(inspect.signature(train_model).parameters)
    assert named[:11] == ["net", "optimizer", "loss_fn", "metrics_dict", "train_data", "val_data", "epochs",
                          "ckpt_path", "patience", "monitor", "mode"]


def test_the_function_takes_names_and_a_schedule():
    net, optimizer, _ = parts()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    history = train_model(net, optimizer, "cross_entropy", ["accuracy"], *loaders(), 3, None, lr_scheduler=schedule,
                          quiet=True)
    assert list(history["lr"]) == [0.01, 0.005, 0.0025]
    assert len(train_model(parts()[0], None, "cross_entropy", None, *loaders(), 1, None, quiet=True)) == 1
    with pytest.raises(ValueError, match=r"optimizer: received 'adm'.* Did you mean 'adam'\?"):
        train_model(net, "adm", "cross_entropy", None, *loaders())
    with pytest.raises(TypeError, match="optimizer: received the class SGD"):
        train_model(net, torch.optim.SGD, "cross_entropy", None, *loaders())
