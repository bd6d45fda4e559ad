"""Arguments in the words of Keras and of older versions: taken as meant, or refused in words."""

import importlib
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from torchkeras import Model
from torchkeras.acceleration import private_folder

X = np.ones((8, 3), "float32")
Y = X[:, :1]


def compiled(loss="mse", net=None):
    model = Model(nn.Linear(3, 1) if net is None else net)
    model.compile("sgd", loss)
    return model


def test_validation_data_without_weights_may_say_none():
    found = [compiled(net=nn.Linear(3, 1, bias=False)) for _ in range(2)]
    found[1].set_weights(found[0].get_weights())
    first, second = (model.fit(X, Y, validation_data=data, verbose=0).history
                     for model, data in zip(found, [(X, Y), (X, Y, None)], strict=True))
    assert first == second
    assert "val_loss" in first


def test_weights_of_losses_are_finite():
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="^loss_weights"):
            Model(nn.Identity()).compile("sgd", {"a": "mse", "b": "mse"}, loss_weights={"a": value})
    Model(nn.Linear(1, 1)).compile("sgd", {"a": "mse", "b": "mse"}, loss_weights={"a": 2.0})


def test_an_empty_list_of_epochs_says_so():
    with pytest.raises(ValueError, match="validation_freq: received an empty list"):
        compiled().fit(X, Y, validation_data=(X, Y), validation_freq=[], verbose=0)


def test_the_epochs_of_older_calls_may_be_a_number_of_numpy():
    batch = [(torch.tensor(X), torch.tensor(Y))]
    assert len(compiled().fit(np.int64(2), batch, batch, verbose=0)) == 2


def said_by(loss, scale):
    """All that the error says of a net whose outputs are about six times ``scale``."""
    net = nn.Linear(3, 1)
    nn.init.constant_(net.weight, 2.0)
    with pytest.raises((RuntimeError, ValueError)) as error:
        compiled(loss, net).evaluate(X * np.float32(scale), Y)
    return " ".join([str(error.value), *getattr(error.value, "__notes__", [])])


@pytest.mark.parametrize("loss", ["binary_crossentropy", nn.BCELoss()])
def test_predictions_that_are_nan_are_called_so(loss):
    assert "are NaN" in said_by(loss, np.nan)
    others = said_by(nn.BCELoss(), 2.0)  # the control
    assert "NaN" not in others
    assert "Sigmoid" in others


@pytest.mark.skipif(os.name == "nt", reason="Windows has no HOME")
def test_an_empty_home_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "")
    with pytest.raises(RuntimeError, match="HOME"):
        private_folder.cache_home()
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path in Path(private_folder.cache_home()).parents


@pytest.mark.parametrize(("module", "name"), [("utils", "prettydf"), ("utils", "text_to_image"), ("data", "get_url_img")])
def test_functions_that_are_gone_say_what_took_their_place(module, name):
    found = importlib.import_module(f"torchkeras.{module}")
    with pytest.raises(ImportError, match="earlier version"):
        getattr(found, name)
    assert not hasattr(found, "never_there")


def test_the_nets_of_older_versions_say_what_took_their_place():
    with pytest.raises(ModuleNotFoundError, match="torchvision"):
        importlib.import_module("torchkeras.models")
