"""Weights in part and under other names; several nets and optimizers in one file."""

import hashlib
import json
import random

import pytest
import torch
from safetensors import safe_open
from tests.faults.damage import payloads
from torch import nn

from torchkeras import (
    CheckpointCorruptError,
    KerasModel,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from torchkeras.checkpoint.best_file import DEFAULT_LIMITS, merge_learning
from torchkeras.checkpoint.weights_path import save_weights
from torchkeras.training import saving


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
    assert report.mismatched == ["2.bias: [10] in the source, [2] in the net",
                                 "2.weight: [10, 4] in the source, [2, 4] in the net"]
    assert "\n  mismatched: 2.bias: [10] in the source" in str(report)
    assert torch.equal(new[0].weight, old[0].weight)
    assert torch.equal(new[2].weight, before[2].weight)


def test_a_report_answers_to_the_older_name_of_mismatched_weights_too():
    report = load_weights(net(), net(10).state_dict(), strict=False)
    assert report.unlike == report.mismatched
    assert len(report.unlike) == 2
    assert load_weights(net(), net().state_dict()).unlike == []


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


class Refuses:
    """An object that changes itself, and then takes no state but one of its own."""

    def __init__(self, refuses=True):
        self.refuses, self.number, self.inner = refuses, 0, [0]

    def state_dict(self):
        return {"number": self.number, "inner": self.inner}

    def load_state_dict(self, state):
        self.number = state["number"]
        self.inner[:] = state["inner"]
        if self.refuses and self.number:
            raise RuntimeError("mine")


class Copies(torch.optim.SGD):
    """An optimizer whose loading writes into what is there."""

    def load_state_dict(self, state):
        for own, group in zip(self.param_groups, state["param_groups"], strict=True):
            own["lr"] = group["lr"]


def told(parts):
    return repr([one.state_dict() for one in parts.values()])


def test_a_part_that_refuses_its_state_leaves_all_others_as_they_were(tmp_path):
    kept, fresh = trained(), trained(7)
    kept["copies"] = Copies(kept["generator"].parameters(), lr=0.5)
    fresh["copies"] = Copies(fresh["generator"].parameters(), lr=0.1)
    kept["zlast"], fresh["zlast"] = Refuses(), Refuses()
    kept["zlast"].number, kept["zlast"].inner = 3, [3]
    save_checkpoint(tmp_path / "all", **kept)
    before, groups = told(fresh), fresh["optimizer"].param_groups
    with pytest.raises(CheckpointCorruptError, match=r"kept as 'zlast' does not go into this Refuses \(Runt"):
        load_checkpoint(tmp_path / "all", **fresh)
    assert told(fresh) == before
    assert fresh["optimizer"].param_groups is groups
    fresh["zlast"].refuses = False
    load_checkpoint(tmp_path / "all", **fresh)
    assert told(fresh) == told(kept)


@pytest.mark.parametrize(("name", "given"), [
    ("generator", "optimizer"), ("generator", "schedule"), ("optimizer", "generator"), ("optimizer", "schedule"),
    ("schedule", "generator"), ("schedule", "optimizer"), ("schedule", "other"), ("generator", "number"),
    ("schedule", "number")])
@pytest.mark.parametrize("older", [False, True])
def test_a_part_of_another_kind_is_refused_and_nothing_changes(name, given, older, tmp_path, monkeypatch):
    if older:
        monkeypatch.setattr(saving, "saved_kind", saving.part_kind)
    save_checkpoint(tmp_path / "all", **trained())
    monkeypatch.undo()
    fresh = trained(7)
    other = torch.optim.lr_scheduler.OneCycleLR(fresh["optimizer"], 1.0, 10)
    before = told({**fresh, "other": other})
    part = {**fresh, "other": other, "number": 3}[given]
    with pytest.raises(ValueError, match=f"^{name}: received a "):
        load_checkpoint(tmp_path / "all", **{**fresh, name: part})
    assert told({**fresh, "other": other}) == before
    load_checkpoint(tmp_path / "all", **fresh)
    assert told(fresh) != before


def forged(path, change):
    """Change the JSON of a file, as somebody can who knows how its checksum is made."""
    with safe_open(path, "pt") as file:
        about, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.offset_keys()}
    text = change(about["parts"])
    about = {"format": saving.FORMAT, "parts": text, "sha256": saving.checksum(text, tensors)}
    path.write_bytes(b"".join(bytes(one) for one in saving.safetensors_chunks(tensors, about)))


def places(node, path=()):
    """The way to each value in JSON."""
    yield path
    for key, one in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(one, (*path, key))


def replaced(node, path, value):
    if not path:
        return value
    copied = node.copy()
    copied[path[0]] = replaced(node[path[0]], path[1:], value)
    return copied


@pytest.mark.parametrize("value", [None, "x", [], {"dict": [["optimizer", 1]]}], ids=str)
def test_another_value_in_any_place_is_a_typed_error_that_changes_nothing(value, tmp_path):
    def parts(seed):
        torch.manual_seed(seed)
        one = nn.Linear(2, 1)
        optimizer = torch.optim.Adam(one.parameters())
        one(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        return {"net": one, "optimizer": optimizer, "schedule": torch.optim.lr_scheduler.StepLR(optimizer, 2)}

    path, fresh, refused = tmp_path / "all", parts(1), 0
    save_checkpoint(path, **parts(0), epoch=3)
    whole, before = path.read_bytes(), told(fresh)
    found = []
    forged(path, lambda text: found.append(json.loads(text)) or text)
    for place in places(found[0]):
        path.write_bytes(whole)
        forged(path, lambda text, place=place: json.dumps(replaced(found[0], place, value)))
        error = error_of(path, fresh)
        if error is None:  # another number, or a name of something that need not be there
            fresh, before = parts(1), told(parts(1))
            continue
        assert isinstance(error, CheckpointCorruptError) or vars(error).get("user_mistake"), (place, error)
        assert told(fresh) == before, place
        refused += 1
    assert refused > 60


def error_of(path, parts):
    try:
        load_checkpoint(path, **parts)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("node", [
    '{"dict": [[{"dict": []}, 1]]}', '{"counter": [[{"counter": []}, "y"]]}', '{"deque": [99999999999999999999999, 1]}',
    '{"dict": [[' + '{"tuple": [' * 300 + "1" + "]}" * 300 + ", 1]]}", '{"deque": [-1]}', '{"tensor": ["a"]}',
    '{"dict": [[[1], 1]]}', '{"dict": {"a": 1}}', "9" * 5000], ids=range(9))
@pytest.mark.parametrize("kind", ["value", "state", "state StepLR", "module", 3, None, "code"])
def test_values_that_nobody_packed_are_refused_as_damage(node, kind, tmp_path):
    save_checkpoint(tmp_path / "all", epoch=3)
    forged(tmp_path / "all", lambda text: f'{{"a": [{json.dumps(kind)}, {node}]}}')
    with pytest.raises(CheckpointCorruptError):
        load_checkpoint(tmp_path / "all")


@pytest.mark.parametrize("change", [{"optimizer": None}, {"step": 3}, {"get_lr": None}, {"_get_closed_form_lr": 1},
                                    {"gamma": "x"}, {"base_lrs": 3}])
def test_a_state_replaces_no_method_and_no_optimizer_of_a_schedule(change, tmp_path):
    kept, fresh = trained(), trained(7)
    make = torch.optim.lr_scheduler.SequentialLR
    kept["schedule"], fresh["schedule"] = (make(one["optimizer"], [one["schedule"], torch.optim.lr_scheduler.StepLR(
        one["optimizer"], 3)], [5]) for one in (kept, fresh))
    save_checkpoint(tmp_path / "all", **kept)
    load_checkpoint(tmp_path / "all", **fresh)
    state = kept["schedule"].state_dict()
    state["_schedulers"][1] |= change
    kept["schedule"].state_dict = lambda: state
    save_checkpoint(tmp_path / "all", **kept)
    before = told(fresh)
    with pytest.raises(ValueError, match=f"^schedule: received a StepLR, which differs in {next(iter(change))}"):
        load_checkpoint(tmp_path / "all", **fresh)
    assert told(fresh) == before


def beside(path, **changes):
    """Write what a killed run leaves beside a weights file, with changes."""
    of = hashlib.sha256(path.read_bytes()).hexdigest()
    torch.save({"format": "torchkeras-learning 1", "of": of, "names": ["weight", "bias"], "versions": {},
                "weights": {"weight": torch.ones(1, 2)}, **changes}, path.with_name(f"{path.name}.learning"))


@pytest.mark.parametrize("changes", [
    {"names": 3}, {"names": [[1]]}, {"names": "weight"}, {"names": ["weight", "bias", "other"]}, {"names": ["bias"]},
    {"names": ["weight", "weight", "bias"]}, {"versions": 3}, {"versions": {"": 3}}, {"versions": {1: {}}},
    {"versions": []}, {"weights": []}, {"weights": {1: torch.ones(1)}}, {"of": 3}, {"of": torch.ones(2)},
    {"format": torch.ones(2)}, {"format": "another"}], ids=str)
def test_what_lies_beside_weights_in_another_form_is_refused(changes, tmp_path):
    save_weights(nn.Linear(2, 1), tmp_path / "a.pt")
    beside(tmp_path / "a.pt", **changes)
    one = nn.Linear(2, 1)
    before = repr(one.state_dict())
    with pytest.raises(ValueError, match=r"a\.pt\.learning', which cannot be read"):
        load_weights(one, tmp_path / "a.pt")
    assert repr(one.state_dict()) == before


def test_control_what_a_killed_run_left_beside_is_read_and_a_link_is_left_aside(tmp_path):
    one, learning = nn.Linear(2, 1), tmp_path / "a.pt.learning"
    save_weights(nn.Linear(2, 1), tmp_path / "a.pt")
    beside(tmp_path / "a.pt")
    assert "with the trainable weights" in str(load_weights(one, tmp_path / "a.pt"))
    assert torch.equal(one.weight, torch.ones(1, 2))
    learning.rename(tmp_path / "elsewhere")
    for target in ("elsewhere", "/etc/passwd", "/dev/zero", "nowhere"):
        learning.symlink_to(target)
        assert "it is a link, which no run writes" in str(load_weights(one, tmp_path / "a.pt"))
        assert not torch.equal(one.weight, torch.ones(1, 2))
        assert merge_learning(tmp_path / "a.pt", DEFAULT_LIMITS) in (
            "", "a.pt.learning is left aside: it is a link, which no run writes")
        assert learning.is_symlink()
        learning.unlink()


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.parametrize("make", [torch.Tensor.to_sparse, torch.Tensor.to_sparse_csr])
def test_a_sparse_weight_is_not_put_where_the_net_has_a_dense_one(make, tmp_path):
    net = nn.Linear(2, 1)
    torch.save({**net.state_dict(), "weight": make(torch.ones(1, 2))}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"weight: \[1, 2\] \(sparse_\w+\) in the source, \[1, 2\] in the net"):
        load_weights(net, tmp_path / "x.pt")
