"""Penalties on weights: their numbers, how they join losses, and training with them."""

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchkeras import KerasModel
from torchkeras.acceleration import autotuner
from torchkeras.losses import (
    L1L2,
    FocalLoss,
    L1Loss,
    L2Loss,
    LayerPenalty,
    PenalizedLoss,
    regularized,
)
from torchkeras.weighting.denominator import known_denominator


def net_of(*sizes):
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)))


def test_l1_and_l2_are_over_weights_without_biases():
    net = net_of(3, 4, 1)
    weights = torch.cat([net[0].weight.flatten(), net[1].weight.flatten()])
    biases = torch.cat([net[0].bias, net[1].bias])
    assert torch.isclose(L1Loss(net, 0.1)(), 0.1 * weights.abs().sum())
    assert torch.isclose(L2Loss(net, 0.1)(), 0.5 * 0.1 * weights.square().sum())
    assert not torch.isclose(L1Loss(net, 0.1)(), 0.1 * torch.cat([weights, biases]).abs().sum())  # control


@pytest.mark.parametrize("layer", [nn.LSTM(2, 3), nn.MultiheadAttention(4, 2)])
def test_biases_of_every_name_are_left_out(layer):
    weights = [weight for name, weight in layer.named_parameters() if "bias" not in name]
    assert len(weights) < len(list(layer.parameters()))
    assert torch.isclose(L2Loss(layer, 1.0)(), 0.5 * sum(weight.square().sum() for weight in weights))
    named = nn.ModuleDict({"debiased": nn.Linear(2, 2, bias=False)})
    assert L1Loss(named, 1.0)() > 0  # the word in the name of a layer says nothing of its weights


def test_shared_weights_count_once_and_frozen_ones_not_at_all():
    net = net_of(3, 3, 3)
    net[1].weight = net[0].weight
    assert torch.isclose(L1Loss(net, 1.0)(), net[0].weight.abs().sum())
    net[0].weight.requires_grad_(False)
    assert L1Loss(net, 1.0)() == 0
    net[0].weight.requires_grad_(True)
    assert L1Loss(net, 1.0)() > 0  # control: looked at anew


def test_the_gradient_is_that_of_weight_decay():
    net, decayed = net_of(3, 1), net_of(3, 1)
    x, y = torch.randn(8, 3), torch.randn(8, 1)
    for one, loss_fn, decay in ((net, nn.MSELoss() + L2Loss(net, 0.1), 0.0), (decayed, nn.MSELoss(), 0.1)):
        groups = [{"params": [one[0].weight], "weight_decay": decay}, {"params": [one[0].bias]}]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        loss_fn(one(x), y).backward()
        optimizer.step()
    assert torch.allclose(net[0].weight, decayed[0].weight, atol=1e-7)
    assert not torch.allclose(net[0].weight, net_of(3, 1)[0].weight, atol=1e-3)  # control


def test_penalties_add_to_numbers_to_penalties_and_to_losses():
    net = net_of(3, 1)
    l1, l2 = L1Loss(net, 0.1), L2Loss(net, 0.2)
    expected = 2.0 + l1() + l2()
    loss = torch.tensor(2.0)
    for total in (loss + l1 + l2, l1 + loss + l2, loss + (l1 + l2), 2.0 + l1 + l2, sum([loss, l1, l2])):
        assert isinstance(total, torch.Tensor)
        assert torch.isclose(total, expected)
    assert not torch.isclose(loss + l1, expected)  # control
    x, y = torch.randn(4, 3), torch.randn(4, 1)
    expected = F.mse_loss(net(x), y) + l1() + l2()
    for loss_fn in (nn.MSELoss() + l1 + l2, F.mse_loss + l1 + l2, l2 + nn.MSELoss() + l1, (l1 + l2) + nn.MSELoss()):
        assert isinstance(loss_fn, PenalizedLoss)
        assert torch.isclose(loss_fn(net(x), y), expected)
    with pytest.raises(TypeError, match="unsupported operand"):
        l1 + "loss"


def test_a_net_is_no_part_of_its_loss():
    net = net_of(3, 1)
    loss_fn = nn.CrossEntropyLoss(weight=torch.ones(2)) + L2Loss(net, 0.1)
    assert list(loss_fn.parameters()) == []
    assert list(loss_fn.state_dict()) == ["module.weight"]
    assert loss_fn.ignore_index == -100
    assert torch.equal(loss_fn.weight, torch.ones(2))
    nn.ModuleList([loss_fn]).half()
    assert net[0].weight.dtype == torch.float32


def test_net_and_loss_travel_together():
    net = net_of(3, 1)
    for move in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        other, loss_fn = move((net, nn.MSELoss() + L2Loss(net, 0.1)))
        assert loss_fn.penalty.model is other
        assert other is not net


def data():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(64, 3, generator=g)
    return x, (x.sum(1, keepdim=True) > 0).float()


def by_hand(net, x, y, epochs):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(epochs):
        for a, b in zip(x.split(16), y.split(16), strict=True):
            loss = FocalLoss(from_logits=True)(net(a), b) + L1Loss(net, 0.01) + L2Loss(net, 0.01)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net[0].weight


@pytest.mark.parametrize("speed", ["exact", "fast"])
def test_a_fit_with_penalties_is_the_plain_loop(speed, monkeypatch):
    monkeypatch.setattr(autotuner, "COMPILE_TIME", 0.0)
    x, y = data()
    net, epochs = net_of(3, 4, 1), 30
    loss_fn = FocalLoss(from_logits=True) + L1Loss(net, 0.01) + L2Loss(net, 0.01)
    model = KerasModel(net, loss_fn=loss_fn, optimizer=torch.optim.SGD(net.parameters(), lr=0.1))
    model.fit((x, y), epochs=epochs, batch_size=16, shuffle=False, ckpt_path=None, quiet=True, patience=None,
              monitor="train_loss", speed=speed)
    expected = by_hand(net_of(3, 4, 1), x, y, model.run.monitor.best_epoch)
    assert torch.allclose(net[0].weight, expected, atol=1e-6)
    assert not torch.allclose(net[0].weight, net_of(3, 4, 1)[0].weight, atol=1e-3)  # control
    if speed == "fast":  # a graph of the whole step would lose the gradient of the penalties
        assert model.run.notes[-1].startswith("fast: plain steps")


def test_two_processes_add_a_penalty_once():
    x, y = data()

    def weights(processes, alpha=0.1):
        net = net_of(3, 4, 1)
        model = KerasModel(net, nn.BCEWithLogitsLoss() + L2Loss(net, alpha), None, torch.optim.SGD(net.parameters(), 1))
        history = model.fit((x, y), epochs=2, batch_size=15, shuffle=False, ckpt_path=None, quiet=True, cpu=True,
                            num_processes=processes)
        return torch.cat([net[0].weight.flatten(), torch.tensor(history["train_loss"].to_numpy())])

    alone = weights(1)
    assert torch.allclose(weights(2), alone, atol=1e-6)
    assert not torch.allclose(weights(1, alpha=0.2), alone, atol=1e-3)  # control


def test_labels_that_do_not_count_and_class_weights_are_seen_through_a_penalty():
    net = net_of(3, 2)
    loss_fn = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]), ignore_index=7) + L2Loss(net, 0.1)
    labels = torch.tensor([0, 1, 1, 7])
    assert known_denominator(loss_fn).count(labels, 4) == 7.0
    assert known_denominator(nn.CrossEntropyLoss(ignore_index=7) + L2Loss(net, 0.1)).count(labels, 4) == 3
    assert known_denominator(nn.MSELoss() + L2Loss(net, 0.1)).count(labels, 4) == 4  # control


def test_a_penalty_inside_a_function_transform_says_that_it_would_be_lost():
    net = net_of(2, 1)
    loss_fn = nn.MSELoss() + L2Loss(net, 0.1)
    weights = {name: weight.detach() for name, weight in net.named_parameters()}

    def loss_of(weights):
        return loss_fn(torch.func.functional_call(net, weights, (torch.ones(1, 2),)), torch.ones(1, 1))

    with pytest.raises(RuntimeError, match="torch.func differentiates"):
        torch.func.grad(loss_of)(weights)
    assert loss_of(weights).isfinite()


def test_sample_weights_and_class_weights_go_with_penalties():
    x, y = data()
    net = net_of(3, 1)
    model = KerasModel(net, loss_fn=nn.BCEWithLogitsLoss() + L2Loss(net, 0.1), metrics_dict=["accuracy"])
    history = model.fit((x, y, torch.rand(64)), epochs=2, ckpt_path=None, quiet=True)
    assert history["train_loss"].is_monotonic_decreasing
    assert torch.equal(model.predict(x, output="classes"), (net(x) >= 0).long())
    plain = KerasModel(net, loss_fn="bce_with_logits").evaluate((x, y))["val_loss"]
    measured = model.evaluate((x, y))["val_loss"]
    assert measured == pytest.approx(plain + L2Loss(net, 0.1)().item(), abs=1e-5)
    with pytest.raises(TypeError, match="reduction argument"):
        KerasModel(net, loss_fn=(lambda preds, labels: preds.sum()) + L2Loss(net, 0.1)).fit(
            (x, y, torch.rand(64)), epochs=1, ckpt_path=None, quiet=True)


def test_layers_ask_for_their_own_penalties():
    net = nn.Sequential(regularized(nn.Linear(3, 4), L1L2(l1=0.1, l2=0.2), bias_regularizer="l1"), nn.Linear(4, 4),
                        regularized(nn.Linear(4, 1), "l2"))
    first, last = net[0], net[2].weight
    expected = (0.1 * first.weight.abs().sum() + 0.2 * first.weight.square().sum() + 0.01 * first.bias.abs().sum()
                + 0.01 * last.square().sum())
    assert torch.isclose(LayerPenalty(net)(), expected)
    assert torch.isclose(LayerPenalty(copy.deepcopy(net))(), expected)
    net[2].regularizers = {}
    assert not torch.isclose(LayerPenalty(net)(), expected)  # control
    assert LayerPenalty(net_of(3, 1))() == 0
    own = regularized(nn.Linear(2, 2), lambda weight: weight.max())
    assert LayerPenalty(own)() == own.weight.max()


@pytest.mark.parametrize(("call", "kind", "text"), [
    (lambda: L1Loss(nn.Linear, 0.1), TypeError, "model: received type; expected an nn.Module"),
    (lambda: L2Loss(nn.Linear(1, 1), -0.1), ValueError, "alpha: received -0.1"),
    (lambda: L1Loss(nn.Linear(1, 1), None), TypeError, "beta: received None"),
    (lambda: L1L2(l2=-1.0), ValueError, "l2: received -1.0"),
    (lambda: regularized(nn.Linear(1, 1), "l3"), ValueError, "regularizer: received 'l3'; expected one of l1, l2"),
    (lambda: regularized(nn.Linear(1, 1), bias_regularizer=0.1), TypeError, "bias_regularizer: received 0.1"),
    (lambda: regularized(nn.Linear(1, 1), L1L2), TypeError, "regularizer: received <class"),
    (lambda: regularized(nn.Sequential(nn.Linear(1, 1)), "l1"), ValueError, "layer: received Sequential")])
def test_bad_input_is_refused_with_its_name(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
