"""The job of ``make demo`` in a small size: it learns, and leaves weights and two pictures."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import mnist_cnn  # noqa: E402 (the examples are scripts in a folder, not a package)
from digits import load_digits  # noqa: E402


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    full = load_digits()
    part = full._replace(train_images=full.train_images[:1000], train_labels=full.train_labels[:1000])
    accuracy = mnist_cnn.main(["--epochs", "3", "--batch-size", "16", "--output", str(folder)], part)
    return folder, accuracy, full


def test_the_demo_learns_to_read_digits(outcome):
    _, accuracy, _ = outcome
    assert 0.85 < accuracy < 1  # guessing gives 0.1


def test_the_saved_weights_are_those_that_were_measured(outcome):
    folder, accuracy, full = outcome
    net = mnist_cnn.make_net().eval()
    labels = torch.from_numpy(full.test_labels)
    with torch.no_grad():
        untrained = net(mnist_cnn.scaled(full.test_images)).argmax(dim=1)
        net.load_state_dict(torch.load(folder / "best.pt"))
        preds = net(mnist_cnn.scaled(full.test_images)).argmax(dim=1)
    assert (preds == labels).double().mean().item() == pytest.approx(accuracy, abs=1e-9)
    assert (untrained == labels).double().mean().item() < 0.5


@pytest.mark.parametrize("name", ["curves.png", "digits.png"])
def test_each_picture_shows_something(outcome, name):
    from matplotlib.image import imread

    picture = imread(outcome[0] / name)
    height, width, _ = picture.shape
    assert min(height, width) >= 300
    assert len(np.unique(picture[..., 0])) > 20  # an empty sheet has one value


def test_mistakes_are_red_and_a_faultless_test_has_none(outcome, tmp_path):
    from matplotlib.image import imread

    full = outcome[2]

    def red(preds):
        mnist_cnn.save_digits(tmp_path / "digits.png", full, preds)
        picture = imread(tmp_path / "digits.png")
        return int(((picture[..., 0] > 0.9) & (picture[..., 1] < 0.1)).sum())

    assert red(full.test_labels) == 0
    assert red((full.test_labels + (np.arange(1000) == 7)) % 10) > 20
    assert red((full.test_labels + 1) % 10) > 500


def test_the_net_is_the_one_of_the_summary():
    assert sum(weight.numel() for weight in mnist_cnn.make_net().parameters()) == 320 + 51264 + 2080 + 330
