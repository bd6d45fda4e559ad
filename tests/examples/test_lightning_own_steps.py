"""A LightModel with steps of its own learns, and its checkpoint is loaded without a net being given."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

pytest.importorskip("pytorch_lightning")
import lightning_own_steps  # noqa: E402 (the examples are scripts in a folder, not a package)

pytestmark = [pytest.mark.filterwarnings(f"ignore:{text}") for text in (
    r"`isinstance\(treespec, LeafSpec\)` is deprecated", ".*does not have many workers", "Checkpoint directory .* exists")]


def test_the_rings_are_told_apart_by_steps_of_ones_own(tmp_path):
    history, accuracy = lightning_own_steps.main(["--epochs", "6", "--output", str(tmp_path)])
    assert 0.9 < accuracy < 0.95  # the best border there is, at radius 6.5, is right for 93.3 %
    assert list(history) == ["epoch", "train_loss", "train_acc", "lr", "val_loss", "val_acc"]
    assert history["lr"].tolist() == pytest.approx([0.01] * 5 + [0.005])
    assert history["train_loss"].iloc[-1] > history["val_loss"].iloc[-1]  # it trains on mixed points
    assert len(list(tmp_path.glob("rings-epoch=*.ckpt"))) == 1
