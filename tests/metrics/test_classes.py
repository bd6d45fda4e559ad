"""Scores of several classes in precision, recall, F1 and the rankings: the numbers of scikit-learn and torchmetrics."""

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
import torch.nn.functional as F
import torchmetrics.functional.classification as tm
from torch import nn

from torchkeras import KerasModel
from torchkeras.metrics import AUC, AUCPR, F1, KS, Accuracy, Precision, Recall, TopK
from torchkeras.training import names
from torchkeras.training.task import task_of

N = 60
README = ["accuracy", "precision", "recall", "f1", "auc", "auc_pr", "ks"]
CE = task_of(nn.CrossEntropyLoss())


def data(kind, classes=5):
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, classes, (N,), generator=g)
    scores = torch.randn(N, classes, generator=g, dtype=torch.float64) + F.one_hot(labels, classes)
    if kind == "sorted":
        order = labels.argsort(stable=True)
        return scores[order], labels[order]
    if kind == "absent":  # class 1 is never true and never said, class 2 never true
        labels = torch.where((labels == 1) | (labels == 2), 0, labels)
        scores[:, 1] -= 100
    return scores, labels


def over_batches(metric, preds, labels, size):
    for a, b in zip(preds.split(size), labels.split(size), strict=True):
        metric.update(a, b)
    return metric.compute().item()


KINDS = pytest.mark.parametrize("kind", ["random", "sorted", "absent"])
SIZES = pytest.mark.parametrize("size", [1, 7, N])
DECISIONS = [("precision", sk.precision_score, tm.multiclass_precision), ("recall", sk.recall_score,
             tm.multiclass_recall), ("f1", sk.f1_score, tm.multiclass_f1_score)]


@KINDS
@SIZES
@pytest.mark.parametrize("average", ["macro", "micro"])
@pytest.mark.parametrize(("name", "reference", "other"), DECISIONS)
def test_averages_are_those_of_scikit_learn_and_torchmetrics(name, reference, other, average, size, kind):
    scores, labels = data(kind)
    found = over_batches(names.metric(f"{name}_{average}", task=CE), scores, labels, size)
    expected = reference(labels, scores.argmax(1), average=average, zero_division=0)
    assert found == pytest.approx(expected, abs=1e-12)
    assert found == pytest.approx(other(scores, labels, num_classes=5, average=average).item(), abs=1e-6)
    if average == "macro":
        assert over_batches(names.metric(name, task=CE), scores, labels, size) == found  # what the plain name means
        everything = reference(labels, scores.argmax(1), average=average, zero_division=0, labels=range(5))
        assert (abs(everything - found) > 1e-3) == (kind == "absent")  # control: absent classes as 0


@KINDS
@SIZES
def test_rankings_are_each_class_against_the_rest(kind, size):
    scores, labels = data(kind)
    shares, there = scores.softmax(1).numpy(), labels.unique()
    for metric, reference in ((AUC(), sk.roc_auc_score), (AUCPR(), sk.average_precision_score), (KS(), ks)):
        expected = np.mean([reference((labels == one).numpy(), shares[:, one]) for one in there])
        assert over_batches(metric, scores, labels, size) == pytest.approx(expected, abs=1e-12)
        metric.reset()
        assert over_batches(metric, scores.roll(1, 0), labels, size) != pytest.approx(expected, abs=1e-3)  # control
    if kind != "absent":
        assert AUC()(scores, labels).item() == pytest.approx(
            sk.roc_auc_score(labels, shares, multi_class="ovr"), abs=1e-12)
    assert AUC()(scores, labels).item() == pytest.approx(
        tm.multiclass_auroc(scores[:, there], torch.searchsorted(there, labels), num_classes=len(there)).item(),
        abs=0.02 if kind == "absent" else 1e-6)
    assert AUC(from_logits=False)(scores.softmax(1), labels).item() == pytest.approx(AUC()(scores, labels).item())


def ks(labels, scores):
    false, true, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    return np.abs(true - false).max()


@pytest.mark.parametrize("size", [1, 7, N])
def test_of_two_columns_the_second_is_the_positive_class(size):
    scores, labels = data("random", classes=2)
    margin = scores[:, 1] - scores[:, 0]
    for kind in (Precision, Recall, F1, AUC, AUCPR, KS):
        expected = over_batches(kind(), margin, labels, size)
        assert over_batches(kind(), scores, labels, size) == pytest.approx(expected, abs=1e-12)
        assert over_batches(kind(from_logits=False), scores.softmax(1), labels, size) == pytest.approx(expected)
        assert over_batches(kind(), scores.log_softmax(1), labels, size) == pytest.approx(expected)
        assert over_batches(kind(), scores, labels.roll(1), size) != pytest.approx(expected, abs=1e-3)  # control
    assert Precision()(scores, labels).item() == pytest.approx(sk.precision_score(labels, scores.argmax(1)))
    assert F1(average="macro")(scores, labels).item() == pytest.approx(
        sk.f1_score(labels, scores.argmax(1), average="macro"))
    assert Recall(0.8)(scores, labels).item() == pytest.approx(
        sk.recall_score(labels, scores.softmax(1)[:, 1] > 0.8))


def test_segmentations_count_every_place():
    g = torch.Generator().manual_seed(1)
    scores, labels = torch.randn(3, 4, 5, 6, generator=g), torch.randint(0, 4, (3, 5, 6), generator=g)
    said = scores.argmax(1).flatten()
    assert F1()(scores, labels).item() == pytest.approx(sk.f1_score(labels.flatten(), said, average="macro"))
    assert Recall(average="micro")(scores, labels) == Accuracy()(scores, labels)
    flat = scores.movedim(1, -1).reshape(-1, 4)
    assert AUC()(scores, labels).item() == pytest.approx(
        sk.roc_auc_score(labels.flatten(), flat.double().softmax(1), multi_class="ovr"))
    assert F1()(scores.flip(1), labels) != F1()(scores, labels)  # control


def test_every_name_of_the_readme_works_on_its_first_net():
    torch.manual_seed(0)
    x = torch.randn(200, 2)
    y = (x.norm(dim=1) < 1).long()
    net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 2))
    net[2].bias.data = -net(x).detach().mean(0)  # so that both classes are said
    found = KerasModel(net, "cross_entropy", README).evaluate((x, y), batch_size=33)
    margin = net(x).detach().diff(dim=1)[:, 0]
    said = margin > 0
    expected = {"accuracy": sk.accuracy_score(y, said), "precision": sk.precision_score(y, said),
                "recall": sk.recall_score(y, said), "f1": sk.f1_score(y, said), "auc": sk.roc_auc_score(y, margin),
                "auc_pr": sk.average_precision_score(y, margin), "ks": ks(y, margin)}
    assert {name: found[f"val_{name}"] for name in README} == pytest.approx(expected)


@pytest.mark.parametrize("name", ["mae", "mse", "rmse", "mape", "r2"])
@pytest.mark.parametrize("loss", ["cross_entropy", "bce_with_logits", "nll"])
def test_errors_of_numbers_are_refused_where_predictions_are_logits(name, loss):
    with pytest.raises(ValueError, match=f"metrics_dict: received '{name}' with a loss of .* predictions are log"):
        KerasModel(nn.Linear(2, 2), loss, [name])
    KerasModel(nn.Linear(2, 2), "mse", [name])  # control


def test_top_5_of_fewer_classes_names_the_way_out():
    with pytest.raises(ValueError, match=r"k: received 5; expected at most .* 2. Give a metric object .*TopK\(2\)"):
        KerasModel(nn.Linear(2, 2), "cross_entropy", ["top_5"]).evaluate((torch.zeros(4, 2), torch.zeros(4).long()))


def test_an_average_needs_classes_and_a_threshold_needs_two():
    with pytest.raises(ValueError, match=r"average: received 'macro' for predictions of shape \(4,\)"):
        F1(average="macro").update(torch.zeros(4), torch.zeros(4))
    with pytest.raises(ValueError, match="threshold: received 0.7 with scores of 3 classes"):
        F1(0.7).update(torch.zeros(4, 3), torch.zeros(4).long())
    with pytest.raises(ValueError, match="average: received 'makro'.*Did you mean 'macro'"):
        F1(average="makro")


@pytest.mark.parametrize("make", [Precision, F1, AUC, KS])
def test_a_label_that_is_no_class_is_refused(make):
    metric = make()
    metric.update(torch.zeros(3, 3), torch.tensor([0, 1, 255]))
    with pytest.raises(ValueError, match=r"labels: received .*; expected classes from 0 to 2. .*ignore_index"):
        metric.compute()
    again = make(ignore_index=255)
    again.update(torch.zeros(3, 3), torch.tensor([0, 1, 255]))
    assert again.compute().isfinite()


# (B, T, C) and (B, C, T)

SEQUENCES = [Accuracy, lambda **more: TopK(2, **more), Precision, Recall, F1, AUC]


@pytest.mark.parametrize("make", SEQUENCES)
def test_classes_may_be_last_or_second(make):
    g = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(4, 6, 3, generator=g), torch.randint(0, 3, (4, 6), generator=g)
    expected = make()(scores.reshape(-1, 3), labels.reshape(-1))
    assert make()(scores, labels) == expected == make()(scores.movedim(-1, 1), labels)
    assert make()(scores, labels.roll(1, 1)) != expected  # control


@pytest.mark.parametrize("make", SEQUENCES)
def test_where_both_fit_somebody_must_say_which(make):
    g = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(4, 3, 3, generator=g), torch.randint(0, 3, (4, 3), generator=g)
    second, last = make(axis=1)(scores, labels), make(axis=-1)(scores, labels)
    assert last == make()(scores.reshape(-1, 3), labels.reshape(-1)) != second
    assert make(task=CE)(scores, labels) == second
    assert make(task=task_of(None))(scores, labels) == last
    with pytest.raises(ValueError, match=r"axis: received scores of shape \(4, 3, 3\) .*axis=1 or axis=-1"):
        make().update(scores, labels)


class Tagger(nn.Module):
    """A net with a loss of its own, as those of transformers have."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 4)

    def forward(self, batch):
        logits = self.head(batch["x"])
        return {"loss": F.cross_entropy(logits.reshape(-1, 4), batch["labels"].reshape(-1)), "logits": logits}


def test_a_net_with_its_own_loss_has_its_classes_last():
    torch.manual_seed(0)
    x, labels = torch.randn(8, 4, 5), torch.randint(0, 4, (8, 4))  # as many places as classes
    labels[:, -1] = -100
    net = Tagger()
    found = KerasModel(net, None, ["accuracy", "f1", "top_k"][:2]).evaluate([{"x": x, "labels": labels}])
    said, known = net.head(x).argmax(-1), labels >= 0
    assert found["val_accuracy"] == pytest.approx((said == labels)[known].float().mean().item())
    assert found["val_f1"] == pytest.approx(sk.f1_score(labels[known], said[known], average="macro"))
