"""Steps and splits of arrays, with the numbers that Keras 3.15 gives for them."""

import numpy as np
import pytest
import torch
from torch import nn

from torchkeras import Model

X = np.arange(90, dtype="float32")[:, None] / 90
Y = X * 2


def model():
    net = nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.fill_(0.5)
        net.bias.fill_(0.0)
    made = Model(net)
    made.compile("sgd", "mse")
    return made


@pytest.mark.parametrize(("options", "steps", "loss", "val_loss", "weight"), [
    ({"epochs": 2, "steps_per_epoch": 2}, 4, [0.72731405, 0.66721326], None, 0.53823483),
    ({"epochs": 2, "steps_per_epoch": 4, "validation_split": 0.3}, 8, [0.33163503, 0.28655261],
     [1.46169174, 1.33927941], 0.53643209),
    ({"epochs": 1, "validation_data": (X, Y), "validation_steps": 2}, 3, [0.71293473], [0.64275718], 0.53120136),
    ({"epochs": 2, "validation_split": 0.3, "batch_size": 31}, 4, [0.34308398, 0.31929836],
     [1.53176022, 1.46644568], 0.5180853)])
def test_steps_and_splits_of_arrays_give_the_numbers_of_keras(options, steps, loss, val_loss, weight):
    made = model()
    history = made.fit(X, Y, verbose=0, shuffle=False, **options).history
    assert made.engine.run.global_step == steps
    assert history["loss"] == pytest.approx(loss, rel=1e-6)
    assert history.get("val_loss") == (None if val_loss is None else pytest.approx(val_loss, rel=1e-6))
    assert made.get_weights()[0].item() == pytest.approx(weight, rel=1e-6)


def test_steps_without_a_batch_size_take_all_samples_and_with_one_that_many_batches():
    assert model().evaluate(X, Y, steps=2) == pytest.approx(0.73754627, rel=1e-6)
    assert model().evaluate(X, Y, steps=2, batch_size=10) < 0.1  # control: the first 20
    assert model().predict(X, steps=2).shape == model().predict(X, steps=7).shape == (90, 1)
    assert model().predict(X, steps=2, batch_size=10).shape == (20, 1)
    for steps in (0, 1.5, "2"):
        with pytest.raises((TypeError, ValueError), match="steps: received"):
            model().predict(X, steps=steps)


@pytest.mark.parametrize(("count", "share"), [(90, 0.3), (90, 0.1), (9, 0.44), (1000, 0.57), (17, 0.9), (18, 0.55)])
def test_a_split_is_where_the_floats_of_keras_put_it(count, share):
    x = np.arange(count, dtype="float32")[:, None] / count
    made = model()
    made.fit(x, x, verbose=0, batch_size=1, validation_split=share)
    assert made.engine.run.global_step == int(count * (1.0 - share))
