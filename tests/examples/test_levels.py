"""The faces for Keras's words and for Lightning find what the three levels of the examples find."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import LightModel, Model

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import linear_regression  # noqa: E402 (the examples are scripts in a folder, not a package)
import ring_points  # noqa: E402


def by_keras_words(net, x, y, loss, epochs, rate):
    model = Model(net)
    model.compile(optimizer=torch.optim.Adam(net.parameters(), lr=rate), loss=loss)
    model.fit(x, y, batch_size=20, epochs=epochs, verbose=0)


def by_lightning(net, x, y, loss, epochs, rate):
    model = LightModel(net, nn.MSELoss() if loss == "mse" else nn.BCEWithLogitsLoss(),
                       optimizer=torch.optim.Adam(net.parameters(), lr=rate), quiet=True)
    trainer = LightModel.Trainer(max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False,
                                 enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(model, DataLoader(TensorDataset(x, y), 20, shuffle=True))


FACES = [by_keras_words, by_lightning]
pytestmark = [pytest.mark.filterwarnings("ignore:.*does not have many workers"),
              pytest.mark.filterwarnings("ignore:.*have no .val_dataloader"),
              pytest.mark.filterwarnings("ignore:.*LeafSpec")]


@pytest.mark.parametrize("fit", FACES)
def test_the_plane_is_recovered(fit):
    torch.manual_seed(0)
    x, y = linear_regression.make_points(400)
    net = nn.Linear(2, 1)
    fit(net, x, y, "mse", epochs=40, rate=0.1)
    assert net.weight.flatten().tolist() == pytest.approx([2, -3], abs=0.15)
    assert net.bias.item() == pytest.approx(10, abs=0.15)


@pytest.mark.parametrize("fit", FACES)
def test_more_than_nine_in_ten_points_of_the_rings_are_told_apart(fit):
    torch.manual_seed(0)
    x, y = ring_points.make_rings(1000, 1000)
    net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
    loss = nn.BCEWithLogitsLoss()
    before = float(((net(x) > 0) == (y > 0.5)).float().mean())
    fit(net, x, y, loss, epochs=12, rate=0.01)
    assert before < 0.8
    assert float(((net(x) > 0) == (y > 0.5)).float().mean()) > 0.9
