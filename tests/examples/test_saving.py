"""Each way of saving gives the net back, and says what it left out."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import saving  # noqa: E402 (the examples are scripts in a folder, not a package)


def test_every_way_of_saving_gives_the_net_back(tmp_path, capsys):
    assert saving.main(["--output", str(tmp_path)]) == [
        "both.safetensors", "drawn.json", "drawn.safetensors", "net.pt", "whole.pt"]
    printed = capsys.readouterr().out
    assert "2 of 4 weights loaded" in printed  # the other head
    assert "4 of 4 weights loaded" in printed  # under other names
    for name in ("weights", "one of several, of epoch 7", "a drawn net", "a pickled net"):
        assert f"\n{name}: the same\n" in "\n" + printed
    assert "UnpicklingError: not without weights_only=False" in printed


def test_control_the_file_of_another_net_is_refused(tmp_path):
    saving.main(["--output", str(tmp_path)])
    with pytest.raises(RuntimeError, match="size mismatch"):
        nn.Sequential(saving.backbone(), nn.Linear(16, 4)).load_state_dict(torch.load(tmp_path / "net.pt"))
