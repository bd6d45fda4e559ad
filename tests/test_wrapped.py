"""Nets that come wrapped, in DataParallel, DistributedDataParallel or by torch.compile, train as they are."""

import os
import socket

import pytest
import torch
from torch import nn

from torchkeras import KerasModel, devices, load_weights

NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.fixture
def group(monkeypatch):
    """A job of this process alone, which DistributedDataParallel needs; without the variables of a launcher."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def compiled(net):
    return torch.compile(net, backend="eager")


WRAPS = {"DataParallel": nn.DataParallel, "DDP": nn.parallel.DistributedDataParallel, "compile": compiled,
         "twice": lambda net: compiled(nn.DataParallel(net))}


def make_net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1))


def make_data():
    x = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
    return x, x.sum(dim=1, keepdim=True)


def trained(net, path, **settings):
    model = KerasModel(net, "mse", ["mae"], torch.optim.Adam(net.parameters(), lr=0.01))
    history = model.fit(make_data(), make_data(), epochs=3, batch_size=16, seed=0, ckpt_path=path, quiet=True, cpu=True,
                        **settings)
    return model, history.drop(columns="epoch").to_numpy().tolist()


@pytest.mark.parametrize("name", WRAPS)
def test_a_wrapped_net_trains_to_the_same_bits_and_saves_the_names_of_the_net_itself(name, group, tmp_path):
    bare, wrapped = make_net(), make_net()
    plain_model, numbers = trained(bare, tmp_path / "bare.pt")
    model, found = trained(WRAPS[name](wrapped), tmp_path / "wrapped.pt")
    assert found == numbers
    assert trained(make_net(seed=2), None)[1] != numbers  # control: other first weights, other numbers
    saved, reference = torch.load(tmp_path / "wrapped.pt"), torch.load(tmp_path / "bare.pt")
    assert list(saved) == NAMES
    assert all(torch.equal(saved[key], reference[key]) for key in NAMES)
    fresh = make_net(seed=3)
    fresh.load_state_dict(saved)  # plain torch reads it into the net itself
    assert torch.equal(fresh(make_data()[0]), bare(make_data()[0]))
    assert torch.equal(model.predict(make_data()[0]), plain_model.predict(make_data()[0]))
    assert model.evaluate(make_data()) == plain_model.evaluate(make_data())


@pytest.mark.parametrize("name", WRAPS)
def test_weights_with_or_without_a_prefix_go_into_a_wrapped_net(name, group, tmp_path):
    source, target = make_net(), make_net(seed=2)
    KerasModel(source, "mse").save_ckpt(tmp_path / "bare.safetensors")
    assert not torch.equal(source[0].weight, target[0].weight)
    KerasModel(WRAPS[name](target), "mse").load_ckpt(tmp_path / "bare.safetensors")
    assert torch.equal(source[0].weight, target[0].weight)
    prefixed, bare = WRAPS[name](source).state_dict(), make_net(seed=3)
    assert list(prefixed) != NAMES
    assert load_weights(bare, prefixed).loaded == sorted(NAMES)
    assert torch.equal(source[2].weight, bare[2].weight)


class Holder(nn.Module):
    """A net with a part that is called as wrappers call theirs."""

    def __init__(self, seed, more=False):
        super().__init__()
        torch.manual_seed(seed)
        self.module = nn.Linear(3, 1)
        if more:
            self.weight = nn.Parameter(torch.randn(1, 3))

    def forward(self, x):
        return self.module(x)


@pytest.mark.parametrize("more", [False, True])
@pytest.mark.parametrize("name", [*WRAPS, "bare"])
def test_a_part_that_is_called_module_keeps_its_name(name, more, group, tmp_path):
    source, target, other = Holder(0, more), Holder(1, more), Holder(2, more)
    wrapped = WRAPS.get(name, lambda net: net)(source)
    KerasModel(wrapped, "mse").save_ckpt(tmp_path / "best.pt")
    assert list(torch.load(tmp_path / "best.pt")) == list(source.state_dict())
    assert not torch.equal(source.module.weight, target.module.weight)
    KerasModel(target, "mse").load_ckpt(tmp_path / "best.pt")
    load_weights(other, wrapped.state_dict())
    for key, value in source.state_dict().items():
        assert torch.equal(value, target.state_dict()[key])
        assert torch.equal(value, other.state_dict()[key])


@pytest.mark.parametrize("name", [*WRAPS, "bare"])
def test_a_run_of_a_net_with_a_part_called_module_goes_on(name, group, tmp_path):
    def fit(net, epochs):
        model = KerasModel(net, "mse", ["mae"], torch.optim.Adam(net.parameters(), lr=0.01))
        return model.fit(make_data(), epochs=epochs, batch_size=16, seed=0, ckpt_path=tmp_path / "best.pt", quiet=True,
                         cpu=True, resume=True, patience=None).to_numpy().tolist()

    wrap = WRAPS.get(name, lambda net: net)
    first = fit(wrap(Holder(0)), 2)
    whole = fit(wrap(Holder(1)), 3)
    assert whole[:2] == first
    assert whole[2][1] < first[1][1]


@pytest.mark.parametrize("name", ["DataParallel", "DDP"])
def test_a_run_that_began_wrapped_goes_on_bare(name, group, tmp_path):
    net = make_net()
    trained(WRAPS[name](net), tmp_path / "best.pt", resume=True)
    longer = KerasModel(again := make_net(seed=4), "mse", ["mae"], torch.optim.Adam(again.parameters(), lr=0.01))
    history = longer.fit(make_data(), make_data(), epochs=4, batch_size=16, seed=0, ckpt_path=tmp_path / "best.pt",
                         quiet=True, cpu=True, resume=True)
    whole = KerasModel(other := make_net(), "mse", ["mae"], torch.optim.Adam(other.parameters(), lr=0.01))
    unbroken = whole.fit(make_data(), make_data(), epochs=4, batch_size=16, seed=0, ckpt_path=None, quiet=True,
                         cpu=True)
    assert history.to_numpy().tolist() == unbroken.to_numpy().tolist()
    assert all(torch.equal(one, two) for one, two in zip(again.parameters(), other.parameters(), strict=True))


@pytest.mark.skipif(torch.accelerator.device_count() < 2, reason="needs two accelerators")
def test_data_parallel_uses_all_its_devices(tmp_path):
    kind = torch.accelerator.current_accelerator().type
    net = nn.DataParallel(make_net().to(f"{kind}:0"))
    model = KerasModel(net, "mse")
    history = model.fit(make_data(), epochs=2, batch_size=16, ckpt_path=tmp_path / "best.pt", quiet=True)
    assert history["train_loss"].notna().all()
    assert list(torch.load(tmp_path / "best.pt")) == NAMES


def test_devices_tell_kind_name_and_memory():
    found = devices()
    assert len(found) == 1 + torch.accelerator.device_count()
    cpu = found[-1]
    assert cpu.kind == "cpu"
    assert f"{torch.get_num_threads()} threads" in cpu.name
    if hasattr(os, "sysconf"):
        assert cpu.memory_gib == pytest.approx(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3)
    assert str(cpu).startswith("cpu: ")
    for number, device in enumerate(found[:-1]):
        assert device.kind == f"{torch.accelerator.current_accelerator().type}:{number}"
        assert device.name
