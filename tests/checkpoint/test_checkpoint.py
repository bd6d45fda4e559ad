"""Weights go to a file whole or not at all, and come back all or nothing."""

import collections
import json
import os

import pytest
import torch
from torch import nn

from torchkeras import KerasModel
from torchkeras.checkpoint import weights_path


def net(width=4):
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Linear(width, 1))


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", ["best.pt", "checkpoint", "best.safetensors", "new/folder/best.pt"])
def test_weights_come_back_from_either_format(name, tmp_path):
    saved, other = net(), net()
    assert not same(saved, other)
    KerasModel(saved, "mse").save_ckpt(tmp_path / name)
    KerasModel(other, "mse").load_ckpt(tmp_path / name)
    assert same(saved, other)


def test_plain_torch_reads_the_weights_file(tmp_path):
    saved, other = net(), net()
    KerasModel(saved, "mse").save_ckpt(tmp_path / "best.pt")
    other.load_state_dict(torch.load(tmp_path / "best.pt"))
    assert same(saved, other)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_tied_weights_are_saved_once_and_come_back_tied(suffix, tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.out = nn.Embedding(7, 3), nn.Linear(3, 7, bias=False)
            self.out.weight = self.embed.weight

    saved, other = Tied(), Tied()
    KerasModel(saved, "mse").save_ckpt(tmp_path / f"best.{suffix}")
    KerasModel(other, "mse").load_ckpt(tmp_path / f"best.{suffix}")
    assert torch.equal(saved.out.weight, other.out.weight)
    assert other.out.weight is other.embed.weight


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda module: torch.compile(module, backend="eager")])
def test_wrapped_nets_are_saved_without_prefixes_and_loaded_with_or_without_them(wrap, tmp_path):
    saved, bare, path = net(), net(), tmp_path / "best.pt"
    KerasModel(wrap(saved), "mse").save_ckpt(path)
    assert list(torch.load(path)) == list(saved.state_dict())
    KerasModel(bare, "mse").load_ckpt(path)
    assert same(saved, bare)
    inner = net()
    KerasModel(wrap(inner), "mse").load_ckpt(path)
    assert same(saved, inner)
    torch.save(wrap(saved).state_dict(), path)  # as users save them: with the prefix
    again = net()
    KerasModel(again, "mse").load_ckpt(path)
    assert same(saved, again)


def test_a_write_that_fails_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "best.pt"
    first = net()
    weights_path.save_weights(first, path)
    before = path.read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        weights_path.save_weights(net(), path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["best.pt"]
    monkeypatch.undo()
    weights_path.save_weights(net(), path)
    assert path.read_bytes() != before  # control: a write that works does change it


def test_weights_of_another_net_are_refused_with_names_and_shapes_and_nothing_changes(tmp_path):
    path, other = tmp_path / "best.pt", net(5)
    weights_path.save_weights(net(4), path)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(ValueError, match=r"(?s)ckpt_path: .*0\.bias: \[4\] in the source, \[5\] in the net"):
        KerasModel(other, "mse").load_ckpt(path)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_a_missing_file_is_named_with_what_is_beside_it(tmp_path):
    (tmp_path / "last.pt").touch()
    with pytest.raises(FileNotFoundError, match=r"ckpt_path: .*best\.pt.*The folder holds: last\.pt"):
        KerasModel(net(), "mse").load_ckpt(tmp_path / "best.pt")


def test_a_file_that_is_no_state_dict_is_refused(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="ckpt_path: received .*list.pt', a file that holds a list; expected"):
        KerasModel(net(), "mse").load_ckpt(tmp_path / "list.pt")


def test_loading_runs_no_code(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"0.weight": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(ValueError, match=r"evil.pt', which cannot be read \(UnpicklingError: names posix.mkdir"):
        KerasModel(net(), "mse").load_ckpt(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "evil.pt", weights_only=False)
    assert (tmp_path / "ran").exists()  # control: the payload works


def test_two_models_with_one_path_never_load_each_others_weights(tmp_path):
    x = torch.randn(20, 3)
    one, other = net(), net()
    models = [KerasModel(each, "mse") for each in (one, other)]

    class Meanwhile:
        def on_validation_epoch_end(self, model):
            models[1].save_ckpt(tmp_path / "best.pt")

    models[0].fit((x, x[:, :1]), epochs=1, ckpt_path=tmp_path / "best.pt", quiet=True, callbacks=[Meanwhile()])
    assert not same(one, other)
    assert torch.equal(torch.load(tmp_path / "best.pt")["0.weight"], other[0].weight)  # the file is the other's


def test_the_best_weights_are_on_disk_while_the_run_goes_on(tmp_path):
    seen = []

    class Look:
        def on_validation_epoch_end(self, model):
            assert model.run.monitor.improved
            weights = torch.load(tmp_path / "best.pt")
            seen.append(torch.equal(weights["0.weight"], model.net[0].weight))

    x = torch.randn(50, 3)
    model = KerasModel(net(), "mse", optimizer="sgd")
    model.fit((x, x[:, :1]), epochs=1, ckpt_path=tmp_path / "best.pt", quiet=True, callbacks=[Look()])
    assert seen == [True]
    assert model.ckpt_path == str(tmp_path / "best.pt")


def test_without_a_path_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = torch.randn(20, 3)
    KerasModel(net(), "mse").fit((x, x[:, :1]), epochs=1, ckpt_path=None, quiet=True)
    assert os.listdir(tmp_path) == []
    KerasModel(net(), "mse").fit((x, x[:, :1]), epochs=1, quiet=True)
    assert os.listdir(tmp_path) == ["checkpoint"]  # the default that users know


HONEST = {
    "bfloat16": lambda: torch.ones(3, 2).bfloat16(), "uint16": lambda: torch.arange(3).to(torch.uint16),
    "float8": lambda: torch.ones(3).to(torch.float8_e4m3fn), "conjugate": lambda: (torch.ones(2) * 1j).conj(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8),
    "channels": lambda: torch.quantize_per_channel(torch.ones(2, 3), torch.ones(2), torch.zeros(2), 0, torch.qint8),
    "sparse": lambda: torch.eye(3).to_sparse(), "rows": lambda: torch.eye(3).to_sparse_csr(),
    "expanded": lambda: torch.ones(1).expand(300), "empty": lambda: torch.ones(0, 3),
    "parameter": lambda: nn.Parameter(torch.ones(2)), "transposed": lambda: torch.ones(2, 3).T,
    "dict": lambda: {"a": [1, (2, None)], 3: {"b": 2.5}}, "bytes": lambda: b"abc", "set": lambda: {1, "a", (2, 3)},
    "bytearray": lambda: bytearray(b"abc"), "counter": lambda: collections.Counter("aab"),
    "ordered": lambda: collections.OrderedDict(a=1), "size": lambda: torch.Size([2, 3]), "dtype": lambda: torch.float32,
    "layout": lambda: torch.sparse_coo, "device": lambda: torch.device("cpu"), "number": lambda: 10**30,
    "imaginary": lambda: 2j,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("kind", "older"), [(kind, older) for kind in HONEST for older in (False, True)
                                             if not older or kind not in ("uint16", "float8")])  # torch reads none
def test_whatever_torch_writes_of_a_state_is_read_as_torch_reads_it(kind, older, tmp_path):
    path, value = tmp_path / "x.pt", HONEST[kind]()
    state = collections.OrderedDict(x=value, tied=value)
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    torch.save(state, path, _use_new_zipfile_serialization=not older)
    found = weights_path.read_weights(path)
    plain = torch.load(path, weights_only=True)
    assert repr(found) == repr(plain)
    assert type(found["x"]) is type(plain["x"])
    assert found._metadata == plain._metadata


def test_what_a_user_calls_safe_is_read(tmp_path):
    torch.save({"x": Mine()}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"UnpicklingError: names .*Mine, which is no part of weights"):
        weights_path.read_weights(tmp_path / "x.pt")
    with torch.serialization.safe_globals([Mine]):
        assert type(weights_path.read_weights(tmp_path / "x.pt")["x"]) is Mine


class Mine:
    pass


def test_tied_weights_that_are_most_of_a_large_file_are_no_claim(tmp_path):
    weight = torch.zeros(60_000_000)
    torch.save({"embed": weight, "out": weight}, tmp_path / "x.pt")
    assert weights_path.read_weights(tmp_path / "x.pt", mapped=True)["out"].shape == weight.shape


@pytest.mark.parametrize("versions", [[], 3, "x", {"": 3}, {"": []}, {"": {"version": []}}, {"": {"version": {}}}])
def test_versions_of_modules_that_are_none_are_refused(versions, tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.ones(1)}, tmp_path / "x.safetensors", {"torchkeras.versions": json.dumps(versions)})
    with pytest.raises(ValueError, match="whose versions of modules are malformed"):
        weights_path.read_weights(tmp_path / "x.safetensors")
