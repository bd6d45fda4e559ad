"""One weight per sample, for a model of several outputs: loss and columns are those of Keras."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import Model

X = np.array([[1.0, 2.0], [0.5, -1.0], [-2.0, 0.0], [3.0, 1.0]], "float32")
A, B = X[:, :1] * 2, X.sum(1, keepdims=True)
W = np.array([0.0, 0.5, 1.0, 2.0], "float32")
# Keras 3 with these weights: evaluate and train_on_batch with sample_weight=W
KERAS = {"loss": 26.2265625, "a_loss": 12.4453125, "b_loss": 13.78125}


class Two(Model):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(2, 1), nn.Linear(2, 1)

    def forward(self, x):
        return {"a": self.a(x), "b": self.b(x)}


def two():
    model = Two()
    with torch.no_grad():
        for layer, row in ((model.a, [0.5, 0.0]), (model.b, [0.0, -1.0])):
            layer.weight.copy_(torch.tensor([row]))
            layer.bias.zero_()
    model.compile("sgd", {"a": "mse", "b": "mse"})
    return model


def loader():
    class Named(TensorDataset):
        def __getitem__(self, index):
            x, a, b, w = super().__getitem__(index)
            return x, {"a": a, "b": b}, w
    return DataLoader(Named(*map(torch.tensor, (X, A, B, W))), batch_size=3)


def rows():
    y = {"a": A, "b": B}
    yield "evaluate", two().evaluate(X, y, sample_weight=W, return_dict=True)
    yield "train_on_batch", two().train_on_batch(X, y, sample_weight=W, return_dict=True)
    yield "a loader", two().evaluate(loader(), return_dict=True)
    history = two().fit(X, y, sample_weight=W, validation_data=(X, y, W), batch_size=4, verbose=0).history
    yield "fit", {name: history[name][0] for name in KERAS}


@pytest.mark.parametrize("place", range(4))
def test_the_columns_of_outputs_are_weighted_as_their_sum(place):
    found = list(rows())[place][1]
    plain = two().evaluate(X, {"a": A, "b": B}, return_dict=True)
    for name, value in KERAS.items():
        assert found[name] == pytest.approx(value, rel=1e-5)
        assert plain[name] != pytest.approx(value, rel=1e-2)


def test_predict_returns_the_labels_as_they_were_given():
    assert set(two().predict(loader(), with_labels=True)[1]) == {"a", "b"}
