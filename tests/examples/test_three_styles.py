"""The example of the three styles in a small size."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import mnist_three_styles  # noqa: E402 (the examples are scripts in a folder, not a package)
from digits import load_digits  # noqa: E402


@pytest.fixture(scope="module")
def few():
    full = load_digits()
    return full._replace(train_images=full.train_images[:600], train_labels=full.train_labels[:600],
                         test_images=full.test_images[:200], test_labels=full.test_labels[:200])


@pytest.mark.filterwarnings(r"ignore:`isinstance\(treespec, LeafSpec\)` is deprecated",
                            "ignore:The '.*_dataloader' does not have many workers")
def test_all_styles_end_with_the_same_weights_in_one_table(few, capsys):
    table = mnist_three_styles.main(["--epochs", "1"], few)
    assert list(table["style"]) == ["script", "function", "keras_class", "lightning_class"]
    assert set(table["the script's weights"]) == {"bit for bit"}
    assert len(set(table["test_loss"])) == len(set(table["test_acc"])) == 1
    assert capsys.readouterr().out.endswith(table.to_string(index=False) + "\n")


def test_control_a_style_that_trains_otherwise_is_found_out(few, monkeypatch, capsys):
    def otherwise(net, *parts):
        for weight in net.parameters():
            weight.data.mul_(0.5)

    monkeypatch.setattr(mnist_three_styles, "function", otherwise)
    monkeypatch.setattr(mnist_three_styles, "keras_class", mnist_three_styles.script)
    monkeypatch.setattr(mnist_three_styles, "find_spec", lambda name: None)
    table = mnist_three_styles.main(["--epochs", "1"], few)
    assert list(table["the script's weights"]) == ["bit for bit", "no", "bit for bit"]
