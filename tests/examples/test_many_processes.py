"""The numbers of two processes are those of one."""

import sys
from pathlib import Path

from tests.examples.helpers import few_digits

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import many_processes  # noqa: E402 (the examples are scripts in a folder, not a package)


def test_two_processes_give_the_numbers_of_one(capsys, monkeypatch):
    monkeypatch.setattr(many_processes, "load_digits", few_digits)
    table = many_processes.main(["--epochs", "2", "--samples", "500", "--cpu"])
    assert "largest difference" in capsys.readouterr().out
    assert (table["1 process"] - table["2 processes"]).abs().to_numpy().max() < 1e-9
    losses = table["1 process"]["val_loss"]
    assert losses.iloc[-1] < losses.iloc[0] - 0.01  # so epochs are not all alike, and something was learned
