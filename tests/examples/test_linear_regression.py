"""The plane is found on each of the three levels, and drawn."""

import sys
from pathlib import Path

import pytest
import torch
from tests.examples.helpers import check_picture

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import linear_regression  # noqa: E402 (the examples are scripts in a folder, not a package)

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in (
    ".*does not have many workers", ".*have no .val_dataloader", ".*LeafSpec")]
TRUE = (2.0, -3.0, 10.0)


def test_each_level_finds_the_plane(tmp_path):
    found = linear_regression.main(["--epochs", "10", "--output", str(tmp_path)])
    assert list(found) == ["low", "middle", "high", "lightning"]
    for plane in found.values():
        assert plane == pytest.approx(TRUE, abs=0.15)
    check_picture(tmp_path / "linear_regression.png")


@pytest.mark.parametrize("level", [linear_regression.low_level, linear_regression.middle_level,
                                   linear_regression.high_level, linear_regression.lightning_level])
def test_control_one_epoch_is_too_short_to_find_it(level):
    torch.manual_seed(0)
    assert level(*linear_regression.make_points(), 1) != pytest.approx(TRUE, abs=0.15)
