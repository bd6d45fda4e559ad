"""Gradients are cleared as torch's ``zero_grad`` does; an optimizer's own way is respected."""

import pytest
import torch
from torch import nn

from torchkeras import KerasModel
from torchkeras.core.optimizers import ZERO_GRAD, clear_gradients


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
