"""Model in the words of the first versions: loss_func and metrics_dict, dl_train and dl_val, printed tables."""

import copy
import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import mean_absolute_error, r2_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import KerasModel, Model, losses
from torchkeras.display.boxed import boxed, rounded

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(100, 3, generator=GENERATOR)
Y = X @ torch.tensor([[2.0], [-3.0], [1.0]]) + 10
DATE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d")

GOLDEN = """\
Start Training ...

================================================================================DATE
{'step': 2, 'loss': 1.5, 'mae': 1.0}
{'step': 4, 'loss': 3.5, 'mae': 1.5}

+-------+------+-----+----------+---------+
| epoch | loss | mae | val_loss | val_mae |
+-------+------+-----+----------+---------+
|   1   | 3.5  | 1.5 |   7.5    |   2.5   |
+-------+------+-----+----------+---------+

================================================================================DATE
{'step': 2, 'loss': 1.5, 'mae': 1.0}
{'step': 4, 'loss': 3.5, 'mae': 1.5}

+-------+------+-----+----------+---------+
| epoch | loss | mae | val_loss | val_mae |
+-------+------+-----+----------+---------+
|   2   | 3.5  | 1.5 |   7.5    |   2.5   |
+-------+------+-----+----------+---------+

================================================================================DATE
Finished Training...
"""


def mae(y_pred, y_true):
    return torch.mean(torch.abs(y_pred - y_true))


def loader(x=X, y=Y, batch_size=10):
    return DataLoader(TensorDataset(x, y), batch_size)


def fresh(lr=0.05, **metrics):
    torch.manual_seed(0)
    model = Model(nn.Linear(3, 1))
    model.compile(loss_func=nn.MSELoss(), optimizer=torch.optim.Adam(model.parameters(), lr=lr),
                  metrics_dict=metrics or {"mae": mae})
    return model


def test_a_linear_regression_as_it_was_always_written_finds_the_plane(capsys):
    model = fresh()
    dfhistory = model.fit(200, dl_train=loader(), dl_val=loader(X[:20], Y[:20]), log_step_freq=20)
    assert isinstance(dfhistory, pd.DataFrame)
    assert list(dfhistory.columns) == ["epoch", "loss", "mae", "val_loss", "val_mae"]
    assert dfhistory["epoch"].tolist() == list(range(1, 201))
    assert torch.allclose(model.net.weight, torch.tensor([[2.0, -3.0, 1.0]]), atol=0.15)
    assert abs(model.net.bias.item() - 10) < 0.15
    assert capsys.readouterr().out.startswith("Start Training ...\n")


def test_what_is_printed_is_pinned(capsys):
    model = Model(nn.Linear(1, 1))
    model.net.weight.requires_grad_(False).fill_(0.0)
    nn.init.zeros_(model.net.bias)
    model.compile(loss_func=nn.MSELoss(), optimizer=torch.optim.SGD(model.parameters(), lr=0.0),
                  metrics_dict={"mae": mae})
    train = loader(torch.zeros(8, 1), torch.tensor([[1.0], [1.0], [0.0], [2.0], [1.0], [1.0], [2.0], [4.0]]), 2)
    val = loader(torch.zeros(4, 1), torch.tensor([[1.0], [2.0], [3.0], [4.0]]), 3)
    model.fit(2, dl_train=train, dl_val=val, log_step_freq=2)
    assert DATE.sub("DATE", capsys.readouterr().out) == GOLDEN


def test_without_validation_the_table_has_no_such_columns(capsys):
    history = fresh().fit(1, dl_train=loader())
    assert list(history.columns) == ["epoch", "loss", "mae"]
    printed = capsys.readouterr().out
    assert "| epoch |" in printed
    assert "val_loss" not in printed
    assert printed.count("'step'") == 10  # every step, where nothing else is asked


def test_nothing_is_printed_when_nothing_is_to_be(capsys):
    fresh().fit(1, dl_train=loader(), verbose=0)
    assert capsys.readouterr().out == ""


def test_numbers_and_weights_are_those_of_kerasmodel_bit_for_bit():
    model = fresh()
    history = model.fit(3, dl_train=loader(batch_size=32), dl_val=loader(), verbose=0)
    torch.manual_seed(0)
    net = nn.Linear(3, 1)
    start = copy.deepcopy(net)
    other = KerasModel(net, nn.MSELoss(), {"mae": mae}, torch.optim.Adam(net.parameters(), lr=0.05))
    expected = other.fit(loader(batch_size=32), loader(), epochs=3, ckpt_path=None, quiet=True)
    for name in ("loss", "mae"):
        assert history[name].tolist() == expected[f"train_{name}"].tolist()
        assert history[f"val_{name}"].tolist() == expected[f"val_{name}"].tolist()
    assert torch.equal(model.net.weight, net.weight)
    assert not torch.equal(start.weight, net.weight)  # control


def test_an_epochs_loss_is_a_mean_over_samples():
    model = fresh(lr=1e-30)  # nothing moves, so that the loss of all samples at once can be told
    history = model.fit(1, dl_train=loader(batch_size=30), verbose=0)
    with torch.no_grad():
        whole = nn.functional.mse_loss(model(X), Y).item()
        parts = [nn.functional.mse_loss(model(x), y).item() for x, y in loader(batch_size=30)]
    assert history["loss"][0] == pytest.approx(whole, rel=1e-6)
    assert np.mean(parts) != pytest.approx(whole, rel=1e-4)  # control: the mean over batches is another number


def test_a_second_fit_goes_on():
    once, twice = fresh(), fresh()
    once.fit(4, dl_train=loader(), verbose=0)
    twice.fit(2, dl_train=loader(), verbose=0)
    halfway = twice.net.weight.clone()
    second = twice.fit(2, dl_train=loader(), verbose=0)
    assert torch.equal(once.net.weight, twice.net.weight)
    assert not torch.equal(halfway, twice.net.weight)  # control
    assert second["epoch"].tolist() == [1, 2]


def numpy_mae(y_pred, y_true):
    return np.mean(np.abs(y_pred - y_true))


def test_metrics_may_be_numpys_and_scikit_learns():
    model = fresh(numpy=numpy_mae, sklearn=mean_absolute_error, r2=r2_score, ours=mae, named="mae")
    history = model.fit(2, dl_train=loader(), verbose=0)
    assert history["numpy"].tolist() == pytest.approx(history["ours"].tolist(), rel=1e-6)
    assert history["sklearn"].tolist() == pytest.approx(history["ours"].tolist(), rel=1e-6)
    assert history["named"].tolist() == pytest.approx(history["ours"].tolist(), rel=1e-6)
    found = model.evaluate(loader())
    with torch.no_grad():
        preds = model(X)
    assert found["val_r2"] == pytest.approx(r2_score(Y, preds), rel=1e-6)  # which wants the truth first
    assert found["val_r2"] != pytest.approx(r2_score(preds, Y), rel=1e-2)  # control


def test_a_metric_that_fails_says_how_it_failed():
    def broken(y_pred, y_true):
        raise TypeError("no such thing")

    with pytest.raises(TypeError, match="no such thing"):
        fresh(broken=broken).fit(1, dl_train=loader(), verbose=0)


def test_evaluate_and_predict_are_as_they_were():
    model = fresh()
    found = model.evaluate(loader())
    assert list(found) == ["val_loss", "val_mae"]
    preds = model.predict(loader())
    assert isinstance(preds, torch.Tensor)
    assert not preds.requires_grad
    with torch.no_grad():
        assert torch.equal(preds, torch.cat([model(x) for x, _ in loader()]))
    assert found["val_loss"] == pytest.approx(nn.functional.mse_loss(preds, Y).item(), rel=1e-6)


def test_a_subclass_is_trained_as_it_is():
    class Net(Model):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 1)

        def forward(self, x):
            return self.linear(x)

    torch.manual_seed(0)
    model, twin = Net(), fresh()
    model.compile(loss_func=nn.MSELoss(), optimizer=torch.optim.Adam(model.parameters(), lr=0.05))
    model.fit(2, dl_train=loader(), verbose=0)
    assert not torch.equal(model.linear.weight, twin.net.weight)  # control
    twin.fit(2, dl_train=loader(), verbose=0)
    assert torch.equal(model.linear.weight, twin.net.weight)
    assert list(model.state_dict()) == ["linear.weight", "linear.bias"]


def test_the_number_of_epochs_may_have_its_name():
    assert len(fresh().fit(epochs=2, dl_train=loader(), verbose=0)) == 2


def test_a_run_that_diverges_says_so_and_keeps_what_was_good(capsys):
    model = fresh(lr=0.0)
    model.fit(1, dl_train=loader(), verbose=0)
    kept = model.net.weight.clone()

    class Blow:
        def on_epoch_begin(self, epoch, logs=None):
            self.model.learning_rate = 1e-3 if epoch == 0 else 1e38

        def on_epoch_end(self, epoch, logs):
            self.weight = self.model.net.weight.clone()

    blow = Blow()
    with pytest.warns(RuntimeWarning, match="train_loss is"):
        history = model.fit(3, dl_train=loader(), callbacks=[blow], log_step_freq=100)
    assert len(history) == 1
    assert "train_loss is" in history.attrs["stop_reason"]
    assert "<<<<<< train_loss is" in capsys.readouterr().out
    assert torch.equal(model.net.weight, blow.weight)
    assert not torch.equal(model.net.weight, kept)  # control: not the weights that the run began with


def test_layers_that_ask_for_it_are_penalised():
    torch.manual_seed(0)
    net = losses.regularized(nn.Linear(3, 1), losses.L1L2(l2=0.1))
    model = Model(net)
    model.compile(loss_func=nn.MSELoss(), optimizer="sgd")
    with torch.no_grad():
        plain = nn.functional.mse_loss(net(X), Y).item()
    asked = 0.1 * net.weight.square().sum().item()
    assert model.evaluate(loader(batch_size=100))["val_loss"] == pytest.approx(plain + asked, rel=1e-5)
    assert asked > 1e-4 * plain  # control: the difference can be seen


@pytest.mark.parametrize(("call", "kind", "words"), [
    (lambda m: m.fit(10, loader(), dl_train=loader()), TypeError, ["dl_train twice", "by position and by name"]),
    (lambda m: m.fit(10), TypeError, ["epochs without dl_train"]),
    (lambda m: m.fit(2, dl_train=loader(), epochs=3), TypeError, ["fit: received x"]),
    (lambda m: m.fit(X, dl_train=loader()), TypeError, ["fit: received x"]),
    (lambda m: m.fit(2, dl_train=loader(), validation_data=loader()), TypeError, ["validation_data", "dl_val=..."]),
    (lambda m: m.fit(2, dl_train=loader(), log_step_freq=0), ValueError, ["log_step_freq"]),
    (lambda m: m.fit(2, dl_train=loader(), log_step=5), TypeError, ["Did you mean 'log_step_freq'?"]),
    (lambda m: m.fit(0, dl_train=loader()), ValueError, ["epochs"]),
    (lambda m: m.fit(2, dl_train=nn.Linear), TypeError, ["train_data", "Linear"]),
    (lambda m: m.compile(loss_func="mean_square"), ValueError, ["loss_fn", "Did you mean 'mean_squared_error'?"]),
    (lambda m: m.compile(loss_func=3), TypeError, ["loss", "int"]),
    (lambda m: m.compile(loss_func=nn.MSELoss), TypeError, ["Did you mean MSELoss()?"]),
    (lambda m: m.compile(loss_func=nn.MSELoss(), metrics_dict=3), TypeError, ["metrics_dict"]),
    (lambda m: m.compile(loss_func=nn.MSELoss(), metrics_dict={"loss": mae}), ValueError, ["'loss'"]),
    (lambda m: m.compile(loss_func=nn.MSELoss(), loss="mse"), ValueError, ["only one of the two ways"]),
])
def test_wrong_calls_are_refused_with_what_to_do(call, kind, words):
    model = fresh()
    before = model.net.weight.clone()
    with pytest.raises(kind) as error:
        call(model)
    assert [word for word in words if word not in str(error.value)] == []
    assert torch.equal(before, model.net.weight)


def test_numbers_in_a_box_are_short():
    assert [rounded(value) for value in (0.12345, 0.000123456, 12.34567, 0.0)] == [0.123, 0.000123, 12.346, 0.0]
    assert boxed({"epoch": 1, "loss": 0.5}).splitlines() == [
        "+-------+------+", "| epoch | loss |", "+-------+------+", "|   1   | 0.5  |", "+-------+------+"]
