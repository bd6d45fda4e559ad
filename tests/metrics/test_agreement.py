"""Each metric gives the number of scikit-learn and torchmetrics, at every batch size."""

import math

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
import torchmetrics.functional as tm

from torchkeras.metrics import (
    AUC,
    AUCPR,
    F1,
    IOU,
    KS,
    MAE,
    MAPE,
    MSE,
    R2,
    RMSE,
    Accuracy,
    Precision,
    Recall,
    TopK,
)

N = 50
SIZES = [1, 3, 7, N]  # 50 = 7 x 7 + 1: the last batch of 7 has one sample


def generator():
    return torch.Generator().manual_seed(0)


def binary(kind):
    g = generator()
    logits = torch.randn(N, generator=g, dtype=torch.float64)
    labels = (logits + torch.randn(N, generator=g, dtype=torch.float64) > 0).long()
    if kind == "tied":
        logits = (logits * 2).round() / 2
    if kind == "extreme":
        logits = logits.sign() * (1e4 + logits)
    if kind == "bf16":
        logits = logits.bfloat16()
    if kind == "float32":
        logits = logits.float()
    return logits, labels


def over_batches(metric, preds, labels, size):
    for a, b in zip(preds.split(size), labels.split(size), strict=True):
        metric.update(a, b)
    return metric.compute().item()


def ks(labels, scores):
    false, true, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    return np.abs(true - false).max()


def yes(scores):
    return scores > 0  # a probability of exactly one half is a no


DECIDED = [
    (Accuracy, lambda y, s: sk.accuracy_score(y, yes(s)), tm.classification.binary_accuracy),
    (Precision, lambda y, s: sk.precision_score(y, yes(s)), tm.classification.binary_precision),
    (Recall, lambda y, s: sk.recall_score(y, yes(s)), tm.classification.binary_recall),
    (F1, lambda y, s: sk.f1_score(y, yes(s)), tm.classification.binary_f1_score),
]
RANKED = [
    (AUC, sk.roc_auc_score, tm.classification.binary_auroc),
    (AUCPR, sk.average_precision_score, tm.classification.binary_average_precision),
    (KS, ks, None),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", ["random", "tied", "extreme", "bf16", "float32"])
@pytest.mark.parametrize(("kind_of_metric", "reference", "_"), DECIDED + RANKED)
def test_binary_metrics_are_those_of_scikit_learn(kind_of_metric, reference, _, kind, size):
    logits, labels = binary(kind)
    expected = reference(labels.numpy(), logits.double().numpy())
    assert over_batches(kind_of_metric(), logits, labels, size) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("kind_of_metric", "_", "reference"), DECIDED + RANKED[:2])
def test_binary_metrics_are_those_of_torchmetrics(kind_of_metric, _, reference):
    logits, labels = binary("float32")
    expected = reference(logits, labels).item()
    assert over_batches(kind_of_metric(), logits, labels, 7) == pytest.approx(expected, abs=1e-6)


def test_control_a_mean_of_batch_values_is_another_number():
    logits, labels = binary("random")
    for kind in (Precision, F1, AUC, AUCPR, KS):
        values = [kind()(a, b).item() for a, b in zip(logits.split(7), labels.split(7), strict=True)]
        assert abs(np.mean(values) - over_batches(kind(), logits, labels, 7)) > 1e-3


def test_control_a_sigmoid_would_tie_extreme_logits():
    logits, labels = binary("extreme")
    squashed = AUC()(logits.sigmoid(), labels).item()
    assert abs(squashed - AUC()(logits, labels).item()) > 1e-3


def test_control_untied_scores_give_another_area_than_tied_ones():
    tied, labels = binary("tied")
    worst = tied - 1e-9 * labels  # every tie broken against the positives
    assert AUC()(worst, labels).item() < AUC()(tied, labels).item() - 1e-3


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_many_classes(dtype, size):
    g = generator()
    scores = torch.randn(N, 10, generator=g, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, 10, (N,), generator=g)
    assert over_batches(Accuracy(), scores, labels, size) == (scores.argmax(1) == labels).double().mean().item()
    if dtype == torch.bfloat16:
        return
    expected = sk.top_k_accuracy_score(labels.numpy(), scores.numpy(), k=5, labels=range(10))
    assert over_batches(TopK(5), scores, labels, size) == pytest.approx(expected, abs=1e-12)
    assert over_batches(TopK(4), scores, labels, size) != pytest.approx(expected, abs=1e-6)  # control


def test_top_1_is_accuracy_even_among_equal_scores():
    scores = torch.randint(0, 2, (200, 5), generator=generator()).float()
    labels = torch.randint(0, 5, (200,), generator=generator())
    assert TopK(1)(scores, labels) == Accuracy()(scores, labels)
    last_wins = 4 - scores.flip(1).argmax(1)
    assert (last_wins == labels).double().mean() != Accuracy()(scores, labels)  # control


@pytest.mark.parametrize("size", [1, 2, 5])
def test_iou_is_the_jaccard_index(size):
    g = generator()
    scores = torch.randn(5, 4, 6, 6, generator=g)
    labels = torch.randint(0, 4, (5, 6, 6), generator=g)
    found = over_batches(IOU(4), scores, labels, size)
    classes = scores.argmax(1)
    expected = sk.jaccard_score(labels.flatten(), classes.flatten(), average="macro")
    assert found == pytest.approx(expected, abs=1e-12)
    assert found == pytest.approx(tm.jaccard_index(classes, labels, task="multiclass", num_classes=4).item(), abs=1e-6)
    assert found != pytest.approx(sk.accuracy_score(labels.flatten(), classes.flatten()), abs=1e-3)  # control


def test_binary_iou_from_logits_and_from_probabilities():
    logits = torch.randn(3, 1, 6, 6, generator=generator())
    labels = torch.randint(0, 2, (3, 6, 6), generator=generator())
    expected = sk.jaccard_score(labels.flatten(), (logits > 0).flatten(), average="macro")
    assert IOU(2)(logits, labels).item() == pytest.approx(expected, abs=1e-12)
    assert IOU(2, from_logits=False)(logits.sigmoid(), labels).item() == pytest.approx(expected, abs=1e-12)
    assert IOU(2, from_logits=True)(logits.sigmoid(), labels).item() != pytest.approx(expected, abs=1e-3)  # control


NUMBERS = [
    (MAE, sk.mean_absolute_error, tm.mean_absolute_error),
    (MSE, sk.mean_squared_error, tm.mean_squared_error),
    (RMSE, sk.root_mean_squared_error, lambda p, y: tm.mean_squared_error(p, y, squared=False)),
    (MAPE, sk.mean_absolute_percentage_error, tm.mean_absolute_percentage_error),
    (R2, sk.r2_score, tm.r2_score),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kind", "reference", "other"), NUMBERS)
def test_regression(kind, reference, other, dtype, size):
    g = generator()
    labels = (3 + torch.randn(N, generator=g, dtype=torch.float64)).to(dtype)
    preds = (labels.double() + torch.randn(N, generator=g, dtype=torch.float64)).to(dtype)
    found = over_batches(kind(), preds, labels, size)
    assert found == pytest.approx(reference(labels.double().numpy(), preds.double().numpy()), rel=1e-12)
    assert found == pytest.approx(other(preds.double(), labels.double()).item(), rel=1e-6)
    if dtype == torch.float64:
        swapped = kind()(preds + 0.1, labels).item()
        assert abs(swapped - found) > 1e-3  # control


def test_rmse_is_no_mean_of_batch_values():
    preds, labels = torch.tensor([0.0, 0.0]), torch.tensor([1.0, 7.0])
    assert over_batches(RMSE(), preds, labels, 1) == 5.0
    assert np.mean([1.0, 7.0]) != 5.0  # control


def test_r2_of_several_outputs_is_the_mean_of_theirs():
    labels = torch.randn(N, 3, generator=generator(), dtype=torch.float64) * torch.tensor([1.0, 5.0, 20.0])
    preds = labels + torch.randn(N, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = over_batches(R2(), preds, labels, 7)
    assert found == pytest.approx(sk.r2_score(labels, preds), rel=1e-12)
    assert found != pytest.approx(sk.r2_score(labels.flatten(), preds.flatten()), rel=1e-3)  # control


def test_r2_keeps_its_digits_on_large_labels_of_small_spread():
    labels = 1.7e9 + torch.arange(N, dtype=torch.float64)  # seconds since 1970
    preds = labels + torch.randn(N, generator=generator(), dtype=torch.float64)
    expected = sk.r2_score(labels, preds)
    assert over_batches(R2(), preds, labels, 3) == pytest.approx(expected, rel=1e-9)
    naive = 1 - (preds - labels).square().sum() / (labels.square().sum() - labels.sum() ** 2 / N)
    assert abs(naive.item() - expected) > 1e-6  # control: sums of squares cancel


def test_r2_of_equal_labels_follows_scikit_learn():
    labels = torch.full((10,), 0.1, dtype=torch.float64)
    assert over_batches(R2(), labels, labels, 3) == 1.0 == sk.r2_score(labels, labels)
    assert over_batches(R2(), labels + 1, labels, 3) == 0.0
    assert over_batches(R2(), labels * math.nan, labels, 3) != 1.0
