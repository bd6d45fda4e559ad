"""A weights file holds no tensor of a GPU, and else what the state dict held."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from torchkeras.checkpoint import main_memory, weight_file
from torchkeras.checkpoint.main_memory import in_main_memory


@pytest.fixture
def away(monkeypatch):
    """Takes memory of the CPU for that of a GPU; a copy of it is main memory."""
    copies = []
    cpu = torch.UntypedStorage.cpu
    monkeypatch.setattr(main_memory, "is_away", lambda tensor: True)
    monkeypatch.setattr(torch.UntypedStorage, "cpu",
                        lambda memory: copies.append(memory.nbytes()) or cpu(memory).clone())
    return copies


def tied():
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    return net


def test_each_memory_is_copied_once_and_shared_as_before(away):
    weights = tied().state_dict()
    found = in_main_memory(weights)
    assert type(found) is OrderedDict
    assert found._metadata == weights._metadata
    assert list(found) == list(weights)
    for name, value in weights.items():
        assert torch.equal(found[name], value)
        assert found[name].data_ptr() != value.data_ptr()
    assert found["0.weight"].data_ptr() == found["2.weight"].data_ptr()
    assert len(away) == len(weights) - 1


def test_views_keep_their_place_and_other_values_are_the_same(away):
    whole = torch.arange(6.0)
    content = {"part": whole[2:4], "all": [whole, (1, "a")], "column": whole.reshape(2, 3)[:, 1]}
    found = in_main_memory(content)
    assert found["part"].tolist() == [2.0, 3.0]
    assert found["column"].tolist() == [1.0, 4.0]
    assert found["all"][1] == (1, "a")
    assert found["part"].data_ptr() - found["all"][0].data_ptr() == 8
    assert away == [24]


def test_what_is_in_main_memory_already_is_written_as_it_is():
    weights = tied().state_dict()
    assert in_main_memory(weights) is weights
    assert in_main_memory({"a": torch.empty(2, device="meta")})["a"].is_meta  # there is nothing to move


def test_the_file_is_that_of_the_copies(away, tmp_path):
    net = tied()
    weight_file.save_weights(net, tmp_path / "weights.pt")
    assert len(away) == len(net.state_dict()) - 1
    found = torch.load(tmp_path / "weights.pt", weights_only=True)
    assert all(torch.equal(found[name], value) for name, value in net.state_dict().items())
    assert found["0.weight"].data_ptr() == found["2.weight"].data_ptr()
