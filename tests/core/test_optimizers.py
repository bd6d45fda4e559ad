"""Gradients are cleared as torch's ``zero_grad`` does; an optimizer's own way is respected."""

import functools

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from tests.faults.runs import StopAt
from torch import nn

from torchkeras import KerasModel
from torchkeras.core import optimizers
from torchkeras.core.optimizers import (
    REPLACED,
    ZERO_GRAD,
    clear_gradients,
    is_torchs,
    needs_closure,
)


def net_with_gradients():
    net = nn.Linear(2, 1)
    net(torch.ones(3, 2)).sum().backward()
    return net


def gradients(net):
    return [weight.grad for weight in net.parameters()]


def test_gradients_become_none_as_by_torch():
    ours, torchs = net_with_gradients(), net_with_gradients()
    clear_gradients(torch.optim.SGD(ours.parameters()))
    torch.optim.SGD(torchs.parameters()).zero_grad()
    assert gradients(ours) == gradients(torchs) == [None, None]


def test_what_the_optimizer_does_not_move_keeps_its_gradient():
    net = net_with_gradients()
    clear_gradients(torch.optim.SGD([net.bias]))
    assert net.bias.grad is None
    assert net.weight.grad is not None


class Filled(torch.optim.SGD):
    """Keeps gradients of zero."""

    def zero_grad(self, set_to_none=True):
        super().zero_grad(set_to_none=False)


def replaced(net):
    """Return an optimizer whose object has another zero_grad."""
    optimizer = torch.optim.SGD(net.parameters())
    optimizer.zero_grad = lambda: ZERO_GRAD(optimizer, set_to_none=False)
    return optimizer


@pytest.mark.parametrize("make", [lambda net: Filled(net.parameters()), replaced], ids=["class", "object"])
def test_a_zero_grad_of_its_own_is_called(make):
    net = net_with_gradients()
    clear_gradients(make(net))
    assert [float(one.abs().sum()) for one in gradients(net)] == [0, 0]


def test_a_zero_grad_that_a_tool_put_into_torchs_class_is_called(monkeypatch):
    calls = []

    def counted(self, set_to_none=True):
        calls.append(self)
        ZERO_GRAD(self, set_to_none)

    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", counted)
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters())
    x = torch.ones(6, 2)
    KerasModel(net, "mse", optimizer=optimizer).fit((x, x[:, :1]), epochs=1, batch_size=2, ckpt_path=None, quiet=True)
    assert len([one for one in calls if one is optimizer]) == 4  # before the first step, and after each of three


def test_a_zero_grad_that_a_tool_put_there_before_the_first_import_is_called(monkeypatch):
    def counted(self, set_to_none=True):
        ZERO_GRAD(self, set_to_none)
        calls.append(self)

    calls = []
    monkeypatch.setattr(torch.optim.Optimizer, "zero_grad", counted)
    monkeypatch.setattr(optimizers, "ZERO_GRAD", counted)
    monkeypatch.setattr(optimizers, "REPLACED", not is_torchs(functools.wraps(ZERO_GRAD)(counted)))
    net = net_with_gradients()
    clear_gradients(torch.optim.SGD(net.parameters()))
    assert gradients(net) == [None, None]
    assert len(calls) == 1
    assert not REPLACED  # torch's own is not


class PassesAllOn:
    """Wraps an optimizer, and has nothing of its own."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def __getattr__(self, name):
        if name == "optimizer":
            raise AttributeError(name)
        return getattr(self.optimizer, name)


class StepsByItself(PassesAllOn):
    """Wraps an optimizer, and asks for a closure where that one needs none."""

    def step(self, closure):
        return self.optimizer.step(closure)


def trained(wrap, **options):
    torch.manual_seed(0)
    net, x = nn.Linear(3, 1), torch.arange(24.0).reshape(8, 3) / 24
    optimizer = wrap(torch.optim.SGD(net.parameters(), lr=0.1))
    KerasModel(net, "mse", optimizer=optimizer).fit((x, x[:, :1]), epochs=2, batch_size=4, ckpt_path=None, quiet=True,
                                                    seed=1, cpu=True, **options)
    return net.weight


@pytest.mark.parametrize("wrap", [PassesAllOn, StepsByItself])
@pytest.mark.parametrize("options", [{}, {"clip_grad_norm": 0.1}], ids=str)
def test_an_optimizer_that_wraps_another_trains_as_that_one_does(wrap, options):
    assert torch.equal(trained(wrap, **options), trained(lambda bare: bare, **options))
    assert not torch.equal(trained(lambda bare: bare), trained(lambda bare: bare, clip_grad_norm=0.1))


@pytest.mark.parametrize(("make", "needs"), [
    (lambda weights: torch.optim.SGD(weights), False),
    (lambda weights: torch.optim.LBFGS(weights), True),
    (lambda weights: AcceleratedOptimizer(torch.optim.SGD(weights)), False),
    (lambda weights: AcceleratedOptimizer(torch.optim.LBFGS(weights)), True),
    (lambda weights: PassesAllOn(torch.optim.SGD(weights)), False),
    (lambda weights: PassesAllOn(torch.optim.LBFGS(weights)), True),
    (lambda weights: StepsByItself(torch.optim.SGD(weights)), True)])
def test_whether_a_closure_is_needed_is_read_from_the_step_that_is_called(make, needs):
    assert needs_closure(make([nn.Parameter(torch.ones(1))])) == needs


@pytest.mark.parametrize("wrap", [PassesAllOn, StepsByItself])
def test_a_stopped_run_of_an_optimizer_that_wraps_another_goes_on_exactly(wrap, tmp_path):
    def fit(path, callbacks=(), momentum=0.9):
        torch.manual_seed(0)
        net, x = nn.Linear(3, 1), torch.arange(24.0).reshape(8, 3) / 24
        optimizer = wrap(torch.optim.SGD(net.parameters(), lr=0.1, momentum=momentum))
        KerasModel(net, "mse", optimizer=optimizer).fit((x, x[:, :1]), epochs=3, batch_size=2, quiet=True, cpu=True, seed=1,
                                                        resume=True, ckpt_path=tmp_path / path, callbacks=list(callbacks))
        return net.weight

    whole = fit("whole")
    assert not torch.equal(fit("stopped", [StopAt(6)]), whole)
    assert torch.equal(fit("stopped"), whole)
    assert not torch.equal(fit("other", momentum=0.0), whole)


def test_a_schedule_of_the_optimizer_within_changes_nothing_of_that():
    bare = torch.optim.SGD([nn.Parameter(torch.ones(1))])
    torch.optim.lr_scheduler.StepLR(bare, 1)
    assert "step" in vars(bare)
    assert not needs_closure(PassesAllOn(bare))
