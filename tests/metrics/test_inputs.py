"""What the metrics make of awkward inputs."""

import math

import pytest
import torch

from torchkeras.metrics import (
    AUC,
    AUCPR,
    AUCROC,
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

DECISIONS = [Accuracy, Precision, Recall, F1]
RANKINGS = [AUC, AUCPR, KS]
PAIRED = [*DECISIONS, *RANKINGS, MAE, MSE, RMSE, MAPE, R2]


def test_probabilities_are_taken_as_such_when_it_is_said():
    preds, labels = torch.tensor([0.1, 0.2, 0.3]), torch.zeros(3)
    assert Accuracy(from_logits=False)(preds, labels) == 1.0
    assert Accuracy()(preds, labels) == 0.0  # control: as logits these are all positive


def test_an_absent_class_never_gives_nan():
    scores = torch.tensor([-1.0, -2.0, -0.5])
    none, every = torch.zeros(3), torch.ones(3)
    assert [kind()(scores, none).item() for kind in (Precision, Recall, F1)] == [0, 0, 0]
    assert [AUC()(scores, none).item(), AUC()(scores, every).item()] == [0.5, 0.5]
    assert [AUCPR()(scores, none).item(), AUCPR()(scores, every).item()] == [0, 1]
    assert [KS()(scores, none).item(), KS()(scores, every).item()] == [0, 0]
    assert AUC()(scores, torch.tensor([0.0, 0.0, 1.0])) == 1.0  # control


def test_iou_leaves_out_absent_classes():
    labels = torch.tensor([[0, 0, 1, 1]])
    assert IOU(5)(labels, labels) == 1.0
    assert IOU(5)(torch.tensor([[0, 0, 1, 3]]), labels) == pytest.approx((1 + 0.5 + 0) / 3)  # control: class 3 is there


def test_iou_leaves_out_places_without_a_class():
    labels = torch.tensor([[0, 1, -100, 255]])
    assert IOU(2)(torch.tensor([[0, 1, 1, 1]]), labels) == 1.0
    assert IOU(2)(torch.tensor([[0, 1, 1, 1]]), torch.tensor([[0, 1, 0, 0]])) < 1  # control
    assert IOU(2)(torch.tensor([[0, 1]]), torch.tensor([[255, 255]])) == 0.0


@pytest.mark.parametrize("kind", [Accuracy, TopK])
def test_places_with_an_ignored_label_do_not_count(kind):
    metric = kind() if kind is Accuracy else TopK(1)
    scores = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    assert metric(scores, torch.tensor([1, -100, -100])) == 1.0
    assert metric(scores, torch.tensor([1, 0, 0])) == pytest.approx(1 / 3)  # control


@pytest.mark.parametrize("kind", PAIRED)
def test_a_trailing_one_makes_no_difference(kind):
    g = torch.Generator().manual_seed(0)
    preds, labels = torch.randn(8, generator=g), torch.randint(0, 2, (8,), generator=g)
    flat = kind()(preds, labels)
    assert kind()(preds[:, None], labels) == flat == kind()(preds, labels[:, None])
    assert kind()(preds[:, None], labels.flip(0)) != flat  # control: order matters
    assert not kind()(preds[0], labels[:1]).isnan()  # a squeezed batch of one


@pytest.mark.parametrize("kind", [*PAIRED, lambda: TopK(1), lambda: IOU(3)])
def test_shapes_that_do_not_match_are_both_named(kind):
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(5,\)"):
        kind().update(torch.zeros(4, 3), torch.zeros(5))


@pytest.mark.parametrize("kind", PAIRED)
def test_a_row_and_a_column_never_broadcast(kind):
    with pytest.raises(ValueError, match=r"\(1, 4\).*\(4, 1\)"):
        kind().update(torch.zeros(1, 4), torch.zeros(4, 1))


def test_a_label_of_one_half_is_positive_everywhere():
    scores, labels = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.49])
    assert [kind()(scores, labels).item() for kind in (*DECISIONS, *RANKINGS)] == [1.0] * 7
    assert Accuracy()(scores, torch.tensor([0.49, 0.5])) == 0.0  # control


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.float16, torch.float64])
def test_labels_may_be_of_any_type(dtype):
    scores, labels = torch.tensor([1.0, -1.0, 2.0]), torch.tensor([1, 0, 0]).to(dtype)
    assert Accuracy()(scores, labels) == pytest.approx(2 / 3)
    assert AUC()(scores, labels) == 0.5


def test_the_threshold_is_a_probability_and_belongs_to_the_negatives():
    probabilities = torch.tensor([0.69, 0.7, 0.71])
    labels = torch.tensor([0, 0, 1])
    assert Accuracy(0.7, from_logits=False)(probabilities, labels) == 1.0
    assert Accuracy(0.7)(torch.tensor([0.80, 0.84, 3.0]), labels) == 1.0  # logit(0.7) is 0.8473
    for metric in (Accuracy(), Precision(), Recall(), F1()):
        assert metric(torch.zeros(1), torch.ones(1)) == 0.0
        assert metric(torch.tensor([1e-30]), torch.ones(1)) == 1.0  # control
    assert Accuracy(0.5, from_logits=False)(probabilities, labels) < 1  # control
    with pytest.raises(ValueError, match="threshold: received 1.5"):
        Accuracy(1.5)


def test_whole_numbers_are_decisions_already():
    assert Accuracy()(torch.tensor([0, 1, 0]), torch.tensor([0, 1, 0])) == 1.0
    assert Accuracy()(torch.tensor([0.1, 1.0, 0.1]), torch.tensor([0, 1, 0])) < 1  # control: as logits, 0.1 says yes


def test_many_labels_at_once_are_judged_one_by_one():
    labels = torch.tensor([[1, 0, 1], [0, 1, 0]])
    assert Accuracy()(torch.tensor([[1.0, -1, 1], [-1, 1, 1]]), labels) == pytest.approx(5 / 6)


def test_bf16_scores_stay_apart_as_far_as_bf16_can():
    scores = torch.linspace(1, 2, 100).bfloat16()
    labels = torch.arange(100) >= 50
    fine = AUC()(scores, labels)
    binned = AUC()((scores.float().sigmoid() * 10).round(), labels)
    assert fine > 0.99
    assert binned < 0.99  # control


@pytest.mark.parametrize("kind", RANKINGS)
def test_a_nan_score_gives_nan_and_no_error(kind):
    metric = kind()
    metric.update(torch.tensor([0.1, math.nan, 0.3]), torch.tensor([0, 1, 1]))
    assert metric.compute().isnan()
    metric.reset()
    assert not metric(torch.tensor([0.1, 0.2]), torch.tensor([0, 1])).isnan()  # control


def test_a_nan_score_is_no_hit():
    scores = torch.tensor([[math.nan, 0.0, 1.0]])
    assert TopK(1)(scores, torch.tensor([0])) == 0.0
    assert TopK(2)(scores, torch.tensor([2])) == 1.0
    assert Accuracy()(torch.tensor([math.nan]), torch.tensor([1])) == 0.0


def test_auc_has_two_names():
    assert AUC is AUCROC


def test_top_k_of_fewer_classes_is_refused():
    with pytest.raises(ValueError, match="k: received 5; expected at most the number of classes, 3"):
        TopK(5).update(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match="k: received 0"):
        TopK(0)


def test_iou_refuses_scores_of_another_number_of_classes():
    with pytest.raises(ValueError, match="num_classes=3"):
        IOU(3).update(torch.zeros(2, 4, 5), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="scores"):
        IOU(3).update(torch.zeros(2, 5), torch.zeros(2, 5))


def test_what_is_no_tensor_is_refused():
    with pytest.raises(TypeError, match="preds: received list; expected a tensor for Accuracy"):
        Accuracy().update([1, 2], torch.zeros(2))
