"""A net of float64 trains on numpy's and pandas' numbers as a loop written by hand does."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import KerasModel, Model
from torchkeras.data.arrays import wide_dtype

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(40, 3)), rng.normal(size=(40, 1))
QUIET = {"epochs": 2, "ckpt_path": None, "quiet": True, "batch_size": 8, "shuffle": False}


def net(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Linear(3, 1).to(dtype)


def by_hand(x, y):
    one = net()
    optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
    for _ in range(2):
        for features, labels in DataLoader(TensorDataset(torch.from_numpy(x), torch.from_numpy(y)), 8):
            optimizer.zero_grad()
            nn.functional.mse_loss(one(features), labels).backward()
            optimizer.step()
    return one.weight


def trained(data, one=None, **options):
    one = one or net()
    model = KerasModel(one, "mse", optimizer=torch.optim.SGD(one.parameters(), lr=0.1))
    model.fit(data, **QUIET | options)
    return model


FORMS = {
    "numpy": (X, Y), "pandas": (pd.DataFrame(X, columns=["a", "b", "c"]), pd.DataFrame(Y)),
    "lists of numbers": (X.tolist(), Y.tolist()), "a dict": {"input": X, "labels": Y}, "tensors": (torch.tensor(X), Y),
    "numbers of 128 bits": (X.astype(np.longdouble), Y)}


@pytest.mark.parametrize("form", FORMS)
def test_the_weights_are_those_of_a_loop_by_hand(form):
    model = trained(FORMS[form])
    assert torch.equal(model.net.weight, by_hand(X, Y))
    assert model.predict(X).dtype == torch.float64
    expected = nn.functional.mse_loss(model.net(torch.from_numpy(X)), torch.from_numpy(Y)).item()
    assert model.evaluate((X, Y))["val_loss"] == pytest.approx(expected, rel=1e-14)
    assert not torch.equal(model.net.weight, by_hand(X.astype(np.float32).astype(float), Y))  # control: not rounded


def test_held_out_samples_keep_their_digits():
    model = trained((X, Y), validation_split=0.5, monitor="train_loss")
    assert torch.equal(model.net.weight, by_hand(X[:20], Y[:20]))
    assert model.run.history["val_loss"][-1] == pytest.approx(
        nn.functional.mse_loss(model.net(torch.from_numpy(X[20:])), torch.from_numpy(Y[20:])).item(), rel=1e-14)


def test_a_run_that_goes_on_does_so_exactly(tmp_path):
    class Stop:
        def on_step_end(self, model):
            if model.run.global_step == 7:
                model.run.stop("later")

    one = net()
    trained((X, Y), one, ckpt_path=tmp_path / "best", resume=True, callbacks=[Stop()])
    again = trained((X, Y), ckpt_path=tmp_path / "best", resume=True)
    assert torch.equal(again.net.weight, by_hand(X, Y))
    assert trained((X, Y)).verify_resume((X, Y), batch_size=8).identical


def test_in_several_processes_the_numbers_are_the_same():
    one = net()
    model = KerasModel(one, "mse", optimizer=torch.optim.SGD(one.parameters(), lr=0.1))
    model.fit_ddp(2, (X, Y), cpu=True, **QUIET)
    torch.testing.assert_close(one.weight, by_hand(X, Y), rtol=1e-13, atol=1e-13)


def test_models_in_keras_words_take_them():
    model = Model(net())
    model.compile(optimizer=torch.optim.SGD(model.net.parameters(), lr=0.1), loss=nn.MSELoss())
    model.fit(X, Y, batch_size=8, epochs=2, shuffle=False, verbose=0)
    assert torch.equal(model.net.weight, by_hand(X, Y))
    assert model.predict(X).dtype == np.float64
    assert model.predict_on_batch(X).dtype == np.float64
    assert model.evaluate(X, Y) == pytest.approx(model.test_on_batch(X, Y), rel=1e-14)


@pytest.mark.parametrize(("one", "dtype"), [
    (net(), torch.float64), (net(torch.float32), None), (net(torch.float16), None), (net(torch.bfloat16), None),
    (nn.Sequential(net(), net(torch.float32)), None), (nn.Flatten(), None)])
def test_only_a_net_of_nothing_but_float64_keeps_them(one, dtype):
    assert wide_dtype(one) is dtype


def test_control_a_net_of_float32_gets_float32_and_tensors_stay_as_they_are():
    assert trained((X, Y), net(torch.float32)).predict(X).dtype == torch.float32
    with pytest.raises(RuntimeError, match="same dtype"):
        trained((torch.tensor(X), Y), net(torch.float32))
    with pytest.raises(RuntimeError, match="same dtype"):
        trained((X.astype(np.float32), Y))  # the user's own choice of 32 bits stays, as it does by hand
