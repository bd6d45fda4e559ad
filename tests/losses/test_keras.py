"""Losses under Keras's names have Keras's values."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchkeras import KerasModel
from torchkeras.losses import (
    BinaryCrossentropy,
    CategoricalCrossentropy,
    Huber,
    SparseCategoricalCrossentropy,
)
from torchkeras.training import names
from torchkeras.weighting.weighing import weighted_loss

SHARES = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.05, 0.85], [0.3, 0.6, 0.1], [0.25, 0.25, 0.5]])
SCORES = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.1, 1.2], [0.0, 4.0, -0.7], [1.5, 1.5, -2.5]])
NUMBERS = torch.tensor([0, 2, 2, 1])
ONE_HOT = F.one_hot(NUMBERS, 3)
SEVERAL = torch.tensor([[1, 0, 1], [0, 0, 1], [0, 1, 1], [0, 1, 0]])
REAL = torch.tensor([[1.5, 0.1, 0.4], [0.05, -2.0, 1.0], [0.3, 0.0, 2.5], [-0.4, 1.0, 0.5]])
OTHER = torch.tensor([[0.6, 0.3, 0.1], [0.0, 0.0, 1.0], [0.2, 0.2, 0.6], [0.3, 0.4, 0.3]])

# Name, from_logits, predictions, labels; then values of Keras 3.15 on torch 2.13, one a sample.
STORED = [
    ("binary_crossentropy", False, SHARES, SEVERAL, [0.960801, 0.106391, 1.056695, 0.789041]),
    ("binary_crossentropy", True, SCORES, SEVERAL, [0.304756, 0.352089, 0.604828, 0.660572]),
    ("categorical_crossentropy", False, SHARES, ONE_HOT, [0.356675, 0.162519, 2.302585, 1.386294]),
    ("categorical_crossentropy", True, SCORES, ONE_HOT, [0.241311, 0.298523, 4.727042, 0.702263]),
    ("sparse_categorical_crossentropy", False, SHARES, NUMBERS, [0.356675, 0.162519, 2.302585, 1.386294]),
    ("sparse_categorical_crossentropy", True, SCORES, NUMBERS, [0.241311, 0.298523, 4.727042, 0.702263]),
    ("mse", False, SCORES, REAL, [0.49, 4.584167, 8.776668, 4.286666]),
    ("mae", False, SCORES, REAL, [0.566667, 1.783333, 2.5, 1.8]),
    ("mape", False, SCORES, REAL + 3, [91.035912, 119.45356, 82.020203, 92.078751]),
    ("huber", False, SCORES, REAL, [0.243333, 1.39, 2.081667, 1.341667]),
    ("kl_divergence", False, SHARES, OTHER, [0.029149, 0.162516, 0.77424, 0.08945]),
    ("cosine_similarity", False, SCORES, REAL, [-0.86971, -0.117562, 0.171152, 0.089899]),
]
CASES = pytest.mark.parametrize(("name", "from_logits", "preds", "labels", "values"), STORED)
KERAS = {"mse": "MeanSquaredError", "mae": "MeanAbsoluteError", "mape": "MeanAbsolutePercentageError",
         "kl_divergence": "KLDivergence"}


@pytest.fixture(scope="module")
def keras():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        yield pytest.importorskip("keras", reason="needs keras: pip install keras")


@CASES
def test_values_are_those_of_keras(name, from_logits, preds, labels, values):
    loss_fn, expected = names.keras_loss(name, from_logits), torch.tensor(values)
    for reduction, wanted in (("none", expected), ("mean", expected.mean()), ("sum", expected.sum())):
        loss_fn.reduction = reduction
        assert torch.allclose(loss_fn(preds, labels), wanted, rtol=1e-6, atol=2e-6)
    loss_fn.reduction = "none"
    assert not torch.allclose(loss_fn(preds.flip(0), labels), expected, rtol=1e-2)  # control


@CASES
def test_values_are_those_of_keras_here(name, from_logits, preds, labels, values, keras):
    kind = getattr(keras.losses, KERAS.get(name, name.title().replace("_", "")))
    options = {"from_logits": from_logits} if "crossentropy" in name else {}
    g = torch.Generator().manual_seed(0)
    order = torch.randint(0, 4, (30,), generator=g)
    noise = 0.05 * torch.rand(30, 3, generator=g)
    preds, labels = preds[order] + noise, labels[order]
    for ours, theirs in (("mean", "sum_over_batch_size"), ("sum", "sum"), ("none", "none")):
        expected = kind(reduction=theirs, **options)(labels, preds).detach().cpu()
        loss_fn = names.keras_loss(name, from_logits)
        loss_fn.reduction = ours
        found = loss_fn(preds, labels)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6)
        assert not torch.allclose(loss_fn(preds + 0.1 * noise, labels), expected, rtol=1e-6, atol=1e-6)  # control


def test_edges_are_those_of_keras():
    """Values of Keras 3.15 on torch 2.13."""
    wrong = names.keras_loss("binary_crossentropy")(torch.tensor([0.0, 1, 1]), torch.tensor([1.0, 0, 1]))
    assert wrong.item() == pytest.approx(10.6868, abs=1e-4)
    uneven = CategoricalCrossentropy(reduction="none")(torch.tensor([[2.0, 2], [1, 0]]), torch.tensor([[1, 0], [0, 1]]))
    assert uneven.tolist() == pytest.approx([0.6931, 16.1181], abs=1e-4)
    apart = names.keras_loss("kl_divergence")(torch.tensor([[0.0, 1]]), torch.tensor([[1.0, 0]]))
    assert apart.item() == pytest.approx(16.1181, abs=1e-4)
    cosine = names.keras_loss("cosine_similarity")
    assert cosine(torch.tensor([[0.0, 1]]), torch.tensor([[0.0, 0]])) == 0
    assert cosine(torch.tensor([[1e-9, 1e-9]]), torch.tensor([[0.0, 1]])).item() == pytest.approx(-0.01)
    assert names.keras_loss("mape")(torch.tensor([[1.0]]), torch.tensor([[0.0]])).item() == pytest.approx(1e9)


@pytest.mark.parametrize(("preds", "labels", "none", "total"), [
    ((4,), (4, 1), (4,), 4), ((4, 1), (4,), (4,), 4), ((4, 3, 1), (4, 3), (4,), 4), ((4, 3), (4, 3, 1), (4,), 4),
    ((4, 3, 1), (4, 3, 1), (4, 3), 12), ((4,), (4,), (4,), 4)])
def test_shapes_pair_as_in_keras(preds, labels, none, total):
    ones, zeros = torch.ones(preds), torch.zeros(labels)
    assert names.keras_loss("mse")(ones, zeros) == 1
    loss_fn = names.keras_loss("mse")
    loss_fn.reduction = "none"
    assert loss_fn(ones, zeros).shape == none
    loss_fn.reduction = "sum"
    assert loss_fn(ones, zeros) == total


def test_classes_may_be_in_the_second_dimension():
    g = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5, generator=g), torch.randint(0, 3, (2, 4, 5), generator=g)
    expected = F.cross_entropy(logits, labels)
    assert torch.isclose(SparseCategoricalCrossentropy(from_logits=True, axis=1)(logits, labels), expected)
    last = logits.movedim(1, -1)
    assert torch.isclose(SparseCategoricalCrossentropy(from_logits=True)(last, labels), expected)
    one_hot = F.one_hot(labels, 3)
    assert torch.isclose(CategoricalCrossentropy(from_logits=True)(last, one_hot), expected)
    assert not torch.isclose(CategoricalCrossentropy(from_logits=True)(last.flip(-1), one_hot), expected)  # control


@CASES
def test_a_gradient_is_that_of_the_definition(name, from_logits, preds, labels, values):
    preds = preds.double().requires_grad_()
    labels = labels if name.startswith("sparse") else labels.double()
    assert torch.autograd.gradcheck(lambda one: names.keras_loss(name, from_logits)(one, labels), preds)


@CASES
def test_sample_weights_weigh_samples(name, from_logits, preds, labels, values):
    loss_fn, weights = names.keras_loss(name, from_logits), torch.tensor([1.0, 0.0, 2.0, 3.0])
    expected = (torch.tensor(values) * weights).mean()
    assert torch.isclose(weighted_loss(loss_fn, preds, labels, weights), expected, atol=1e-5)
    assert not torch.isclose(loss_fn(preds, labels), expected, atol=1e-3)  # control


@pytest.mark.parametrize(("name", "from_logits", "labels"), [
    ("sparse_categorical_crossentropy", True, NUMBERS), ("sparse_categorical_crossentropy", False, NUMBERS),
    ("categorical_crossentropy", True, ONE_HOT.float())])
def test_predictions_are_read_as_the_loss_reads_them(name, from_logits, labels):
    torch.manual_seed(0)
    net = nn.Linear(3, 3) if from_logits else nn.Sequential(nn.Linear(3, 3), nn.Softmax(1))
    model = KerasModel(net, names.keras_loss(name, from_logits), optimizer=torch.optim.Adam(net.parameters(), lr=0.1))
    history = model.fit((SCORES, labels), epochs=40, ckpt_path=None, quiet=True, patience=None, monitor="train_loss")
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    shares = model.predict(SCORES, output="probabilities")
    assert torch.allclose(shares.sum(1), torch.ones(4))
    assert torch.equal(model.predict(SCORES, output="classes"), net(SCORES).argmax(1))


def test_torch_names_stay_and_keras_names_stand_beside_them():
    assert isinstance(names.loss("binary_crossentropy"), nn.BCELoss)
    assert isinstance(names.keras_loss("binary_crossentropy"), BinaryCrossentropy)
    assert isinstance(names.loss("sparse_categorical_crossentropy"), SparseCategoricalCrossentropy)
    assert isinstance(names.loss("huber"), nn.HuberLoss)
    assert isinstance(names.keras_loss("Huber"), Huber)
    assert isinstance(names.keras_loss("smooth_l1"), nn.SmoothL1Loss)
    assert names.loss("focal_with_logits").from_logits is True
    assert names.keras_loss("CategoricalCrossentropy", from_logits=True).from_logits is True


@pytest.mark.parametrize(("call", "text"), [
    (lambda: names.keras_loss("binary_crosentropy"), "loss: received 'binary_crosentropy'.*mean 'binary_crossentropy'"),
    (lambda: names.keras_loss("mse", from_logits=True), "from_logits: received True for mse; expected one of binary_"),
    (lambda: names.keras_metric("acuracy"), "metrics: received 'acuracy'; .*Did you mean 'accuracy'"),
    (lambda: names.keras_loss("mse")(torch.ones(4, 2), torch.ones(4)), r"labels: received shape \(4,\)"),
    (lambda: names.keras_loss("mse")(torch.ones(4, 1), torch.ones(1, 4)), r"labels: received shape \(1, 4\)"),
    (lambda: names.keras_loss("categorical_crossentropy")(SHARES, NUMBERS), "use sparse_categorical_crossentropy"),
    (lambda: names.keras_loss("sparse_categorical_crossentropy")(SHARES, ONE_HOT), "categorical_crossentropy"),
    (lambda: names.keras_loss("sparse_categorical_crossentropy")(SHARES, NUMBERS + 1),
     "labels: received the class 3 for scores of 3 classes; expected classes from 0 to 2"),
    (lambda: names.keras_loss("cosine_similarity")(torch.ones(4), torch.ones(4)), r"vectors of one shape"),
    (lambda: Huber(delta=0), "delta: received 0"),
    (lambda: BinaryCrossentropy(reduction="avg"), "reduction: received 'avg'")])
def test_bad_input_is_refused_with_its_name(call, text):
    with pytest.raises(ValueError, match=text):
        call()
