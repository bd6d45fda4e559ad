"""Further losses of Keras: the values here are those that keras.losses 3.15 gives."""

import math

import pytest
import torch
import torch.nn.functional as F

from torchkeras import KerasModel, Model, losses
from torchkeras.training import names

NUMBERS = (torch.tensor([[0.5, -1.0], [2.0, 3.0]]), torch.tensor([[1.0, 0.5], [0.0, 2.5]]))
COUNTS = (torch.tensor([[0.5, 1.0], [2.0, 3.0]]), torch.tensor([[1.0, 0.0], [4.0, 2.0]]))
SIGNS = (torch.tensor([[0.5, -0.75], [2.0, 0.25]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
SHARES = (torch.tensor([[0.2, 0.8], [0.7, 0.3]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
EMBEDDINGS = (F.normalize(torch.tensor([[1.0, 0.2], [1.0, -0.1], [0.1, 1.0], [0.3, 1.0]])), torch.tensor([0, 0, 1, 1]))
SEQUENCES = (torch.arange(24.0).reshape(2, 4, 3).sin(), torch.tensor([[1, 2], [2, 0]]))
STORED = [
    ("log_cosh", NUMBERS, 0.605168), ("msle", COUNTS, 0.226729), ("poisson", COUNTS, 0.555833),
    ("hinge", SIGNS, 1.125), ("squared_hinge", SIGNS, 2.46875), ("categorical_hinge", SIGNS, 1.625),
    ("binary_focal_crossentropy", SHARES, 0.299436), ("categorical_focal_crossentropy", SHARES, 0.074859),
    ("categorical_generalized_cross_entropy", (SHARES[0], torch.tensor([1, 1])), 0.55785),
    ("dice", SHARES, 0.45), ("tversky", SHARES, 0.45), ("circle", EMBEDDINGS, 0.000192), ("ctc", SEQUENCES, 1.949027),
]
WHOLE = ("dice", "tversky", "circle")  # no mean over samples


@pytest.mark.parametrize(("name", "data", "expected"), STORED, ids=[one[0] for one in STORED])
def test_a_loss_by_name_has_the_value_of_keras(name, data, expected):
    assert names.keras_loss(name)(*data).item() == pytest.approx(expected, abs=2e-6)
    assert names.keras_loss(name)(data[0] ** 2 * 0.9, data[1]).item() != pytest.approx(expected, abs=2e-6)  # control


@pytest.mark.parametrize("name", [name for name, _, _ in STORED if name not in WHOLE])
def test_a_loss_that_is_a_mean_can_be_weighed_and_taken_as_a_metric(name):
    preds, labels = next(data for one, data, _ in STORED if one == name)
    loss_fn = names.keras_loss(name)
    loss_fn.reduction = "none"
    each = loss_fn(preds, labels)
    metric = names.keras_metric(name)
    for row in range(len(preds)):
        metric.update(preds[row:row + 1], labels[row:row + 1])
    assert len(each) == len(preds)
    assert metric.compute().item() == pytest.approx(each.mean().item(), rel=1e-6)


@pytest.mark.parametrize(("name", "data", "expected"), STORED, ids=[one[0] for one in STORED])
def test_gradients_are_those_of_small_differences(name, data, expected):
    preds, labels = data[0].double().requires_grad_(), data[1]
    loss_fn = names.keras_loss(name)
    [gradient] = torch.autograd.grad(loss_fn(preds, labels), preds)
    step = torch.zeros_like(preds).detach()
    step.view(-1)[1] = 1e-6
    with torch.no_grad():
        slope = (loss_fn(preds + step, labels) - loss_fn(preds - step, labels)) / 2e-6
    assert gradient.view(-1)[1].item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-7)
    assert torch.isfinite(gradient).all()


def test_options_of_the_focal_losses():
    preds, labels = SHARES
    plain = F.binary_cross_entropy(preds, labels)
    assert losses.BinaryFocalCrossentropy(gamma=0.0)(preds, labels).item() == pytest.approx(plain.item())
    balanced = losses.BinaryFocalCrossentropy(True, alpha=0.5, gamma=0.0)(preds, labels)
    assert balanced.item() == pytest.approx(plain.item() / 2)
    logits = losses.BinaryFocalCrossentropy(from_logits=True)(preds.logit(), labels)
    assert logits.item() == pytest.approx(losses.BinaryFocalCrossentropy()(preds, labels).item(), rel=1e-5)
    soft = losses.CategoricalFocalCrossentropy(from_logits=True)(preds.log(), labels)
    assert soft.item() == pytest.approx(losses.CategoricalFocalCrossentropy()(preds, labels).item(), rel=1e-5)


def test_hinge_reads_0_and_minus_1_alike():
    preds, labels = SIGNS
    assert losses.Hinge()(preds, labels).item() == losses.Hinge()(preds, 2 * labels - 1).item()
    assert losses.Hinge()(preds[:, 0], labels[:, :1]).item() == losses.Hinge()(preds[:, :1], labels[:, 0]).item()


def test_log_cosh_does_not_overflow():
    far = losses.LogCosh()(torch.tensor([1e4]), torch.tensor([0.0])).item()
    assert far == pytest.approx(1e4 - math.log(2))


@pytest.mark.parametrize(("loss_fn", "preds", "labels"), [
    (losses.CategoricalHinge(), torch.zeros(4, 3), torch.zeros(4)), (losses.Dice(), torch.zeros(4, 1), torch.zeros(4)),
    (losses.Circle(), torch.zeros(4, 2), torch.zeros(3)), (losses.CTC(), torch.zeros(4, 3), torch.zeros(4, 2)),
    (losses.CategoricalGeneralizedCrossEntropy(), torch.zeros(4, 3), torch.zeros(4, 3)),
    (losses.CategoricalFocalCrossentropy(), torch.zeros(4, 3), torch.zeros(4)),
    (losses.Hinge(), torch.zeros(4, 3), torch.zeros(4))])
def test_shapes_that_do_not_fit_are_refused(loss_fn, preds, labels):
    with pytest.raises(ValueError, match="labels: received shape"):
        loss_fn(preds, labels)


def test_q_out_of_range_is_refused():
    with pytest.raises(ValueError, match="q: received 1"):
        losses.CategoricalGeneralizedCrossEntropy(q=1)


@pytest.mark.parametrize(("loss", "end", "labels"), [
    ("poisson", torch.nn.Softplus(), 1.0), ("hinge", torch.nn.Identity(), 1.0),
    ("binary_focal_crossentropy", torch.nn.Sigmoid(), 1.0), ("log_cosh", torch.nn.Identity(), 3.0)])
def test_a_model_trains_with_it_and_measures_it_alike_at_any_batch_size(loss, end, labels):
    torch.manual_seed(0)
    x = torch.randn(50, 3)
    y = (x[:, :1] > 0).float() * labels
    model = Model(torch.nn.Sequential(torch.nn.Linear(3, 1), end))
    model.compile("nadam", loss, [loss])
    history = model.fit(x, y, epochs=3, batch_size=7, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    assert history[loss] == pytest.approx(history["loss"], rel=1e-5)
    assert model.evaluate(x, y, batch_size=50) == pytest.approx(model.evaluate(x, y, batch_size=9), rel=1e-5)


SCORES, CLASSES = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.3, 0.6, 0.1]]), torch.tensor([0, 2, 0])


@pytest.mark.parametrize(("kind", "expected"), [(losses.CategoricalCrossentropy, 0.773326),
                                                (losses.BinaryCrossentropy, 0.486710)])
def test_smoothed_labels_have_the_value_of_keras(kind, expected):
    labels = F.one_hot(CLASSES, 3)
    assert kind(label_smoothing=0.1)(SCORES, labels).item() == pytest.approx(expected, abs=2e-6)
    assert kind()(SCORES, labels).item() != pytest.approx(expected, abs=1e-3)  # control
    with pytest.raises(ValueError, match="label_smoothing: received 1.5; expected a share from 0 to 1"):
        kind(label_smoothing=1.5)


@pytest.mark.parametrize("ignored", [255, -1, 2])
def test_a_class_that_is_ignored_counts_nowhere(ignored):
    torch.manual_seed(0)
    x, y = torch.randn(50, 4), torch.randint(0, 3, (50,))
    y[::3] = ignored

    def trained(loss_fn):
        torch.manual_seed(1)
        model = KerasModel(torch.nn.Linear(4, 3), loss_fn, ["accuracy"], "sgd")
        history = model.fit((x, y), (x[:20], y[:20]), epochs=2, batch_size=8, gradient_accumulation_steps=2,
                            ckpt_path=None, quiet=True, shuffle=False)
        return torch.tensor(history.drop(columns="epoch").to_numpy(float)), model.net.weight.detach()

    ours = trained(losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=ignored))
    for mine, torchs in zip(ours, trained(torch.nn.CrossEntropyLoss(ignore_index=ignored)), strict=True):
        torch.testing.assert_close(mine, torchs)
    each = losses.SparseCategoricalCrossentropy(True, "none", ignore_class=ignored)(torch.randn(50, 3), y)
    assert (each == 0).sum() == (y == ignored).sum()
    other = trained(torch.nn.CrossEntropyLoss(ignore_index=ignored + 1)) if ignored == 2 else None
    assert other is None or not torch.allclose(ours[1], other[1])  # control
