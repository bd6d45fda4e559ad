"""Weights and files that cannot be taken are refused in words, and nothing changes."""

import numpy as np
import pytest
import torch
from torch import nn

from torchkeras import Model


def one_layer(size=2):
    return Model(nn.Linear(size, 1))


@pytest.mark.parametrize("weights", [
    None, 3, "ab", {"a": 1}, [[[1.0], [1.0, 2.0]], [0.0]], [np.array([[None, 1]]), np.zeros(1)],
    [np.zeros((1, 2), complex), np.zeros(1)]])
def test_weights_that_are_no_arrays_of_numbers_are_refused(weights):
    model = one_layer()
    before = model.get_weights()
    with pytest.raises(TypeError, match="^weights"):
        model.set_weights(weights)
    assert all((one == other).all() for one, other in zip(before, model.get_weights(), strict=True))
    model.set_weights([np.ones((1, 2)), np.ones(1)])
    assert model.get_weights()[0].tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("path", [None, 3, ""])
@pytest.mark.parametrize("method", ["save_weights", "load_weights"])
def test_what_is_no_path_is_refused(method, path):
    with pytest.raises(TypeError, match="^filepath"):
        getattr(one_layer(), method)(path)


@pytest.mark.parametrize("name", ["a.H5", "a.h5", "a.KERAS"])
@pytest.mark.parametrize("method", ["save_weights", "load_weights"])
def test_suffixes_of_keras_are_refused_in_any_case(method, name, tmp_path):
    with pytest.raises(ValueError, match="^filepath"):
        getattr(one_layer(), method)(tmp_path / name)


def test_overwrite_is_true_or_false(tmp_path):
    with pytest.raises(TypeError, match="^overwrite"):
        one_layer().save_weights(tmp_path / "a.pt", overwrite="no")
    assert not list(tmp_path.iterdir())


def test_skipping_all_weights_is_refused_without_arguments_of_other_methods(tmp_path):
    one_layer().save_weights(tmp_path / "a.pt")
    other = Model(nn.Sequential(nn.Conv2d(1, 1, 1)))
    with pytest.raises(ValueError, match="^filepath") as error:
        other.load_weights(tmp_path / "a.pt", skip_mismatch=True)
    assert "strict" not in str(error.value)
    partly = one_layer(3)
    partly.load_weights(tmp_path / "a.pt", skip_mismatch=True)  # the bias matches
    assert torch.isfinite(torch.as_tensor(partly.get_weights()[0])).all()
