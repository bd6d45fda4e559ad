"""Metrics under Keras's names: the values of Keras and of scikit-learn, at every batch size."""

import pytest
import sklearn.metrics as sk
import torch
import torch.nn.functional as F
from torch import nn

from torchkeras import KerasModel, losses, metrics
from torchkeras.metrics import AccuracyByShape, MeanLoss
from torchkeras.training import names

N = 50
SIZES = [1, 3, 7, N]


@pytest.fixture(scope="module")
def keras():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        yield pytest.importorskip("keras", reason="needs keras: pip install keras")


def data(kind):
    g = torch.Generator().manual_seed(0)
    scores, numbers = torch.randn(N, 8, generator=g).softmax(1), torch.randint(0, 8, (N,), generator=g)
    several, one = torch.randint(0, 2, (N, 8), generator=g), torch.randint(0, 2, (N, 1), generator=g)
    return {"binary": (scores[:, :1] * 4 % 1, one), "several": (scores * 4 % 1, several), "sparse": (scores, numbers),
            "column": (scores, numbers[:, None]), "one-hot": (scores, F.one_hot(numbers, 8)),
            "real": (scores, scores.flip(0)), "signed": (scores - 0.2, scores.flip(0) - 0.1)}[kind]


def over_batches(metric, preds, labels, size):
    for a, b in zip(preds.split(size), labels.split(size), strict=True):
        metric.update(a, b)
    return metric.compute().item()


def best_five(labels, scores):
    return sk.top_k_accuracy_score(labels, scores, k=5, labels=range(8))


def entropy(labels, shares):
    return sk.log_loss(labels, shares / shares.sum(1, keepdims=True))


CASES = [  # name, data, the class in Keras, scikit-learn's function of labels and scores
    ("accuracy", "binary", "BinaryAccuracy", lambda y, s: sk.accuracy_score(y, s >= 0.5)),
    ("accuracy", "sparse", "SparseCategoricalAccuracy", lambda y, s: sk.accuracy_score(y, s.argmax(1))),
    ("accuracy", "column", "SparseCategoricalAccuracy", lambda y, s: sk.accuracy_score(y, s.argmax(1))),
    ("accuracy", "one-hot", "CategoricalAccuracy", lambda y, s: sk.accuracy_score(y.argmax(1), s.argmax(1))),
    ("binary_accuracy", "several", "BinaryAccuracy", lambda y, s: sk.accuracy_score(y.ravel(), s.ravel() >= 0.5)),
    ("categorical_accuracy", "one-hot", "CategoricalAccuracy",
     lambda y, s: sk.accuracy_score(y.argmax(1), s.argmax(1))),
    ("sparse_categorical_accuracy", "sparse", "SparseCategoricalAccuracy",
     lambda y, s: sk.accuracy_score(y, s.argmax(1))),
    ("top_k_categorical_accuracy", "one-hot", "TopKCategoricalAccuracy", lambda y, s: best_five(y.argmax(1), s)),
    ("sparse_top_k_categorical_accuracy", "sparse", "SparseTopKCategoricalAccuracy", best_five),
    ("precision", "binary", "Precision", lambda y, s: sk.precision_score(y, s >= 0.5)),
    ("recall", "several", "Recall", lambda y, s: sk.recall_score(y.ravel(), s.ravel() >= 0.5)),
    ("f1", "binary", None, lambda y, s: sk.f1_score(y, s >= 0.5)),
    ("AUC", "binary", None, sk.roc_auc_score),  # Keras's is an approximation by 200 thresholds
    ("mse", "real", "MeanSquaredError", sk.mean_squared_error),
    ("mean_absolute_error", "real", "MeanAbsoluteError", sk.mean_absolute_error),
    ("rmse", "real", "RootMeanSquaredError", lambda y, s: sk.mean_squared_error(y.ravel(), s.ravel()) ** 0.5),
    ("r2_score", "real", "R2Score", sk.r2_score),
    ("mape", "real", "MeanAbsolutePercentageError", lambda y, s: 100 * sk.mean_absolute_percentage_error(y, s)),
    ("binary_crossentropy", "binary", "BinaryCrossentropy", sk.log_loss),
    ("sparse_categorical_crossentropy", "sparse", "SparseCategoricalCrossentropy", entropy),
    ("categorical_crossentropy", "one-hot", "CategoricalCrossentropy", lambda y, s: entropy(y.argmax(1), s)),
    ("kl_divergence", "real", "KLDivergence", None),
    ("cosine_similarity", "signed", "CosineSimilarity", None),
]
ALL = pytest.mark.parametrize(("name", "kind", "of_keras", "of_sklearn"), CASES)


@pytest.mark.parametrize("size", SIZES)
@ALL
def test_values_are_those_of_scikit_learn(name, kind, of_keras, of_sklearn, size):
    preds, labels = data(kind)
    found = over_batches(names.keras_metric(name), preds, labels, size)
    if of_sklearn is not None:
        expected = of_sklearn(labels.squeeze(-1).double().numpy() if kind != "sparse" else labels.numpy(),
                              preds.squeeze(-1).double().numpy())
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert found == pytest.approx(over_batches(names.keras_metric(name), preds, labels, N), rel=1e-6)
    assert over_batches(names.keras_metric(name), preds, labels.roll(1, 0), size) != pytest.approx(found)  # control


@pytest.mark.parametrize("size", [7, N])
@pytest.mark.parametrize(("name", "kind", "of_keras", "of_sklearn"), [case for case in CASES if case[2]])
def test_values_are_those_of_keras_here(name, kind, of_keras, of_sklearn, size, keras):
    preds, labels = data(kind)
    theirs = getattr(keras.metrics, of_keras)()
    for a, b in zip(preds.split(size), labels.split(size), strict=True):
        theirs.update_state(b, a)
    found = over_batches(names.keras_metric(name), preds, labels, size)
    assert found == pytest.approx(float(theirs.result()), rel=1e-6, abs=1e-6)
    assert over_batches(names.keras_metric(name), preds.roll(1, 0), labels, size) != pytest.approx(found)  # control


def test_similarity_has_the_stored_value_of_keras():
    """Value of Keras 3.15 on torch 2.13, for which more is better."""
    scores = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 0.1, 1.2], [0.0, 4.0, -0.7], [1.5, 1.5, -2.5]])
    labels = torch.tensor([[1.5, 0.1, 0.4], [0.05, -2.0, 1.0], [0.3, 0.0, 2.5], [-0.4, 1.0, 0.5]])
    metric = names.keras_metric("cosine_similarity")
    assert metric(scores, labels).item() == pytest.approx(0.181555, abs=1e-6)
    assert metric.higher_is_better is True
    assert names.keras_metric("mape").higher_is_better is False


def test_accuracy_goes_by_shape():
    scores = torch.tensor([[2.0, -1.0], [-1.0, 3.0], [1.0, 0.5], [-1.0, 1.0]])
    one_hot = torch.tensor([[1, 0], [1, 0], [0, 1], [0, 1]])
    assert AccuracyByShape()(scores, one_hot) == 0.5
    assert metrics.BinaryAccuracy()(scores, one_hot) != 0.5  # control: each number by itself
    assert AccuracyByShape()(scores, torch.tensor([0, 1, 0, 0])) == 0.75
    assert AccuracyByShape()(scores, torch.tensor([[0], [1], [0], [0]])) == 0.75
    assert AccuracyByShape()(scores[:, 0], torch.tensor([1, 1, 1, 0])) == 0.75
    assert AccuracyByShape(from_logits=False)(scores[:, :1] / 4, torch.tensor([0, 0, 0, 0])) == 1.0  # 0.5 is a no
    places, numbers = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    second = (places.argmax(1) == numbers).double().mean()
    assert AccuracyByShape()(places, numbers) == second == AccuracyByShape()(places.movedim(1, -1), numbers)
    with pytest.raises(ValueError, match=r"\(4, 2\) with labels of shape \(3,\)"):
        AccuracyByShape().update(scores, torch.zeros(3))


@pytest.mark.parametrize("name", ["categorical_accuracy", "top_k_categorical_accuracy", "sparse_categorical_accuracy",
                                  "sparse_top_k_categorical_accuracy"])
def test_classes_may_be_in_another_dimension(name):
    g = torch.Generator().manual_seed(0)
    scores, numbers = torch.randn(2, 6, 3, 4, generator=g), torch.randint(0, 6, (2, 3, 4), generator=g)
    last = numbers if name.startswith("sparse") else F.one_hot(numbers, 6)
    second = last if last is numbers else last.movedim(-1, 1)
    kind = type(names.keras_metric(name))
    options = {"k": 2} if "top_k" in name else {}
    found = kind(**options, axis=1)(scores, second)
    assert found == kind(**options)(scores.movedim(1, -1), last)
    assert found == (metrics.TopK(2) if options else metrics.Accuracy())(scores, numbers)
    assert kind(**options)(scores.movedim(1, -1).flip(-1), last) != found  # control


@pytest.mark.parametrize("kind", [metrics.SparseCategoricalAccuracy, lambda: metrics.SparseTopKCategoricalAccuracy(1)])
def test_places_with_an_ignored_label_do_not_count(kind):
    scores = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    assert kind()(scores, torch.tensor([1, -100, -100])) == 1.0
    assert kind()(scores, torch.tensor([1, 0, 0])) < 1  # control


@ALL
def test_a_metric_by_name_keeps_nothing_from_one_epoch_to_the_next(name, kind, of_keras, of_sklearn):
    metric, fresh = names.keras_metric(name), names.keras_metric(name)
    assert metric.compute().isnan()
    preds, labels = data(kind)
    metric.update(preds, labels)
    metric.reset()
    metric.update(preds[:20], labels[:20])
    assert metric.compute() == fresh(preds[:20], labels[:20])
    assert not metric.compute().isnan()
    assert not [one for one in metric.state_dict() if one]
    metric.to("meta")  # what is counted moves along
    assert metric.device.type == "meta"


def test_logits_are_taken_as_such_when_it_is_said():
    preds, labels = torch.tensor([[0.1], [0.2]]), torch.zeros(2, 1)
    for name in ("accuracy", "binary_accuracy"):
        assert names.keras_metric(name)(preds, labels) == 1.0
        assert names.keras_metric(name, from_logits=True)(preds, labels) == 0.0  # control
    assert names.keras_metric("binary_crossentropy", from_logits=True)(preds, labels).item() == pytest.approx(
        F.binary_cross_entropy_with_logits(preds, labels).item())


def test_names_that_keras_does_not_have_are_ours():
    assert isinstance(names.keras_metric("ks"), metrics.KS)
    assert isinstance(names.keras_metric("auc_pr"), metrics.AUCPR)
    assert isinstance(names.metric("accuracy"), metrics.Accuracy)
    assert type(names.keras_metric("acc")) is AccuracyByShape


def test_a_loss_is_watched_without_its_own_mean_over_batches():
    preds, labels = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([1.5, 5.0, 9.0])
    metric = MeanLoss(nn.HuberLoss())
    assert over_batches(metric, preds, labels, 2) == pytest.approx(nn.HuberLoss()(preds, labels).item())
    assert over_batches(MeanLoss(nn.HuberLoss()), preds, labels, 2) != pytest.approx(1.3125 / 2)  # a mean of means
    learning = nn.Linear(1, 1)
    learning.reduction = "mean"
    assert list(MeanLoss(learning).parameters()) == []
    for wrong in (nn.HuberLoss, F.mse_loss, "mse"):
        with pytest.raises(TypeError, match="loss_fn: received .*; expected a loss object with a reduction"):
            MeanLoss(wrong)


def test_a_model_measures_in_probabilities_when_its_loss_takes_them():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 1), nn.Sigmoid())
    x = torch.randn(40, 2)
    y = (net(x) >= 0.5).float()
    for loss_fn in (losses.BinaryCrossentropy(), losses.FocalLoss(), losses.FocalLoss() + losses.L2Loss(net, 0.1)):
        found = KerasModel(net, loss_fn, ["accuracy"]).evaluate((x, y))
        assert found["val_accuracy"] == 1.0
    loss_fn = losses.FocalLoss(from_logits=True)
    assert KerasModel(net, loss_fn, ["accuracy"]).evaluate((x, y))["val_accuracy"] < 1  # control
