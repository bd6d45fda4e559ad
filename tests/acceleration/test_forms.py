"""The form of an optimizer: quicker, the same bits, and afterwards as it was."""

import copy

import pytest
import torch
from torch import nn, optim

from torchkeras import KerasModel
from torchkeras.acceleration import optimizer_impl

X = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (60,), generator=torch.Generator().manual_seed(1))
VARIANTS = [
    (optim.Adam, {}), (optim.Adam, {"weight_decay": 0.1, "amsgrad": True}), (optim.Adam, {"maximize": True}),
    (optim.AdamW, {}), (optim.AdamW, {"amsgrad": True, "betas": (0.8, 0.99)}), (optim.RMSprop, {}),
    (optim.RMSprop, {"centered": True, "momentum": 0.9, "weight_decay": 0.1}), (optim.Adadelta, {"weight_decay": 0.1}),
    (optim.Adamax, {"weight_decay": 0.1})]


def net_of():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 17), nn.ReLU(), nn.BatchNorm1d(17), nn.Linear(17, 3))


class Forms:
    """What the optimizer's groups say while it trains."""

    def __init__(self):
        self.seen = []

    def on_step_end(self, model):
        self.seen.append([{name: group.get(name) for name in ("foreach", "fused")}
                          for group in model.optimizer.param_groups])


def trained(optimizer, **options):
    seen = Forms()
    torch.manual_seed(4)
    net = options.pop("net")
    KerasModel(net, "cross_entropy", optimizer=optimizer).fit(
        (X, Y), batch_size=7, epochs=3, ckpt_path=None, quiet=True, callbacks=[seen], **options)
    return [weight.detach().clone() for weight in net.parameters()], seen.seen


@pytest.mark.parametrize(("make", "options"), VARIANTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_form_of_exact_mode_gives_the_same_bits(make, options, dtype, monkeypatch):
    monkeypatch.setattr("tests.acceleration.test_forms.X", X.to(dtype))
    nets = [net_of().to(dtype) for _ in range(3)]
    optimizers = [make(net.parameters(), **options) for net in nets]
    quick, seen = trained(optimizers[0], net=nets[0])
    assert all(group["foreach"] for groups in seen for group in groups)
    assert optimizers[0].param_groups[0]["foreach"] is None
    monkeypatch.setattr(optimizer_impl, "FEW", 0)
    plain, seen = trained(optimizers[1], net=nets[1])
    assert not any(group["foreach"] for groups in seen for group in groups)
    assert all(map(torch.equal, quick, plain))
    optimizers[2].param_groups[0]["lr"] *= 1.0001  # control
    assert not all(map(torch.equal, quick, trained(optimizers[2], net=nets[2])[0]))


def kept(optimizer, net, **options):
    before = copy.deepcopy([{name: value for name, value in group.items() if name != "params"}
                            for group in optimizer.param_groups])
    _, seen = trained(optimizer, net=net, **options)
    after = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    assert after == before
    return seen[0]


@pytest.mark.parametrize(("make", "form"), [
    (lambda weights: optim.Adam(weights, foreach=False, fused=True), {"foreach": False, "fused": True}),
    (lambda weights: optim.Adam(weights, foreach=False), {"foreach": False, "fused": None}),
    (lambda weights: optim.Adam(weights, lr=torch.tensor(0.01)), {"foreach": None, "fused": None}),
    (lambda weights: optim.NAdam(weights), {"foreach": None, "fused": None}),
    (lambda weights: optim.SGD(weights, lr=0.1), {"foreach": None, "fused": None})])
def test_what_its_owner_chose_and_what_would_not_be_exact_is_left_alone(make, form):
    net = net_of()
    assert kept(make(net.parameters()), net) == [form]


@pytest.mark.parametrize(("make", "form"), [
    (optim.Adam, {"foreach": False, "fused": True}), (optim.SGD, {"foreach": False, "fused": True}),
    (optim.RMSprop, {"foreach": True, "fused": None}), (optim.NAdam, {"foreach": None, "fused": None})])
def test_fast_mode_takes_the_fused_form_where_there_is_one(make, form):
    net = net_of()
    found = kept(make(net.parameters(), lr=0.01), net, speed="fast")
    assert found == [form]


def test_groups_of_their_own_keep_their_own_settings():
    net = net_of()
    optimizer = optim.Adam([{"params": net[0].parameters()}, {"params": [*net[2].parameters(), *net[3].parameters()],
                                                              "lr": 0.1, "weight_decay": 0.2}])
    assert kept(optimizer, net) == [{"foreach": True, "fused": None}] * 2


def test_an_error_in_the_run_leaves_the_optimizer_as_it_was():
    net = net_of()
    optimizer = optim.Adam(net.parameters())

    class Failing:
        def on_step_end(self, model):
            raise ArithmeticError

    with pytest.raises(ArithmeticError):
        KerasModel(net, "cross_entropy", optimizer=optimizer).fit((X, Y), ckpt_path=None, quiet=True,
                                                                  callbacks=[Failing()])
    assert optimizer.param_groups[0]["foreach"] is None


@pytest.mark.parametrize("speed", ["exact", "fast"])
def test_a_callback_may_add_a_group_in_mid_run(speed):
    net = net_of()
    optimizer = optim.Adam([*net[2].parameters(), *net[3].parameters()])

    class Thaw:
        def on_epoch_start(self, model):
            if model.run.epoch == 2:
                model.optimizer.add_param_group({"params": list(net[0].parameters())})

    before = net[0].weight.detach().clone()
    KerasModel(net, "cross_entropy", optimizer=optimizer).fit((X, Y), epochs=3, ckpt_path=None, quiet=True, speed=speed,
                                                              callbacks=[Thaw()])
    assert [group["foreach"] for group in optimizer.param_groups] == [None, None]
    assert not torch.equal(net[0].weight, before)
