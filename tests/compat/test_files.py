"""Files that earlier versions wrote are read by this one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.faults import runs
from torch import nn

from torchkeras import Callback, KerasModel

FILES = Path(__file__).with_name("files")


class Where(Callback):
    def on_fit_start(self, model):
        self.notes = [note for note in model.run.notes if note.startswith("resume")]


def test_a_state_of_the_first_format_is_gone_on_with(tmp_path):
    shutil.copytree(FILES / "state-1", tmp_path / "best.state")
    net, where = runs.build().net, Where()
    net.load_state_dict(load_file(tmp_path / "best.state" / "00000001" / "weights.safetensors"))
    net.eval()
    expected = [3.2411931710318695, -0.9454739035364801, -2.2671184675963354, 0.7176931573691725, 0.5797687243033315,
                -0.5298449577252183]
    assert net(runs.Noisy().x[:2]).reshape(-1).tolist() == pytest.approx(expected, abs=1e-7)
    found = runs.run(tmp_path / "best", [where], resume=True)
    assert "resume: the run goes on in epoch 2, step 7 (state 1)" in where.notes
    assert any("an older version wrote the state" in note for note in where.notes)
    losses = [float.fromhex(one) for one in json.loads(found["history"])["val_loss"]]
    assert losses == pytest.approx([0.8295036, 0.6416415, 0.5985985], abs=1e-3)  # on another machine almost the same


def test_a_weights_file_of_torchkeras_4_is_read():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    KerasModel(net, "mse").load_ckpt(FILES / "torchkeras-4.0.5.pt")
    x = torch.linspace(-1, 1, 30).reshape(10, 3)
    expected = [0.10756228864192963, 0.1194329783320427, 0.13130365312099457]
    assert net(x[:3]).reshape(-1).tolist() == pytest.approx(expected, abs=1e-7)
