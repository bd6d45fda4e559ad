"""The example in Keras's words learns both ways, and the one with wrong labels is not misled."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import keras_words  # noqa: E402 (the examples are scripts in a folder, not a package)
import noisy_labels  # noqa: E402


def test_tumours_are_told_apart_by_both_ways(capsys):
    measured = keras_words.main(["--epochs", "8"])
    assert list(measured) == ["own loop", "fit"]
    assert all(one["accuracy"] > 0.93 and one["AUC"] > 0.98 for one in measured.values())
    assert "epoch 5: learning rate 0.0005" in capsys.readouterr().out
    _, test = keras_words.load_data(0)
    torch.manual_seed(0)
    untrained = keras_words.Tumour()
    untrained.compile("nadam", "binary_crossentropy", ["accuracy"])
    assert untrained.evaluate(test, return_dict=True)["accuracy"] < 0.9  # control


def test_wrong_labels_mislead_the_cross_entropy_more():
    accuracy = noisy_labels.main(["--epochs", "15"])
    assert accuracy["symmetric"] > accuracy["cross entropy"] + 0.03
    assert accuracy["symmetric, with decay"] > accuracy["cross entropy"] + 0.03


def test_as_many_labels_are_wrong_as_were_asked_for():
    torch.manual_seed(0)
    (_, first), _ = noisy_labels.load_data(0.0)
    torch.manual_seed(0)
    (_, second), _ = noisy_labels.load_data(0.4)
    assert (first != second).float().mean().item() == pytest.approx(0.4, abs=0.05)
