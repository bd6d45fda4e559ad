"""Plain functions, and objects of the older kind, as metrics."""

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from torch import nn

from torchkeras.metrics import FunctionMetric, function


def worst(preds, labels):
    return (preds - labels).abs().max()


@pytest.mark.parametrize("size", [1, 3, 7, 50])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scikit_learn_is_exact_at_every_batch_size(size, dtype):
    g = torch.Generator().manual_seed(0)
    preds, labels = torch.randn(50, generator=g).to(dtype), torch.randint(0, 2, (50,), generator=g)
    accuracy = FunctionMetric(lambda preds, labels: sk.accuracy_score(labels, preds > 0))
    area = FunctionMetric(lambda preds, labels: sk.roc_auc_score(labels, preds))
    for a, b in zip(preds.split(size), labels.split(size), strict=True):
        accuracy.update(a, b)
        area.update(a, b)
    assert accuracy.compute().item() == (labels == (preds > 0)).double().mean().item()
    assert area.compute().item() == sk.roc_auc_score(labels, preds.float())


def test_control_a_mean_over_batches_is_another_area():
    g = torch.Generator().manual_seed(0)
    preds, labels = torch.randn(50, generator=g), torch.randint(0, 2, (50,), generator=g)
    means = [sk.roc_auc_score(b, a) for a, b in zip(preds.split(25), labels.split(25), strict=True)]
    assert abs(np.mean(means) - sk.roc_auc_score(labels, preds)) > 1e-3


@pytest.mark.parametrize("number", [2, 2.0, True, np.float32(2), np.array(2), np.array([2]), torch.tensor(2),
                                    torch.tensor([2.0])])
def test_a_number_of_any_kind_is_taken(number):
    value = FunctionMetric(lambda preds, labels: number)(torch.zeros(3), torch.zeros(3))
    assert value.dtype == torch.float64
    assert value.shape == ()
    assert value == (1 if number is True else 2)


@pytest.mark.parametrize(("result", "came"), [
    (torch.zeros(10), r"shape \(10,\)"), (np.zeros((2, 5)), r"shape \(2, 5\)"), (None, "NoneType"), ([1.0], "list"),
    ("high", "str")])
def test_what_is_not_one_number_is_refused_by_name(result, came):
    metric = FunctionMetric(lambda preds, labels: result, name="acc")
    metric.update(torch.zeros(10), torch.zeros(10))
    with pytest.raises(ValueError, match=f"metric 'acc': received a function that returned {came}; expected one"):
        metric.compute()


def test_a_dict_gives_several_numbers():
    metric = FunctionMetric(lambda preds, labels: {"low": preds.min(), "high": np.float64(preds.max())})
    metric.update(torch.tensor([1.0]), torch.tensor([0.0]))
    metric.update(torch.tensor([3.0]), torch.tensor([0.0]))
    assert {name: value.item() for name, value in metric.compute().items()} == {"low": 1.0, "high": 3.0}
    with pytest.raises(ValueError, match="returned shape"):
        FunctionMetric(lambda preds, labels: {"all": preds})(torch.zeros(3), torch.zeros(3))


def test_a_net_with_several_outputs_keeps_their_form():
    def mismatches(preds, labels):
        assert isinstance(preds, dict)
        assert isinstance(labels, tuple)
        return (preds["a"] != labels[0]).sum() + (preds["b"] != labels[1]).sum()

    metric = FunctionMetric(mismatches)
    for _ in range(3):
        metric.update({"a": torch.zeros(2), "b": torch.ones(2, 4)}, (torch.zeros(2), torch.zeros(2, 4)))
    assert metric.compute() == 24
    assert metric({"a": torch.zeros(1), "b": torch.ones(1, 4)}, (torch.zeros(1), torch.zeros(1, 4))) == 4


def test_a_squeezed_batch_of_one_joins_the_others():
    metric = FunctionMetric(worst)
    metric.update(torch.tensor([1.0, 2.0]), torch.zeros(2))
    metric.update(torch.tensor(5.0), torch.zeros(1))
    assert metric.compute() == 5


def test_batches_that_do_not_join_are_refused_by_name():
    metric = FunctionMetric(worst)
    metric.update(torch.zeros(2, 3), torch.zeros(2, 3))
    metric.update(torch.zeros(2, 4), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="metric 'worst': received batches of different shapes"):
        metric.compute()


def test_what_is_no_tensor_is_refused_by_name():
    with pytest.raises(TypeError, match="metric 'worst': received str; expected tensors"):
        FunctionMetric(worst).update(torch.zeros(2), ["a", "b"])


def test_much_on_an_accelerator_is_moved_to_main_memory(monkeypatch):
    metric = FunctionMetric(worst)
    moves = []
    monkeypatch.setattr(metric, "settle", lambda: moves.append(metric.waiting))
    monkeypatch.setattr(function, "ROOM", 1000)
    for _ in range(4):  # 400 bytes a batch, on a device that is not the CPU
        metric.update(torch.zeros(50, device="meta"), torch.zeros(50, device="meta"))
    assert moves == [1200, 1600]
    metric = FunctionMetric(worst)
    metric.update(torch.zeros(50), torch.zeros(50))
    assert metric.waiting == 0  # control: on the CPU nothing waits


def test_weights_of_a_loss_used_as_metric_stay_its_own():
    net = nn.Linear(2, 1)
    net.metric = FunctionMetric(nn.CrossEntropyLoss(weight=torch.ones(2)))
    assert sorted(net.state_dict()) == ["bias", "weight"]
    assert net.metric(torch.zeros(3, 2), torch.tensor([0, 1, 0])).item() == pytest.approx(0.6931, abs=1e-4)


def test_functions_of_scikit_learn_get_labels_first():
    from sklearn.metrics import precision_score, r2_score

    preds, labels = torch.tensor([1.0, 2.0, 4.0, 3.0]), torch.tensor([1.0, 2.5, 3.0, 3.0])
    assert r2_score(labels, preds) != pytest.approx(r2_score(preds, labels))  # else the order could not show
    metric = FunctionMetric(r2_score)
    metric.update(preds, labels)
    assert float(metric.compute()) == pytest.approx(r2_score(labels, preds))
    metric = FunctionMetric(precision_score)
    metric.update(torch.tensor([1, 1, 1, 0]), torch.tensor([1, 0, 1, 1]))
    assert float(metric.compute()) == pytest.approx(2 / 3)
    assert FunctionMetric(lambda preds, labels: preds.sum() - labels.sum()).fn(torch.ones(2), torch.zeros(2)) == 2
