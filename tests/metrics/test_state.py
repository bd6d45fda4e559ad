"""The state of a metric: where it lives, what it survives, what it costs."""

import copy
import pickle

import pytest
import torch
from torch import nn

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
    AccuracyByShape,
    BinaryAccuracy,
    FunctionMetric,
    MeanLoss,
    Metric,
    Precision,
    Recall,
    SparseCategoricalAccuracy,
    SparseTopKCategoricalAccuracy,
    TopK,
)


def worst(preds, labels):
    return (preds - labels).abs().max()


MAKERS = [Accuracy, Precision, Recall, F1, AUC, AUCPR, KS, MAE, MSE, RMSE, MAPE, R2, lambda: TopK(1), lambda: IOU(2),
          lambda: FunctionMetric(worst), BinaryAccuracy, AccuracyByShape, SparseCategoricalAccuracy,
          lambda: SparseTopKCategoricalAccuracy(2), lambda: MeanLoss(nn.HuberLoss())]
ALL = pytest.mark.parametrize("make", MAKERS)


def batch(seed, metric, device=None):
    g = torch.Generator().manual_seed(seed)
    preds = torch.randn((8, 3) if isinstance(metric, (TopK, SparseCategoricalAccuracy)) else (8,), generator=g)
    return preds.to(device or "cpu"), torch.randint(0, 2, (8,), generator=g).to(device or "cpu")


def held_by(metric):
    kept = [one for name in metric.lists for one in getattr(metric, name)]
    return [getattr(metric, name) for name in metric.sums] + kept


@ALL
def test_calling_gives_the_batch_and_compute_gives_all(make):
    metric, alone, both = make(), make(), make()
    first, second = batch(0, metric), batch(1, metric)
    alone.update(*second)
    both.update(*first)
    both.update(*second)
    metric(*first)
    assert metric(*second) == alone.compute()
    assert metric.compute() == both.compute()
    assert metric.compute().dtype == torch.float64
    assert metric.compute().shape == ()
    metric.reset()
    assert metric.compute().isnan()
    assert metric(*first) == metric.compute()


def test_control_a_batch_alone_differs_from_all():
    for make in (Accuracy, AUC, MAE, R2):
        metric = make()
        metric(*batch(0, metric))
        assert metric(*batch(1, metric)) != metric.compute()


@ALL
def test_nothing_seen_is_nan(make):
    assert make().compute().isnan()
    metric = make()
    preds, labels = batch(0, metric)
    metric.update(preds[:0], labels[:0])
    assert metric.compute().isnan()


@ALL
def test_a_metric_adds_nothing_to_the_weights_of_its_holder(make):
    net = nn.Linear(2, 1)
    net.metric = make()
    net.metric.update(*batch(0, net.metric))
    assert sorted(net.state_dict()) == ["bias", "weight"]
    assert len(list(net.parameters())) == 2
    net.other = nn.BatchNorm1d(2)
    assert "other.running_mean" in net.state_dict()  # control


@ALL
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda metric: pickle.loads(pickle.dumps(metric))])
def test_a_copy_goes_its_own_way(make, copied):
    metric = make()
    metric.update(*batch(0, metric))
    before = metric.compute()
    other = copied(metric)
    assert other.compute() == before
    other.reset()
    other.update(*batch(5, metric))
    assert metric.compute() == before
    assert other.compute() != before or isinstance(metric, (TopK, SparseCategoricalAccuracy))  # control


@ALL
def test_counting_goes_on_in_and_out_of_inference_mode(make):
    metric, plain = make(), make()
    for seed in range(4):
        plain.update(*batch(seed, metric))
        with torch.inference_mode(seed % 2 == 0):
            metric.update(*batch(seed, metric))
    assert metric.compute() == plain.compute()
    with torch.inference_mode():
        metric.reset()
        metric.update(*batch(0, metric))
    metric(*batch(1, metric))
    assert not metric.compute().isnan()


def test_control_a_tensor_of_inference_mode_cannot_be_written_to():
    with torch.inference_mode():
        total = torch.zeros(())
    with pytest.raises(RuntimeError, match="Inplace update to inference tensor"):
        total += 1


@ALL
def test_update_reads_no_value_and_keeps_no_graph(make):
    metric = make()
    preds, labels = batch(0, metric, "meta")  # meta tensors have no values: reading one raises
    metric.update(preds.requires_grad_(), labels)
    assert not any(one.requires_grad for one in held_by(metric))


@pytest.mark.parametrize("shape", [(8, 2), (8, 3), (8, 5, 3), (8, 3, 5)])
@pytest.mark.parametrize("kind", [Accuracy, Precision, AUC, lambda **more: TopK(2, **more)])
@pytest.mark.parametrize("ignore_index", [None, 2])
def test_nor_does_it_with_several_classes(kind, shape, ignore_index):
    preds, numbers = torch.randn(shape, device="meta"), torch.zeros(8, *shape[2:], device="meta", dtype=torch.int64)
    if shape == (8, 5, 3):
        numbers = torch.zeros(8, 5, device="meta")
    kind(ignore_index=ignore_index).update(preds, numbers)
    kind(one_hot=True, axis=1).update(preds, torch.zeros(shape, device="meta"))


def test_control_reading_a_meta_tensor_raises():
    with pytest.raises(RuntimeError):
        torch.zeros((), device="meta").item()


@ALL
def test_the_state_moves_but_keeps_its_precision(make):
    metric = make()
    metric.update(*batch(0, metric))
    before = metric.compute()
    metric.half()
    assert metric.compute() == before
    metric.to("meta")
    assert {one.device.type for one in held_by(metric)} == {"meta"}


def test_control_an_ordinary_buffer_is_halved():
    module = nn.Module()
    module.register_buffer("total", torch.zeros((), dtype=torch.float64))
    assert module.half().total.dtype == torch.float16


def test_counting_goes_on_beyond_what_a_float32_can_count():
    metric = Accuracy()
    metric.correct += 2**24
    metric.seen += 2**24
    for _ in range(3):
        metric.update(torch.tensor([[0.0, 1.0]]), torch.ones(1))
    assert metric.correct == metric.seen == 2**24 + 3
    stuck = torch.tensor(2.0**24)
    assert stuck + 1 == stuck  # control


def test_small_errors_are_not_lost_beside_a_large_sum():
    metric = MAE()
    metric.total += 1e8
    metric.update(torch.tensor([1.0]), torch.tensor([0.0]))
    assert metric.total == 1e8 + 1
    assert torch.tensor(1e8) + 1 == torch.tensor(1e8)  # control


@pytest.mark.parametrize("make", [AUC, lambda: FunctionMetric(worst)])
def test_what_is_kept_does_not_change_with_the_tensor_it_came_from(make):
    metric = make()
    preds, labels = torch.tensor([0.1, 0.9]), torch.tensor([0.0, 1.0])
    metric.update(preds, labels)
    before = metric.compute()
    preds.fill_(-5)
    assert metric.compute() == before
    assert make()(preds, labels) != before  # control


def test_states_join_by_kind():
    """Sums add and lists concatenate: all that joining processes takes."""
    for make in (F1, AUC, R2, lambda: IOU(2)):
        one, two, both = make(), make(), make()
        one.update(*batch(0, one))
        two.update(*batch(1, two))
        both.update(*batch(0, both))
        both.update(*batch(1, both))
        left, right = one.state(), two.state()
        joined = {name: left[name] + right[name] for name in one.sums}
        joined |= {name: torch.cat([left[name], right[name]]) for name in one.lists}
        assert one.result(joined) == both.compute() != one.compute()


def test_every_metric_says_which_way_is_better():
    rising = (Accuracy, Precision, Recall, F1, AUC, AUCPR, KS, TopK, IOU, R2)
    assert all(kind.higher_is_better is True for kind in rising)
    assert all(kind.higher_is_better is False for kind in (MAE, MSE, RMSE, MAPE))
    assert FunctionMetric(worst).higher_is_better is None
    assert [kind.cheap for kind in (Accuracy, MAE, IOU, AUC, FunctionMetric)] == [True, True, True, False, False]


def test_a_name_of_the_state_cannot_hide_a_method():
    with pytest.raises(ValueError, match="name: received 'update'"):
        Metric().add_list("update")
