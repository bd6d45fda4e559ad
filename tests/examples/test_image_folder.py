"""Folders of images are written, read back with random changes, and learned."""

import sys
from pathlib import Path

import numpy as np
import pytest
from tests.examples.helpers import check_picture, digits_at_hand

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import image_folder  # noqa: E402 (the examples are scripts in a folder, not a package)
from torchkeras.data import ImageFolder  # noqa: E402


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_folder, "load_digits", digits_at_hand)
        return folder, image_folder.main(["--epochs", "5", "--samples", "150", "--output", str(folder)])


def test_fours_are_told_from_nines(outcome):
    folder, accuracy = outcome
    assert accuracy > 0.8  # guessing gives 0.5
    train = ImageFolder(folder / "images" / "train")
    assert (train.classes, len(train)) == (["four", "nine"], 300)
    check_picture(folder / "image_folder.png")


def test_mistakes_are_red(outcome, tmp_path):
    from matplotlib.image import imread

    data = ImageFolder(outcome[0] / "images" / "val", size=28, mode="L")
    labels = np.array([number for _, number in data.samples])

    def red(preds):
        image_folder.save_grid(tmp_path / "grid.png", data, preds, rows=1)
        picture = imread(tmp_path / "grid.png")
        return int(((picture[..., 0] > 0.9) & (picture[..., 1] < 0.1)).sum())

    assert red(labels) == 0
    assert red(np.where(np.arange(len(labels)) == 3, 1 - labels, labels)) > 20
