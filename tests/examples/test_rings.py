"""Each level tells the rings apart, and the rare ring is found among the common one."""

import sys
from pathlib import Path

import pytest
import torch
from tests.examples.helpers import check_picture

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import focal_rings  # noqa: E402 (the examples are scripts in a folder, not a package)
import ring_points  # noqa: E402
import rings  # noqa: E402

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in (
    ".*does not have many workers", "You defined a .validation_step", ".*LeafSpec")]


def test_each_level_passes_nine_in_ten(tmp_path):
    accuracy = rings.main(["--output", str(tmp_path)])
    assert list(accuracy) == ["low level", "middle level", "high level", "lightning"]
    # the best border there is, at radius 6.5, is right for 93.3 %
    assert all(0.90 < share < 0.95 for share in accuracy.values())
    check_picture(tmp_path / "rings.png")


def test_control_nets_that_were_not_trained_do_not_pass():
    torch.manual_seed(0)
    x, y = ring_points.make_rings()
    for level in (rings.low_level, rings.middle_level):
        assert ((level(x, y, 0)(x) > 0) == (y > 0)).float().mean() < 0.75


def test_the_rare_ring_is_found(tmp_path):
    measured = focal_rings.main(["--epochs", "4", "--output", str(tmp_path)])
    assert 0.95 < measured["val_auc"] < 0.995  # the best there is: 0.983
    assert measured["val_recall"] > 0.5
    check_picture(tmp_path / "focal_rings.png")


def test_the_points_are_where_the_labels_say():
    torch.manual_seed(0)
    x, y = ring_points.make_rings(1000, 6000)
    radius = x.norm(dim=1)
    assert (int(y.sum()), len(y)) == (1000, 7000)
    assert radius[y[:, 0] == 1].mean() == pytest.approx(5, abs=0.2)
    assert radius[y[:, 0] == 0].mean() == pytest.approx(8, abs=0.2)
