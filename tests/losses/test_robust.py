"""Focal loss and symmetric cross entropy: the published formulas, the figures users know, sample weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchkeras import KerasModel
from torchkeras.losses import FocalLoss, L1Loss, L2Loss, Loss, SCELoss
from torchkeras.weighting.weighing import per_sample, weighted_loss

EASY, HARD, LABELS = torch.tensor([[0.9], [0.1]]), torch.tensor([[0.5], [0.5]]), torch.tensor([[1.0], [0.0]])


def generator():
    return torch.Generator().manual_seed(0)


def logits_and_labels(*shape):
    g = generator()
    return 3 * torch.randn(*shape, generator=g), torch.randint(0, 2, shape, generator=g).float()


def published(logits, labels, alpha, gamma):
    """Focal loss as Lin et al. define it and torchvision's sigmoid_focal_loss computes it; alpha below 0: none."""
    p = torch.sigmoid(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    p_t = p * labels + (1 - p) * (1 - labels)
    loss = entropy * (1 - p_t) ** gamma
    return loss if alpha < 0 else (alpha * labels + (1 - alpha) * (1 - labels)) * loss


def test_easy_samples_count_little_and_hard_ones_more():
    assert round(FocalLoss()(EASY, LABELS).item(), 4) == 0.0005
    assert round(FocalLoss()(HARD, LABELS).item(), 4) == 0.0866
    assert round(nn.BCELoss()(EASY, LABELS).item(), 4) == 0.1054
    assert round(nn.BCELoss()(HARD, LABELS).item(), 4) == 0.6931


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("alpha", [0.75, 0.25, None])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_focal_loss_is_the_published_formula(gamma, alpha, reduction):
    logits, labels = logits_and_labels(20, 3)
    every = published(logits, labels, -1 if alpha is None else alpha, gamma)
    expected = {"mean": every.mean(), "sum": every.sum(), "none": every}[reduction]
    of_logits = FocalLoss(gamma, alpha, from_logits=True, reduction=reduction)(logits, labels)
    of_shares = FocalLoss(gamma, alpha, reduction=reduction)(logits.sigmoid(), labels)
    assert torch.allclose(of_logits, expected, rtol=1e-6, atol=1e-6)
    assert torch.allclose(of_shares, expected, rtol=1e-5, atol=1e-6)
    other = FocalLoss(gamma + 0.1, alpha, from_logits=True, reduction=reduction)(logits, labels)
    assert not torch.allclose(other, expected, rtol=1e-4)  # control


def test_focal_loss_has_the_gradient_of_the_published_formula():
    logits, labels = logits_and_labels(20)
    ours, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    FocalLoss(from_logits=True)(ours, labels).backward()
    published(theirs, labels, 0.75, 2).mean().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-7)
    published(theirs, labels, 0.25, 2).mean().backward()
    assert not torch.allclose(ours.grad, theirs.grad - ours.grad, atol=1e-4)  # control


@pytest.mark.parametrize("gamma", [0.5, 2.0])
@pytest.mark.parametrize("from_logits", [True, False])
def test_sure_answers_have_a_finite_gradient(gamma, from_logits):
    given = torch.tensor([200.0, -200.0, 200.0, -200.0])
    preds = (given if from_logits else given.sigmoid()).requires_grad_()
    FocalLoss(gamma, from_logits=from_logits)(preds, torch.tensor([1, 0, 0, 1])).backward()
    assert preds.grad.isfinite().all()
    plain = torch.zeros(1, requires_grad=True)
    (plain ** 0.5 * 0).sum().backward()
    assert plain.grad.isnan()  # control: the slope of a root at 0


def test_labels_may_be_whole_numbers_and_a_row():
    preds, labels = torch.tensor([[0.9], [0.2], [0.6]]), torch.tensor([1, 0, 1])
    expected = FocalLoss()(preds, labels[:, None].float())
    assert FocalLoss()(preds, labels) == expected == FocalLoss()(preds[:, 0], labels)
    assert FocalLoss()(preds, labels.flip(0)) == expected  # 1, 0, 1 either way
    assert FocalLoss()(preds, 1 - labels) != expected  # control


def test_symmetric_cross_entropy_is_the_published_formula():
    g = generator()
    logits, labels = torch.randn(20, 5, generator=g), torch.randint(0, 5, (20,), generator=g)
    shares, target = logits.softmax(1), F.one_hot(labels, 5).float().clamp(min=1e-4)
    entropy, reverse = F.cross_entropy(logits, labels, reduction="none"), -(shares * target.log()).sum(1)
    for a, b in ((1, 1), (0.1, 1), (2, 0.5)):
        found = SCELoss(5, a, b, reduction="none")(logits, labels)
        assert torch.allclose(found, a * entropy + b * reverse, rtol=1e-6, atol=1e-6)
    assert torch.isclose(SCELoss(5)(logits, labels), (entropy + reverse).mean())
    assert not torch.isclose(SCELoss(5)(logits, labels), entropy.mean())  # control


def test_symmetric_cross_entropy_of_places_is_that_of_samples():
    g = generator()
    logits, labels = torch.randn(2, 3, 4, 4, generator=g), torch.randint(0, 3, (2, 4, 4), generator=g)
    flat = SCELoss(3)(logits.movedim(1, -1).reshape(-1, 3), labels.reshape(-1))
    assert torch.isclose(SCELoss(3)(logits, labels), flat)
    assert not torch.isclose(SCELoss(3)(logits, labels.flip(1)), flat)  # control


@pytest.mark.parametrize(("loss_fn", "columns"), [(FocalLoss(), 1), (FocalLoss(reduction="sum"), 1), (SCELoss(3), 3)])
def test_sample_weights_weigh_samples(loss_fn, columns):
    g = generator()
    preds = torch.rand(6, columns, generator=g)
    labels = torch.randint(0, max(columns, 2), (6,), generator=g)
    weights = torch.tensor([0.0, 1, 2, 0, 3, 1])
    each = torch.stack([loss_fn(preds[[row]], labels[[row]]) for row in range(6)])
    assert torch.allclose(per_sample(loss_fn)(preds, labels).flatten(), each)
    total = (each * weights).sum() if loss_fn.reduction == "sum" else (each * weights).mean()
    assert torch.isclose(weighted_loss(loss_fn, preds, labels, weights), total)
    assert not torch.isclose(loss_fn(preds, labels), total)  # control
    assert loss_fn.reduction != "none"


def test_a_model_trains_with_focal_loss_and_reads_its_probabilities():
    g = generator()
    x = torch.randn(200, 2, generator=g)
    y = (x[:, :1] > 1).float()
    net = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())
    model = KerasModel(net, loss_fn=FocalLoss(), metrics_dict=["accuracy"],
                       optimizer=torch.optim.Adam(net.parameters(), lr=0.1))
    history = model.fit((x, y), epochs=10, ckpt_path=None, quiet=True)
    assert history["train_accuracy"].iloc[-1] > 0.9
    preds = model.predict((x, y), output="classes")
    assert torch.equal(preds, (net(x) >= 0.5).long())
    assert 0 < preds.sum() < 200  # control: both classes


def rings(inner, outer):
    """Points on a ring of radius 5 (label 1) and on one of radius 8 (label 0)."""
    g = generator()
    radius = torch.cat([torch.full((inner, 1), 5.0), torch.full((outer, 1), 8.0)])
    radius = radius + torch.randn(inner + outer, 1, generator=g)
    angle = 2 * torch.pi * torch.rand(inner + outer, 1, generator=g)
    order = torch.randperm(inner + outer, generator=g)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)[order], (order < inner).float()[:, None]


def test_focal_loss_with_penalties_tells_rare_points_from_many():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1), nn.Sigmoid())
    loss_fn = FocalLoss() + L1Loss(net, 1e-4) + L2Loss(net, 1e-4)
    model = KerasModel(net, loss_fn, ["accuracy", "auc"], torch.optim.Adam(net.parameters(), lr=0.02))
    history = model.fit(rings(1000, 6000), validation_split=0.25, epochs=4, batch_size=150, monitor="val_auc",
                        ckpt_path=None, quiet=True)
    assert history["val_auc"].max() > 0.90
    assert history["val_accuracy"].max() > 0.90
    with torch.no_grad():
        net[0].weight.zero_()
    assert model.evaluate(rings(100, 600))["val_auc"] == 0.5  # control


def test_a_loss_of_your_own_needs_its_values_only():
    class Quartic(Loss):
        def values(self, preds, labels):
            return (preds - labels) ** 4

    preds, labels = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 0.0])
    assert [Quartic(one)(preds, labels).tolist() for one in ("mean", "sum", "none")] == [8.5, 17.0, [1.0, 16.0]]


@pytest.mark.parametrize(("call", "kind", "text"), [
    (lambda: FocalLoss(gamma=-1), ValueError, "gamma: received -1; expected a number of at least 0"),
    (lambda: FocalLoss(gamma="2"), TypeError, "gamma: received '2'"),
    (lambda: FocalLoss(alpha=1.5), ValueError, "alpha: received 1.5; expected a number from 0 to 1"),
    (lambda: FocalLoss(reduction="men"), ValueError, "reduction: received 'men'.*Did you mean 'mean'"),
    (lambda: SCELoss(1), ValueError, "num_classes: received 1"),
    (lambda: SCELoss(3, b=-1), ValueError, "b: received -1"),
    (lambda: SCELoss(3)(torch.zeros(4, 2), torch.zeros(4).long()), ValueError, r"labels: received.*\(N, 3, \.\.\.\)"),
    (lambda: SCELoss(2)(torch.zeros(4, 2), torch.zeros(4, 1).long()), ValueError, r"squeeze\(1\)"),
    (lambda: FocalLoss()(torch.zeros(4, 2), torch.zeros(4)), ValueError, r"shape \(4,\) for predictions of .*\(4, 2\)"),
    (lambda: FocalLoss()(torch.zeros(1, 4), torch.zeros(4, 1)), ValueError, r"\(4, 1\) for predictions .*\(1, 4\)"),
    (lambda: FocalLoss()([0.5], torch.zeros(1)), TypeError, "preds: received list; expected a tensor")])
def test_bad_input_is_refused_with_its_name(call, kind, text):
    with pytest.raises(kind, match=text):
        call()
