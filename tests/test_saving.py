"""Weights in part and under other names; several nets and optimizers in one file."""

import random

import pytest
import torch
from torch import nn

from tests.faults.damage import payloads
from torchkeras import CheckpointCorruptError, KerasModel, load_checkpoint, load_weights, save_checkpoint
from torchkeras.engine.checkpoint import save_weights


def net(out=2, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, out))


def same(one, other):
    states = one.state_dict(), other.state_dict()
    return list(states[0]) == list(states[1]) and all(map(torch.equal, states[0].values(), states[1].values()))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_all_weights_of_a_file_are_loaded(tmp_path, suffix):
    old, new = net(seed=1), net()
    save_weights(old, tmp_path / f"old{suffix}")
    assert not same(old, new)
    report = load_weights(new, tmp_path / f"old{suffix}")
    assert same(old, new)
    assert len(report.loaded) == 9
    assert str(report) == "9 of 9 weights loaded"


def test_a_net_of_another_head_takes_the_rest_only_when_asked_to():
    old, new, before = net(10, seed=1), net(), net()
    with pytest.raises(ValueError, match=r"source: received weights of another net: 7 of 9 (?s:.)*Pass strict=False"):
        load_weights(new, old.state_dict())
    assert same(new, before)
    report = load_weights(new, old.state_dict(), strict=False)
    assert report.unlike == ["2.bias: [10] in the source, [2] in the net",
                             "2.weight: [10, 4] in the source, [2, 4] in the net"]
    assert torch.equal(new[0].weight, old[0].weight)
    assert torch.equal(new[2].weight, before[2].weight)


def test_names_are_changed_by_their_longest_prefix_or_by_a_function():
    inner = net(seed=1)
    outer = nn.ModuleDict({"body": net(), "head": nn.Linear(1, 1)})
    report = load_weights(outer, inner.state_dict(), strict=False, rename={"": "body.", "2.": "body.2."})
    assert same(outer["body"], inner)
    assert report.missing == ["head.bias", "head.weight"]
    other = net()
    report = load_weights(other, {f"old.{name}": value for name, value in inner.state_dict().items()}, strict=False,
                          rename=lambda name: None if "2." in name else name.removeprefix("old."))
    assert report.missing == ["2.bias", "2.weight"]
    assert report.unexpected == []
    with pytest.raises(ValueError, match="rename: received two weights that come to the name '0.weight'"):
        load_weights(other, inner.state_dict(), rename=lambda name: "0.weight")


def test_wrappers_are_seen_through_on_both_sides():
    old, new = net(seed=1), net()
    compiled = {f"_orig_mod.{name}": value for name, value in old.state_dict().items()}
    load_weights(nn.DataParallel(new), compiled)
    assert same(old, new)


def test_weights_of_which_none_matches_are_refused_even_when_a_part_would_do():
    with pytest.raises(ValueError, match="0 of 9 weights loaded"):
        load_weights(net(), {"x": torch.zeros(1)}, strict=False)
    with pytest.raises(TypeError, match="source: received a int"):
        load_weights(net(), 3)


def test_a_model_loads_a_part_of_a_file_and_reports(tmp_path):
    save_weights(net(10, seed=1), tmp_path / "old.pt")
    model = KerasModel(net(), "mse")
    assert model.load_ckpt(tmp_path / "old.pt", strict=False).loaded[0] == "0.bias"
    with pytest.raises(ValueError, match="weights of another net"):
        model.load_ckpt(tmp_path / "old.pt")


def trained(seed=0):
    first, second = net(seed=seed), net(seed=seed + 1)
    optimizer = torch.optim.Adam([{"params": first.parameters()}, {"params": second.parameters(), "lr": 0.1}])
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    torch.manual_seed(seed)
    for _ in range(3):
        (first(torch.randn(5, 3)).sum() + second(torch.randn(5, 3)).square().sum()).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    return {"generator": first, "discriminator": second, "optimizer": optimizer, "schedule": schedule}


def test_several_nets_and_optimizers_come_back_from_one_file(tmp_path):
    kept, fresh = trained(), trained(7)
    more = {"epoch": 3, "names": ("a", "b"), "scores": torch.arange(3.0), "none": None}
    save_checkpoint(tmp_path / "all.safetensors", **kept, **more)
    assert repr(kept["optimizer"].state_dict()) != repr(fresh["optimizer"].state_dict())
    found = load_checkpoint(tmp_path / "all.safetensors", **fresh)
    assert torch.equal(found.pop("scores"), more.pop("scores"))
    assert found == more
    assert same(kept["generator"], fresh["generator"])
    assert same(kept["discriminator"], fresh["discriminator"])
    assert repr(kept["optimizer"].state_dict()) == repr(fresh["optimizer"].state_dict())
    assert kept["schedule"].state_dict() == fresh["schedule"].state_dict()
    assert load_checkpoint(tmp_path / "all.safetensors")["epoch"] == 3


def test_a_part_that_does_not_fit_leaves_all_as_it_was(tmp_path):
    kept, fresh = trained(), trained(7)
    save_checkpoint(tmp_path / "all", **kept)
    before = repr([one.state_dict() for one in fresh.values()])
    for wrong, expected in (({"discriminator": net(5)}, "discriminator: received a net that differs in 2.weight"),
                            ({"optimizer": torch.optim.SGD(net().parameters())}, "optimizer: received SGD"),
                            ({"optimizer": torch.optim.Adam(net().parameters())}, "optimizer: received groups of"),
                            ({"critic": net()}, "critic: received a name that nothing was kept by")):
        with pytest.raises(ValueError, match=expected):
            load_checkpoint(tmp_path / "all", **{**fresh, **wrong})
    assert repr([one.state_dict() for one in fresh.values()]) == before


def test_what_cannot_be_saved_is_refused_by_name_and_leaves_no_file(tmp_path):
    with pytest.raises(TypeError, match=r"more\.thing: received a object; expected what can be saved"):
        save_checkpoint(tmp_path / "all", net=net(), more={"thing": object()})
    with pytest.raises(ValueError, match="parts: received nothing"):
        save_checkpoint(tmp_path / "all")
    assert list(tmp_path.iterdir()) == []


def test_damaged_and_malicious_files_are_refused(tmp_path):
    path = tmp_path / "all"
    save_checkpoint(path, net=net(), epoch=1)
    content, dice = path.read_bytes(), random.Random(0)
    for _ in range(200):
        other, place = bytearray(content), dice.randrange(len(content))
        other[place] ^= 1 << dice.randrange(8)
        path.write_bytes(other)
        try:
            found = load_checkpoint(path)
        except CheckpointCorruptError:
            continue
        assert found == {"epoch": 1}, place  # a space in the header that became another
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointCorruptError):
            load_checkpoint(path)
    for attack in payloads(tmp_path).values():
        path.write_bytes(attack)
        with pytest.raises(CheckpointCorruptError):
            load_checkpoint(path)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["all"]
    with pytest.raises(FileNotFoundError, match="The folder holds: all"):
        load_checkpoint(tmp_path / "nothing")
