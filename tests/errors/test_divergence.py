"""A run that ends because a loss is NaN or infinite: what held it is told, and the table has its columns."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from torchkeras import Callback, KerasModel, Model
from torchkeras.checkpoint.background_writer import BackgroundWriter
from torchkeras.checks import divergence
from torchkeras.core.communicator import Communicator
from torchkeras.core.stop import Request
from torchkeras.engine.checked_step import CheckedStep
from torchkeras.state.optimizer_state import drop_non_finite, is_finite

generator = torch.Generator().manual_seed(0)
X, Y = torch.randn(64, 4, generator=generator), torch.randn(64, 1, generator=generator)
COLUMNS = ["epoch", "train_loss", "train_mae", "lr"]


def spoiled(data, row, value=math.nan):
    data = data.clone()
    data[row, 0] = value
    return data


class Log(nn.Module):
    def forward(self, x):
        return torch.log(x)


class Late(nn.Module):
    """Its layer of logarithms meets a number below 0 where a feature is -5."""

    def __init__(self):
        super().__init__()
        self.inner, self.drop, self.norm, self.log = nn.Linear(4, 1), nn.Dropout(0.5), nn.BatchNorm1d(1), Log()

    def forward(self, x):
        return self.log(self.drop(self.norm(self.inner(x))) * 0 + x[:, :1])


class Root(nn.Module):
    """Its loss is finite at 0 and the gradient is not."""

    def forward(self, preds, labels):
        return (preds * 0).square().sum().sqrt() + preds.mean()


def fitted(train, val=None, net=None, loss="mse", lr=0.01, data=None, **options):
    torch.manual_seed(0)
    net = net or nn.Linear(4, 1)
    model = KerasModel(net, loss, ["mae"], torch.optim.SGD(net.parameters(), lr=lr))
    options = {"epochs": 2, "batch_size": 16, "shuffle": False, "ckpt_path": None, "quiet": True} | options
    with pytest.warns(RuntimeWarning, match="^fit: (train|val)_loss is (nan|inf)") as told:
        history = model.fit(train, val, **options)
    assert [str(one.message) for one in told] == [f"fit: {history.attrs['stop_reason']}"]  # once
    assert told[0].filename == __file__
    return history, model


@pytest.mark.parametrize(("train", "text"), [
    ((spoiled(X, 40), Y), "train_loss is nan in epoch 1, step 3: features of the batch hold NaN in 1 of 16 samples, "
                          "the first at position 8; weights have norm "),
    ((X, spoiled(Y, 33, math.inf)), "train_loss is inf in epoch 1, step 3: labels of the batch hold infinity in 1"),
    ((X, Y, spoiled(torch.ones(64, 1), 63)), "step 4: sample weights of the batch hold NaN in 1 of 16"),
    (({"a": X, "b": spoiled(X, 20)}, Y), "step 2: features['b'] of the batch holds NaN in 1 of 16")])
def test_the_part_of_the_batch_that_holds_it_is_named(train, text):
    class Either(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 1)

        def forward(self, a, b=0.0):
            return self.inner(a + b)

    history, _ = fitted(train, net=Either())
    assert text in history.attrs["stop_reason"]


def test_a_rate_that_is_too_large_is_told_by_the_gradients_the_weights_and_the_rate():
    history, model = fitted((X, Y), net=nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)), lr=1e6)
    reason = history.attrs["stop_reason"]
    assert "the net's output is not finite" in reason or "the net's weights hold" in reason
    assert "gradients had norm " in reason
    assert float(reason.split("gradients had norm ")[1].split()[0]) > 1e3
    assert "lr 1e+06" in reason


def test_the_first_layer_whose_output_is_not_finite_is_named_and_nothing_is_drawn_for_it():
    x = spoiled(X.abs() + 0.1, 20, -5.0)
    torch.manual_seed(0)
    history, model = fitted((x, Y), net=Late(), lr=1e-6)
    assert "output is that of layer 'log' of the net, Log()" in history.attrs["stop_reason"]
    net = Late()
    step = type("Step", (), {"net": net, "forward": lambda self, batch: (net(batch[0]), batch[1]),
                             "autocast": lambda self: torch.no_grad(), "optimizer": None})()
    before = torch.get_rng_state(), [one.clone() for one in net.buffers()]
    assert "'log'" in divergence.why(step, (x, Y))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(one, other) for one, other in zip(net.buffers(), before[1], strict=True))
    net(x)
    assert not torch.equal(torch.get_rng_state(), before[0])  # control: the net does draw


def test_gradients_that_were_not_finite_are_found_by_the_weights():
    history, _ = fitted((X, Y), loss=Root())
    assert "step 2: the net's weights hold NaN or infinity ('weight' and 1 more)" in history.attrs["stop_reason"]


def test_a_loss_of_finite_numbers_that_is_not_finite_is_the_losss_own():
    calls = []

    def loss(preds, labels):
        if preds.requires_grad:  # a step that learns
            calls.append(1)
        return (preds - labels).square().mean() / (0.0 if len(calls) == 3 else 1.0)

    history, _ = fitted((X, Y), loss=loss)
    assert "the net's output are finite, the loss of them is not" in history.attrs["stop_reason"]


class Streamed(Dataset):
    """Not in memory as arrays are."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


@pytest.mark.parametrize(("val", "text"), [
    ((spoiled(X, 40), Y), "val_loss is nan in epoch 1: val_data[0] holds NaN in 1 of 64 samples, the first at"),
    (DataLoader(TensorDataset(X, spoiled(Y, 40, math.inf)), 16), "val_data[1] holds infinity"),
    (DataLoader(Streamed(spoiled(X, 40), Y), 16), "step 3: features of the batch hold NaN in 1 of 16"),
    ([(X[:16], Y[:16]), (X[16:32], spoiled(Y, 20)[16:32])], "step 2: labels of the batch hold NaN")])
def test_a_validation_is_looked_through_too(val, text):
    history, model = fitted((X, Y), val)
    assert text in history.attrs["stop_reason"]
    assert list(history.columns) == [*COLUMNS, "val_loss", "val_mae"]
    assert len(history) == 1


def test_nan_comes_before_patience():
    history, _ = fitted((X, Y), (spoiled(X, 40), Y), patience=1)
    assert history.attrs["stop_reason"].startswith("val_loss is nan")


@pytest.mark.parametrize("val", [None, (X, Y)])
def test_a_run_without_a_finished_epoch_has_its_columns(val):
    history, _ = fitted((spoiled(X, 40), Y), val)
    assert len(history) == 0
    assert list(history.columns) == COLUMNS + ([] if val is None else ["val_loss", "val_mae"])
    assert history["epoch"].dtype == np.int64
    assert history["train_loss"].dtype == np.float64


@pytest.mark.parametrize("moment", ["on_fit_start", "on_step_end"])
def test_a_run_that_is_stopped_before_the_first_epoch_is_over_has_its_columns_too(moment):
    stop = type("Stop", (Callback,), {moment: lambda self, model: model.run.stop("enough")})()
    model = KerasModel(nn.Linear(4, 1), "mse", ["mae"])
    history = model.fit((X, Y), epochs=2, ckpt_path=None, quiet=True, callbacks=[stop])
    assert len(history) == 0
    assert list(history.columns) == COLUMNS
    assert history.attrs["stop_reason"] == "enough"


def test_control_a_run_that_stays_finite_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KerasModel(nn.Linear(4, 1), "mse").fit((X, Y), epochs=1, ckpt_path=None, quiet=True)


def test_sizes_of_gradients_are_not_worked_out_while_the_loss_is_usual(monkeypatch):
    asked = []
    monkeypatch.setattr(divergence, "norm", lambda tensors: asked.append(1) or 1.0)
    KerasModel(nn.Linear(4, 1), "mse").fit((X, Y), epochs=3, ckpt_path=None, quiet=True)
    assert asked == []
    fitted((X, Y), lr=1e6, epochs=9)
    assert asked  # control


def test_in_keras_words_it_is_said_as_well():
    model = Model(nn.Linear(4, 1))
    model.compile(optimizer="sgd", loss="mse")
    with pytest.warns(RuntimeWarning, match="features of the batch hold NaN"):
        past = model.fit(spoiled(X, 40), Y, batch_size=16, shuffle=False, verbose=0)
    assert "features of the batch" in past.stop_reason
    with pytest.warns(RuntimeWarning, match="features of the batch hold NaN"):
        frame = model.fit(1, dl_train=[(X, Y), (spoiled(X, 40), Y)], dl_val=[(X, Y)], verbose=0)
    assert list(frame.columns) == ["epoch", "loss", "val_loss"]
    assert len(frame) == 0
    model.train_on_batch(X, Y)
    with pytest.raises(ValueError, match="features of the batch hold NaN"):
        model.train_on_batch(spoiled(X, 0), Y)


def test_norms_are_those_of_numpy():
    tensors = [torch.tensor([3.0, 0.0]), None, torch.tensor([[4.0]])]
    assert divergence.norm(tensors) == 5.0


def test_processes_that_this_one_started_have_it_warn_once():
    net = nn.Linear(4, 1)
    model = KerasModel(net, "mse", optimizer=torch.optim.SGD(net.parameters(), lr=0.01))
    with pytest.warns(RuntimeWarning, match="train_loss is nan in process 1 in epoch 1, step 3: features") as told:
        history = model.fit_ddp(2, (spoiled(X, 40), Y), epochs=1, batch_size=16, shuffle=False, ckpt_path=None,
                                quiet=True, cpu=True)
    assert len(told) == 1
    assert list(history.columns) == ["epoch", "train_loss", "lr"]


def unguarded(monkeypatch):
    """Losses are read after the update, as on an accelerator."""
    monkeypatch.setattr(CheckedStep, "check_finite_loss", lambda step, loss, preds, batch: loss)


ADAPTIVE = {"Adam": torch.optim.Adam, "momentum": lambda weights, lr: torch.optim.SGD(weights, lr=lr, momentum=0.9),
            "RMSprop": torch.optim.RMSprop}


@pytest.mark.parametrize("name", ADAPTIVE)
def test_after_a_loss_that_is_read_late_the_optimizer_holds_no_nan_and_the_next_fit_trains(name, monkeypatch):
    unguarded(monkeypatch)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    optimizer = ADAPTIVE[name](net.parameters(), lr=0.01)
    model = KerasModel(net, "mse", optimizer=optimizer)
    options = {"epochs": 2, "batch_size": 16, "shuffle": False, "ckpt_path": None, "quiet": True}
    with pytest.warns(RuntimeWarning, match="train_loss is nan"):
        model.fit((spoiled(X, 40), Y), **options)
    assert all(one.isfinite().all() for one in net.parameters())
    assert [state for state in optimizer.state.values() if not is_finite(state)] == []
    assert any("optimizer: held NaN" in note for note in model.run.notes)
    before = net[0].weight.detach().clone()
    assert model.fit((X, Y), **options).attrs["stop_reason"] is None
    assert not torch.equal(before, net[0].weight)
    assert not any("held NaN" in note for note in model.run.notes)  # control


def test_a_finite_loss_with_a_gradient_that_is_not_leaves_no_nan_in_the_optimizer_either():
    torch.manual_seed(0)
    net = nn.Linear(4, 1)
    optimizer = torch.optim.Adam(net.parameters())
    model = KerasModel(net, Root(), optimizer=optimizer)
    with pytest.warns(RuntimeWarning, match="train_loss is nan"):
        model.fit((X, Y), epochs=2, batch_size=16, ckpt_path=None, quiet=True)
    assert [state for state in optimizer.state.values() if not is_finite(state)] == []


def test_only_what_is_not_finite_is_dropped_and_in_all_processes_alike():
    weights = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    optimizer = torch.optim.LBFGS(weights)
    optimizer.state[weights[0]] = {"step": 3, "d": torch.ones(2), "old": [torch.ones(2)], "mask": torch.tensor([True])}
    optimizer.state[weights[1]] = {"step": 3, "old": [torch.tensor([1.0, math.inf])]}
    optimizer.state[weights[2]] = {"step": 4}
    kept = optimizer.state[weights[0]]
    assert drop_non_finite({"optimizer": optimizer}, lambda own: [own, {("optimizer", 2)}]) == ["optimizer"]
    assert list(optimizer.state) == [weights[0]]  # another process found the third
    assert optimizer.state[weights[0]] is kept
    assert drop_non_finite({"optimizer": optimizer}, lambda own: [own]) == []  # control


def test_a_state_that_would_hold_nan_is_not_saved(tmp_path, monkeypatch):
    unguarded(monkeypatch)
    saved = []
    write = BackgroundWriter.write
    monkeypatch.setattr(BackgroundWriter, "write",
                        lambda writer, *rest: saved.append(writer.run.global_step) or write(writer, *rest))
    for request, expected in ((Request("nan", True), []), (None, [1, 2, 3, 4])):  # as of one of several processes
        monkeypatch.setattr(Communicator, "request", request)
        net = nn.Linear(4, 1)
        KerasModel(net, "mse", optimizer=torch.optim.Adam(net.parameters())).fit(
            (X, Y), epochs=1, batch_size=16, ckpt_path=tmp_path / f"{request is None}.pt", quiet=True, resume=True,
            save_every=1)
        assert saved == expected
