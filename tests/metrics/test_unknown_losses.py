"""A loss of unknown make does not say what predictions are: the whole pass does."""

import math

import pytest
import sklearn.metrics as sk
import torch
import torch.nn.functional as F
from torch import nn

from torchkeras import KerasModel, losses
from torchkeras.distributed import reducible_metrics
from torchkeras.metrics import AUC, AUCPR, F1, KS, Accuracy, Precision, Recall, Task
from torchkeras.training.task import task_of

NAMES = ["accuracy", "precision", "recall", "f1"]
UNKNOWN = Task(from_logits=None)


def dice(preds, labels):
    return 1 - 2 * (preds * labels).sum() / (preds.sum() + labels.sum())


def own_entropy(preds, labels):
    return F.binary_cross_entropy(preds, labels)


def own_entropy_of_logits(preds, labels):
    return F.binary_cross_entropy_with_logits(preds, labels)


class OwnLoss(nn.Module):
    def forward(self, preds, labels):
        return F.binary_cross_entropy(preds, labels)


class OwnKind(losses.Loss):
    """A subclass of the library's loss that says nothing of a task."""

    def values(self, preds, labels):
        return F.binary_cross_entropy(preds, labels, reduction="none")


class WithOwnLoss(nn.Module):
    """A net that brings its own loss, and puts out probabilities."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, labels=None):
        preds = self.net(x)
        return {"logits": preds, "loss": F.binary_cross_entropy(preds, labels)}


def data():
    g = torch.Generator().manual_seed(1)
    return torch.randn(36, 5, generator=g), (torch.rand(36, 1, generator=g) > 0.6).float()


def net_of_logits():
    torch.manual_seed(3)
    return nn.Linear(5, 1)


def net_of_probabilities():
    return nn.Sequential(net_of_logits(), nn.Sigmoid())


def by_hand(net, cut):
    """Count the four cells in a plain loop."""
    x, y = data()
    cells = {(said, true): 0 for said in (True, False) for true in (True, False)}
    for score, label in zip(net(x).flatten().tolist(), y.flatten().tolist(), strict=True):
        cells[score > cut, label == 1] += 1
    hit, alarm, miss = cells[True, True], cells[True, False], cells[False, True]
    return {"val_accuracy": (hit + cells[False, False]) / len(x), "val_precision": hit / (hit + alarm),
            "val_recall": hit / (hit + miss), "val_f1": 2 * hit / (2 * hit + alarm + miss)}


@pytest.mark.filterwarnings("ignore:loss_fn. no mean")
@pytest.mark.parametrize("size", [1, 5, 36])
@pytest.mark.parametrize("loss", [dice, own_entropy, OwnLoss(), OwnKind()], ids=["dice", "bce", "module", "kind"])
def test_of_probabilities_a_yes_begins_above_one_half(loss, size):
    net = net_of_probabilities()
    found = KerasModel(net, loss, NAMES).evaluate(data(), batch_size=size)
    found.pop("val_loss")
    assert found == pytest.approx(by_hand(net, 0.5))
    assert found != pytest.approx(by_hand(net, 0))  # control: read as logits


@pytest.mark.parametrize("size", [1, 5, 36])
def test_of_logits_a_yes_begins_above_zero(size):
    net = net_of_logits()
    found = KerasModel(net, own_entropy_of_logits, NAMES).evaluate(data(), batch_size=size)
    found.pop("val_loss")
    assert found == pytest.approx(by_hand(net, 0))
    assert found != pytest.approx(by_hand(net, 0.5))  # control


def test_a_net_with_its_own_loss_may_put_out_probabilities():
    x, y = data()
    net = net_of_probabilities()
    batches = [{"x": a, "labels": b} for a, b in zip(x.split(7), y.split(7), strict=True)]
    found = KerasModel(WithOwnLoss(net), None, NAMES).evaluate(batches)
    found.pop("val_loss")
    assert found == pytest.approx(by_hand(net, 0.5))


def test_training_counts_as_evaluation_does():
    x, y = data()
    net = net_of_probabilities()
    model = KerasModel(net, dice, NAMES, torch.optim.SGD(net.parameters(), lr=1e-9))
    model.fit((x, y), (x, y), epochs=1, batch_size=36, ckpt_path=None, quiet=True)
    for stage in ("train", "val"):
        for name, value in by_hand(net, 0.5).items():
            assert model.history[f"{stage}_{name.removeprefix('val_')}"] == pytest.approx([value])


PREDS = torch.tensor([0.3, 0.9, 0.2, 0.6, 0.7, -2.0])  # only the last cannot be a probability
LABELS = torch.tensor([1, 1, 0, 1, 0, 0])
METRICS = [(Accuracy, 4 / 6, 3 / 5), (Precision, 3 / 5, 2 / 3), (Recall, 1.0, 2 / 3), (F1, 6 / 8, 2 / 3)]


def over_batches(metric, preds, labels, size):
    for a, b in zip(preds.split(size), labels.split(size), strict=True):
        metric.update(a, b)
    return metric.compute().item()


@pytest.mark.parametrize(("kind", "with_last", "without_last"), METRICS)
@pytest.mark.parametrize("size", [1, 2, 6])
def test_one_prediction_that_is_no_probability_makes_logits_of_all(kind, with_last, without_last, size):
    assert over_batches(kind(task=UNKNOWN), PREDS, LABELS, size) == pytest.approx(with_last)
    assert over_batches(kind(task=UNKNOWN), PREDS[:5], LABELS[:5], size) == pytest.approx(without_last)


@pytest.mark.parametrize(("kind", "with_last", "without_last"), METRICS)
def test_several_processes_decide_together(kind, with_last, without_last):
    parts = [kind(task=UNKNOWN), kind(task=UNKNOWN)]
    parts[0].update(PREDS[:5], LABELS[:5])
    parts[1].update(PREDS[5:], LABELS[5:])
    joined = reducible_metrics.reduced(parts[0], [reducible_metrics.local_state(one) for one in parts], [[0], [1]])
    assert joined.compute().item() == pytest.approx(with_last)
    assert parts[0].compute().item() == pytest.approx(without_last)  # control: the first process alone


def test_the_number_of_a_single_batch_and_a_reset_go_by_what_they_have():
    metric = Recall(task=UNKNOWN)
    assert metric(PREDS, LABELS) == 1
    assert metric(PREDS[:5], LABELS[:5]).item() == pytest.approx(2 / 3)
    assert metric.compute() == 1  # the first batch is in it
    metric.reset()
    metric.update(PREDS[:5], LABELS[:5])
    assert metric.compute().item() == pytest.approx(2 / 3)


def test_a_prediction_that_is_nan_says_nothing_of_the_others():
    preds = torch.cat([PREDS[:5], torch.tensor([math.nan])])
    assert Accuracy(task=UNKNOWN)(preds, LABELS).item() == pytest.approx(3 / 6)


def test_of_two_columns_rows_that_add_up_to_one_are_probabilities():
    logits = torch.tensor([[1.0, 0.5], [0.2, 0.9], [0.6, 0.1], [0.3, 0.3]])
    labels = torch.tensor([1, 1, 0, 1])
    shares = torch.tensor([[0.6, 0.4], [0.1, 0.9], [0.8, 0.2], [0.75, 0.25]])
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert Recall(0.3, task=UNKNOWN)(shares.to(dtype), labels).item() == pytest.approx(2 / 3)
    assert Recall(0.3, from_logits=True)(shares, labels) == 1  # control: the same as logits
    # logits within 0..1 that do not add up to 1: of a yes, sigmoid(yes - no) is 0.38, 0.67, 0.5
    assert Recall(0.3, task=UNKNOWN)(logits, labels) == 1
    assert Recall(0.3, from_logits=False)(logits, labels) == 1
    assert Recall(0.45, task=UNKNOWN)(logits, labels).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("kind", [AUC, AUCPR, KS])
@pytest.mark.parametrize("size", [1, 7, 60])
@pytest.mark.parametrize("classes", [2, 4])
def test_scores_of_classes_are_ranked_as_what_they_are(kind, size, classes):
    g = torch.Generator().manual_seed(2)
    logits, labels = 3 * torch.randn(60, classes, generator=g), torch.randint(0, classes, (60,), generator=g)
    right = kind(from_logits=True)(logits, labels).item()
    assert over_batches(kind(task=UNKNOWN), logits, labels, size) == pytest.approx(right)
    shares = logits.softmax(1)
    right = kind(from_logits=False)(shares, labels).item()
    assert over_batches(kind(task=UNKNOWN), shares, labels, size) == pytest.approx(right, abs=1e-12)
    assert over_batches(kind(task=UNKNOWN), shares.bfloat16(), labels, size) == pytest.approx(
        kind(from_logits=False)(shares.bfloat16(), labels).item(), abs=1e-12)


def test_the_auc_of_probabilities_of_several_classes_is_that_of_scikit_learn():
    g = torch.Generator().manual_seed(4)
    shares, labels = (2 * torch.randn(50, 3, generator=g)).softmax(1), torch.randint(0, 3, (50,), generator=g)
    model = KerasModel(nn.Identity(), lambda preds, labels: F.nll_loss(preds.log(), labels), ["auc"])
    found = model.evaluate((shares, labels), batch_size=8)["val_auc"]
    right = sk.roc_auc_score(labels, shares, multi_class="ovr")
    assert found == pytest.approx(right, abs=1e-9)
    assert found != pytest.approx(sk.roc_auc_score(labels, shares.softmax(1), multi_class="ovr"), abs=1e-6)  # control


def test_tiny_probabilities_of_two_classes_are_not_made_equal():
    shares = torch.tensor([[1.0, 1e-10], [1.0, 3e-10], [1.0, 2e-10], [1.0, 4e-10]])
    assert AUC(task=UNKNOWN)(shares, torch.tensor([0, 1, 0, 1])) == 1
    assert AUC(from_logits=True)(shares, torch.tensor([0, 1, 0, 1])) == 0.5  # control: all differences are -1


@pytest.mark.parametrize(("loss", "expected"), [
    (nn.BCEWithLogitsLoss(), True), (nn.BCELoss(), False), (losses.FocalLoss(), False), (nn.CrossEntropyLoss(), True),
    (nn.MultiLabelMarginLoss(), True), (dice, None), (OwnLoss(), None), (OwnKind(), None), (None, None)])
def test_what_a_loss_says_of_logits(loss, expected):
    assert task_of(loss).from_logits is expected


@pytest.mark.parametrize("kind", [Accuracy, Precision, AUC])
def test_a_metric_that_knows_its_reading_counts_nothing_more(kind):
    assert "outside" not in kind().state()
    assert "outside" not in kind(task=task_of(nn.BCELoss())).state()
    assert "outside" in kind(task=UNKNOWN).state()  # control
