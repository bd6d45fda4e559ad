"""Further metrics of Keras: the values here are those that keras.metrics 3.15 gives."""

import pytest
import torch

from torchkeras import Model, losses, metrics
from torchkeras.keras.losses import column_of, metrics_of
from torchkeras.metrics import Task
from torchkeras.training import names

SCORES, ANSWERS = torch.tensor([0.9, 0.5, 0.2, 0.7, 0.1]), torch.tensor([1, 1, 0, 0, 1])
CHOSEN, CLASSES = torch.tensor([0, 1, 2, 2, 1, 0]), torch.tensor([0, 1, 1, 2, 0, 0])
ROWS, TRUE_ROWS = torch.tensor([[0.1, 0.6, 0.3], [0.5, 0.2, 0.3]]), torch.tensor([[0.0, 1.0, 0.5], [0.2, 0.1, 0.7]])


def measured(metric, preds, labels):
    for row in range(len(preds)):
        metric.update(preds[row:row + 1], labels[row:row + 1])
    found = metric.compute().item()
    metric.reset()
    assert metric(preds, labels).item() == pytest.approx(found)  # the same at any batch size
    return found


@pytest.mark.parametrize(("kind", "expected"), [
    ("TruePositives", 1), ("FalsePositives", 1), ("TrueNegatives", 1), ("FalseNegatives", 2)])
def test_decisions_are_counted_by_kind(kind, expected):
    metric = getattr(metrics, kind)
    assert measured(metric(from_logits=False), SCORES, ANSWERS) == expected
    assert measured(metric(), SCORES.logit(), ANSWERS) == expected
    assert metric().compute().isnan()
    one_label_less = measured(metric(from_logits=False, ignore_index=1), SCORES, ANSWERS)
    assert one_label_less == (0 if kind in ("TruePositives", "FalseNegatives") else expected)  # control


@pytest.mark.parametrize(("metric", "expected"), [
    (metrics.PrecisionAtRecall(0.6), 0.6666667), (metrics.RecallAtPrecision(0.7), 0.3333333),
    (metrics.SensitivityAtSpecificity(0.4), 0.6666667), (metrics.SpecificityAtSensitivity(0.3), 1.0),
    (metrics.RecallAtPrecision(1.0), 0.3333333), (metrics.SpecificityAtSensitivity(1.0), 0.0)])
def test_the_best_number_under_a_bound(metric, expected):
    assert measured(metric, SCORES, ANSWERS) == pytest.approx(expected)


@pytest.mark.parametrize(("metric", "preds", "labels", "expected"), [
    (metrics.MeanIoU(3), CHOSEN, CLASSES, 0.5), (metrics.IoU(3, [0, 2]), CHOSEN, CLASSES, 0.5833333),
    (metrics.OneHotMeanIoU(3), torch.eye(3)[CHOSEN], torch.eye(3)[CLASSES], 0.5),
    (metrics.OneHotIoU(3, [1]), torch.eye(3)[CHOSEN], torch.eye(3)[CLASSES], 0.3333333),
    (metrics.BinaryIoU(), SCORES, ANSWERS, 0.4166667), (metrics.PearsonCorrelation(), ROWS, TRUE_ROWS, 0.4797286),
    (metrics.ConcordanceCorrelation(), ROWS, TRUE_ROWS, 0.3389547),
    (metrics.FBetaScore(2.0, from_logits=False), SCORES, ANSWERS, 0.3571429)],
    ids=lambda one: type(one).__name__ if isinstance(one, metrics.Metric) else "")
def test_overlaps_correlations_and_f_beta(metric, preds, labels, expected):
    assert measured(metric, preds, labels) == pytest.approx(expected, abs=1e-6)


def test_f_beta_of_1_is_f1_and_more_beta_counts_recall_more():
    f1, same, more = (kind(from_logits=False) for kind in (metrics.F1, metrics.FBetaScore, metrics.FBetaScore))
    more.beta = 100.0
    recall = measured(metrics.Recall(from_logits=False), SCORES, ANSWERS)
    assert measured(f1, SCORES, ANSWERS) == pytest.approx(measured(same, SCORES, ANSWERS))
    assert measured(more, SCORES, ANSWERS) == pytest.approx(recall, abs=1e-4)
    assert measured(f1, SCORES, ANSWERS) != pytest.approx(recall, abs=1e-4)  # control


@pytest.mark.parametrize(("metric", "column"), [
    (metrics.SparseTopKCategoricalAccuracy(5), "sparse_top_k_categorical_accuracy"),
    (metrics.TopKCategoricalAccuracy(2), "top_k_categorical_accuracy"), (metrics.AUC(), "auc"),
    (metrics.BinaryAccuracy(), "binary_accuracy"), (metrics.TruePositives(), "true_positives"),
    (metrics.MeanIoU(2), "mean_io_u"), (metrics.OneHotMeanIoU(2), "one_hot_mean_io_u"), (metrics.BinaryIoU(), "binary_io_u"),
    (metrics.FBetaScore(), "fbeta_score"), (metrics.PrecisionAtRecall(0.5), "precision_at_recall"),
    (metrics.MeanLoss(losses.Poisson()), "poisson"), (metrics.MeanLoss(losses.LogCosh()), "logcosh"),
    (metrics.MeanLoss(losses.KLDivergence()), "kl_divergence"), (metrics.PearsonCorrelation(), "pearson_correlation"),
    ("AUC", "AUC"), (metrics.MAE(), "mae")])
def test_columns_are_named_as_in_keras(metric, column):
    assert column_of(metric) == column
    assert list(metrics_of([metric, metric], Task())) == [column, f"{column}_1"]


@pytest.mark.parametrize("name", ["poisson", "hinge", "squared_hinge", "msle", "log_cosh_error", "TruePositives",
                                  "false_negatives", "f1_score", "fbeta_score", "binary_io_u", "cosine_similarity"])
def test_metrics_go_by_name_in_a_model(name):
    torch.manual_seed(0)
    x = torch.randn(30, 4)
    y = (x[:, :1] > 0).float()
    model = Model(torch.nn.Sequential(torch.nn.Linear(4, 1), torch.nn.Sigmoid()))
    model.compile("adam", "binary_crossentropy", [name])
    history = model.fit(x, y, batch_size=8, verbose=0, validation_split=0.3).history
    assert list(history) == ["loss", name, "val_loss", f"val_{name}"]
    assert model.evaluate(x, y, batch_size=7) == pytest.approx(model.evaluate(x, y), rel=1e-5)


@pytest.mark.parametrize(("name", "example"), [("mean_io_u", "MeanIoU(num_classes=3)"),
                                               ("PrecisionAtRecall", "PrecisionAtRecall(0.8)")])
def test_metrics_that_need_an_argument_say_so(name, example):
    with pytest.raises(ValueError, match="needs an argument") as error:
        names.keras_metric(name)
    assert example in str(error.value)


@pytest.mark.parametrize("make", [
    lambda: metrics.PrecisionAtRecall(2), lambda: metrics.IoU(2, [2]), lambda: metrics.FBetaScore(0),
    lambda: metrics.PearsonCorrelation().update(torch.ones(3, 1), torch.ones(3, 1)),
    lambda: metrics.TruePositives().update(torch.ones(3, 2), torch.ones(3))])
def test_wrong_arguments_are_refused(make):
    with pytest.raises(ValueError, match="received"):
        make()
