"""What labels mean: one-hot and mixed ones, and those that mean "not known"."""

import functools
import math

import pytest
import sklearn.metrics as sk
import torch
import torch.nn.functional as F
from torch import nn

from torchkeras import KerasModel, Model, losses
from torchkeras.checkpoint import metric_state
from torchkeras.distributed import reducible_metrics
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
    BinaryAccuracy,
    MeanLoss,
    Precision,
    Recall,
    Task,
    TopK,
)
from torchkeras.training import names
from torchkeras.training.task import task_for, task_of

N, NAN = 40, math.nan


def over_batches(metric, preds, labels, size):
    for a, b in zip(preds.split(size), labels.split(size), strict=True):
        metric.update(a, b)
    return metric.compute().item()


def over_processes(make, preds, labels, size):
    """The number of two processes that take turns with the batches."""
    parts, counted = [make(), make()], [[], []]
    for number, (a, b) in enumerate(zip(preds.split(size), labels.split(size), strict=True)):
        parts[number % 2].update(a, b)
        counted[number % 2].append(number)
    packs = [reducible_metrics.local_state(one) for one in parts]
    return reducible_metrics.reduced(parts[0], packs, counted).compute().item()


# What the loss says

def classes():
    g = torch.Generator().manual_seed(0)
    x, numbers = torch.randn(N, 4, generator=g), torch.randint(0, 4, (N,), generator=g)
    mixed = 0.7 * F.one_hot(numbers, 4) + 0.3 * F.one_hot(numbers.roll(1), 4)
    return x, numbers, mixed


def with_penalty(net):
    return nn.CrossEntropyLoss() + losses.L2Loss(net, 0.1)


@pytest.mark.parametrize("loss", [
    lambda net: "cross_entropy", lambda net: nn.CrossEntropyLoss(label_smoothing=0.1), lambda net: F.cross_entropy,
    lambda net: functools.partial(F.cross_entropy, label_smoothing=0.1), with_penalty,
    lambda net: losses.CategoricalCrossentropy(from_logits=True)])
def test_labels_of_the_shape_of_the_predictions_are_read_as_the_loss_reads_them(loss):
    torch.manual_seed(0)
    net, (x, numbers, mixed) = nn.Linear(4, 4), classes()
    said, truth = net(x).argmax(1), mixed.argmax(1)
    assert torch.equal(truth, numbers)
    model = KerasModel(net, loss(net), {"acc": "accuracy", "f1": "f1", "recall": "recall_macro", "top": TopK(
        2, one_hot=True), "auc": "auc"})
    found = model.evaluate((x, mixed), batch_size=7)
    assert found["val_acc"] == pytest.approx(sk.accuracy_score(truth, said))
    assert found["val_f1"] == pytest.approx(sk.f1_score(truth, said, average="macro"))
    assert found["val_recall"] == pytest.approx(sk.recall_score(truth, said, average="macro"))
    assert found["val_auc"] == pytest.approx(sk.roc_auc_score(truth, net(x).detach().double().softmax(1),
                                                              multi_class="ovr"))
    assert found["val_top"] == pytest.approx(sk.top_k_accuracy_score(truth, net(x).detach(), k=2))
    cells = ((net(x) > 0) == (mixed >= 0.5)).double().mean().item()
    assert abs(found["val_acc"] - cells) > 0.1  # control: what was counted before


@pytest.mark.parametrize(("loss", "column"), [("cross_entropy", 4), ("bce_with_logits", 4), ("nll", 4),
                                              ("bce_with_logits", 1)])
def test_model_and_kerasmodel_say_the_same(loss, column):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, column), nn.LogSoftmax(1) if loss == "nll" else nn.Identity())
    x, numbers, mixed = classes()
    y = numbers if loss == "nll" else mixed if column > 1 else (numbers[:, None] > 1).float()
    wanted = ["accuracy", "precision", "recall", "f1", "auc"]
    keras = Model(net)
    keras.compile("sgd", loss, wanted)
    one, two = KerasModel(net, loss, wanted).evaluate((x, y)), keras.evaluate(x, y, return_dict=True)
    assert [one[f"val_{name}"] for name in wanted] == [two[name] for name in wanted]


def test_with_binary_losses_each_column_is_a_yes_or_a_no():
    torch.manual_seed(0)
    net, (x, _, mixed) = nn.Linear(4, 4), classes()
    cells = ((net(x) > 0) == (mixed >= 0.5)).double().mean().item()
    for loss in ("bce_with_logits", functools.partial(F.binary_cross_entropy_with_logits, reduction="mean")):
        found = KerasModel(net, loss, ["accuracy"]).evaluate((x, mixed))
        assert found["val_accuracy"] == pytest.approx(cells)


def test_a_loss_that_says_nothing_is_asked_for_words():
    net, (x, _, mixed) = nn.Linear(4, 4), classes()

    def own(preds, labels):
        return (preds - labels).square().mean()

    for name in ("accuracy", "f1", "auc"):
        with pytest.raises(ValueError, match=r"labels of the shape of the predictions, \(32, 4\).*one_hot=True"):
            KerasModel(net, own, [name]).evaluate((x, mixed))
    KerasModel(net, own, {"acc": Accuracy(one_hot=True)}).evaluate((x, mixed))
    with pytest.raises(ValueError, match=r"received 'accuracy' with a loss of numbers.*Accuracy\(from_logits=False\)"):
        KerasModel(net, "mse", ["accuracy"])


def test_an_object_says_itself_what_labels_are():
    _, numbers, mixed = classes()
    scores = F.one_hot(numbers.roll(N // 2), 4) - 0.5
    right = (numbers.roll(N // 2) == numbers).double().mean()
    assert Accuracy(one_hot=True)(scores, mixed) == right
    assert Accuracy()(scores, mixed) == ((scores > 0) == (mixed >= 0.5)).double().mean() != right
    assert Accuracy(one_hot=True, axis=1)(scores.T[None].movedim(-1, -1), mixed.T[None]) == right
    with pytest.raises(ValueError, match="axis: received one-hot labels"):
        Accuracy(one_hot=True).update(scores[None], mixed[None])


@pytest.mark.parametrize(("loss", "expected"), [
    (nn.CrossEntropyLoss(ignore_index=7), Task("classes", one_hot=True, likely_axis=1, ignore_index=7)),
    (functools.partial(F.cross_entropy, ignore_index=0), Task("classes", one_hot=True, likely_axis=1, ignore_index=0)),
    (nn.CrossEntropyLoss() + losses.L2Loss(nn.Linear(1, 1), 0.1),
     Task("classes", one_hot=True, likely_axis=1, ignore_index=-100)),
    (losses.SparseCategoricalCrossentropy(), Task("classes", False, True, likely_axis=-1)),
    (nn.BCELoss(), Task("binary", False, False)), (F.binary_cross_entropy_with_logits, Task("binary", True, False)),
    (losses.FocalLoss(from_logits=True), Task("binary", True, False)),
    (nn.SoftMarginLoss(), Task("binary", one_hot=False, signed=True)), (nn.L1Loss(), Task("numbers")),
    (None, Task(from_logits=None, likely_axis=-1)), (lambda preds, labels: 0, Task(from_logits=None))])
def test_what_a_loss_says(loss, expected):
    assert task_of(loss) == expected


def test_in_keras_the_caller_says_what_the_loss_does_not():
    assert task_for(nn.MSELoss(), False).from_logits is False
    assert task_for(nn.CrossEntropyLoss(), False).from_logits is True
    assert task_for(lambda preds, labels: 0, False) == Task(from_logits=False)


class Half(nn.Module):
    """Gives each sample a probability of exactly one half."""

    def forward(self, x):
        return torch.full((len(x), 1), 0.5) + 0 * x[:, :1]


def test_a_probability_of_one_half_is_a_no_everywhere():
    x, y = torch.zeros(4, 2), torch.tensor([[0.0], [1.0], [1.0], [1.0]])
    model = KerasModel(Half(), "bce", ["accuracy", "recall"])
    assert model.predict(x, output="classes").sum() == 0
    found = model.evaluate((x, y))
    assert [found["val_accuracy"], found["val_recall"]] == [0.25, 0.0]
    assert IOU(2, from_logits=False)(Half()(x), y) == pytest.approx((1 / 4 + 0) / 2)
    keras = Model(Half())
    keras.compile(loss="binary_crossentropy", metrics=["accuracy", "binary_accuracy"])
    assert keras.evaluate(x, y)[1:] == [0.25, 0.25]


# What is not known

def binary(unknown, zeros=True):
    """Scores and labels, of which a third are not known; and which are."""
    g = torch.Generator().manual_seed(3)
    scores = torch.randn(N, generator=g, dtype=torch.float64)
    truth = (scores + torch.randn(N, generator=g, dtype=torch.float64) > 0.4).double()
    known = torch.rand(N, generator=g) > 0.33
    return scores, torch.where(known, truth if zeros else 2 * truth - 1, unknown), truth, known


BINARY = [
    (Accuracy, lambda y, s: sk.accuracy_score(y, s > 0)), (BinaryAccuracy, lambda y, s: sk.accuracy_score(y, s > 0)),
    (Precision, lambda y, s: sk.precision_score(y, s > 0)), (Recall, lambda y, s: sk.recall_score(y, s > 0)),
    (F1, lambda y, s: sk.f1_score(y, s > 0)), (AUC, sk.roc_auc_score), (AUCPR, sk.average_precision_score),
    (KS, lambda y, s: abs(sk.roc_curve(y, s)[0] - sk.roc_curve(y, s)[1]).max())]
SIZES = pytest.mark.parametrize("size", [1, 3, N])


@SIZES
@pytest.mark.parametrize("unknown", [NAN, -1.0, -100.0, -999.0])
@pytest.mark.parametrize(("make", "reference"), BINARY)
def test_labels_that_are_not_known_are_left_out(make, reference, unknown, size):
    scores, labels, truth, known = binary(unknown)
    expected = reference(truth[known], scores[known])
    assert over_batches(make(), scores, labels, size) == pytest.approx(expected, abs=1e-12)
    assert over_processes(make, scores, labels, size) == pytest.approx(expected, abs=1e-12)
    as_no = reference(torch.where(known, truth, 0), scores)  # what was counted before
    assert (as_no == pytest.approx(expected, abs=1e-3)) == (make is Recall)  # control: a no does not change recall


@SIZES
@pytest.mark.parametrize(("make", "reference"), BINARY)
def test_without_a_zero_minus_one_means_no(make, reference, size):
    scores, labels, truth, known = binary(NAN, zeros=False)
    expected = reference(truth[known], scores[known])
    assert set(labels[known].tolist()) == {-1.0, 1.0}
    assert over_batches(make(), scores, labels, size) == pytest.approx(expected, abs=1e-12)
    assert over_processes(make, scores, labels, size) == pytest.approx(expected, abs=1e-12)
    assert over_batches(make(), scores, labels.roll(1), size) != pytest.approx(expected, abs=1e-3)  # control


@pytest.mark.parametrize("kind", [Accuracy, Precision, AUC])
def test_the_pass_decides_not_the_batch(kind):
    """The first batch alone looks like -1 and 1; the zero comes in the last."""
    scores, labels = torch.tensor([3.0, 2.0, -1.0, -2.0]), torch.tensor([-1.0, 1.0, -1.0, 0.0])
    assert over_batches(kind(), scores, labels, 2) == 1.0
    assert kind()(scores[:3], labels[:3]) < 1  # control: without the zero, -1 is a no


def test_a_loss_of_minus_one_and_one_learns_nothing_from_zero():
    labels = torch.tensor([1.0, -1.0, 0.0])
    scores = torch.tensor([1.0, -1.0, 5.0], requires_grad=True)
    nn.SoftMarginLoss()(scores, labels).backward()
    assert scores.grad[2] == 0
    assert names.metric("accuracy", task=task_of(nn.SoftMarginLoss()))(scores, labels) == 1.0
    assert names.metric("auc", task=task_of(nn.SoftMarginLoss()))(scores, labels) == 1.0
    assert Accuracy()(scores, labels) == 0.5  # control: 0 is the no, -1 is left out


@pytest.mark.parametrize("make", [Accuracy, Precision, F1, AUC, AUCPR, KS, BinaryAccuracy])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.uint8])
def test_numbers_that_are_no_answer_are_refused_unless_they_are_ignored(make, dtype):
    scores, labels = torch.tensor([1.0, -1.0, 3.0]), torch.tensor([1, 0, 255]).to(dtype)
    metric = make()
    metric.update(scores, labels)
    with pytest.raises(ValueError, match=r"labels: received 1 labels that are neither positive nor negative.*ignore_index"):
        metric.compute()
    assert make(task=Task(ignore_index=255))(scores, labels) == 1.0


def test_unsigned_labels_are_never_taken_for_negative_ones():
    labels = torch.tensor([1, 0, 156, 255], dtype=torch.uint8)  # 156 - 256 is -100
    with pytest.raises(ValueError, match="received 2 labels"):
        Accuracy()(torch.zeros(4), labels)
    scores = torch.zeros(2, 300)
    scores[:, 156] = 1
    assert Accuracy()(scores, labels[2:]) == 0.5
    assert TopK(1)(scores, labels[2:]) == 0.5


@SIZES
@pytest.mark.parametrize("ignored", [-100, 0, 255, 2])
def test_classes_that_the_loss_ignores_are_left_out(ignored, size):
    g = torch.Generator().manual_seed(0)
    scores, numbers = torch.randn(N, 5, generator=g), torch.randint(0, 5, (N,), generator=g)
    labels = torch.where(torch.rand(N, generator=g) > 0.6, ignored, numbers)
    known = labels != ignored
    task = task_of(nn.CrossEntropyLoss(ignore_index=ignored))
    for name in ("accuracy", "precision", "recall", "f1", "f1_micro", "auc", "auc_pr", "ks"):
        expected = over_batches(names.metric(name), scores[known], labels[known], N)
        assert over_batches(names.metric(name, task=task), scores, labels, size) == pytest.approx(expected)
        if 0 <= ignored < 5:
            assert over_batches(names.metric(name), scores, labels, N) != pytest.approx(expected)  # control
    assert TopK(2, task=task)(scores, labels) == TopK(2)(scores[known], labels[known])
    assert IOU(5, ignore_index=ignored)(scores, labels) == IOU(5)(scores[known], labels[known])


def test_a_model_leaves_out_what_its_loss_leaves_out():
    torch.manual_seed(0)
    net, x, y = nn.Linear(4, 3), torch.randn(30, 4), torch.arange(30) % 3
    right = (net(x).argmax(1) == y)[y != 0].double().mean().item()
    for loss in (nn.CrossEntropyLoss(ignore_index=0), functools.partial(F.cross_entropy, ignore_index=0)):
        assert KerasModel(net, loss, ["accuracy"]).evaluate((x, y))["val_accuracy"] == pytest.approx(right)
    keras = Model(net)
    keras.compile("sgd", nn.CrossEntropyLoss(ignore_index=0), ["accuracy", "sparse_categorical_accuracy"])
    assert keras.evaluate(x, y)[1:] == pytest.approx([right, right])
    everything = KerasModel(net, "cross_entropy", ["accuracy"]).evaluate((x, y))["val_accuracy"]
    assert everything != pytest.approx(right)  # control


def test_rows_of_one_hot_labels_that_are_empty_or_nan_are_left_out():
    scores = torch.tensor([[2.0, 1.0], [2.0, 1.0], [2.0, 1.0]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [NAN, 1.0]])
    for metric in (Accuracy(one_hot=True), TopK(1, one_hot=True), Recall(one_hot=True, average="micro")):
        assert metric(scores, labels) == 1.0
        assert metric(scores, torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])) < 1  # control


def test_numbers_whose_label_is_nan_are_left_out_at_any_split():
    g = torch.Generator().manual_seed(0)
    labels = 3 + torch.randn(N, 2, generator=g, dtype=torch.float64)
    preds = labels + torch.randn(N, 2, generator=g, dtype=torch.float64)
    holes = labels.clone()
    holes[torch.rand(N, 2, generator=g) > 0.7] = NAN
    holes[:4] = NAN  # whole batches without a label
    known = ~holes.isnan()
    references = {MAE: sk.mean_absolute_error, MSE: sk.mean_squared_error, RMSE: sk.root_mean_squared_error,
                  MAPE: sk.mean_absolute_percentage_error}
    for size in (1, 3, N):
        for kind, reference in references.items():
            expected = reference(labels[known], preds[known])
            assert over_batches(kind(), preds, holes, size) == pytest.approx(expected)
        expected = sum(sk.r2_score(labels[known[:, one], one], preds[known[:, one], one]) for one in (0, 1)) / 2
        assert over_batches(R2(), preds, holes, size) == pytest.approx(expected)
        assert over_processes(R2, preds, holes, size) == pytest.approx(expected)
    for kind in (MAE, R2):
        assert kind()(torch.where(known, preds, NAN), holes) == kind()(preds, holes)
        assert kind()(torch.where(known, NAN, preds), holes).isnan()  # control: a prediction that is NaN shows
        assert kind()(preds, torch.full_like(holes, NAN)).isnan()


@pytest.mark.parametrize("kind", [Accuracy, BinaryAccuracy, Precision, Recall, F1])
def test_a_prediction_that_is_nan_is_never_right(kind):
    truth = torch.tensor([0.0, 1.0, 1.0, 0.0])
    sound = kind()(torch.tensor([-1.0, 1.0, 1.0, -1.0]), truth)
    assert sound == 1.0
    for spoilt in (0, 1):
        preds = torch.tensor([-1.0, 1.0, 1.0, -1.0])
        preds[spoilt] = NAN
        assert kind()(preds, truth) <= (1 if kind in (Precision, Recall, F1) else 0.75)
    assert kind()(torch.full((4,), NAN), truth) == 0.0


def test_a_row_with_nan_is_no_right_class():
    scores = torch.tensor([[NAN, 0.0, 1.0], [0.0, NAN, 1.0], [0.0, 1.0, 0.0]])
    labels = torch.tensor([0, 1, 1])
    assert Accuracy()(scores, labels) == pytest.approx(1 / 3)
    assert Recall(average="micro")(scores, labels) == pytest.approx(1 / 3)
    assert IOU(3)(scores, labels) == pytest.approx((0 + 1 / 2) / 2)
    assert AUC()(scores, labels).isnan()
    assert IOU(2)(torch.tensor([NAN, 1.0]), torch.tensor([0, 1])) == 0.5


def test_iou_and_top_k_leave_out_nan_labels():
    scores = torch.eye(3)
    labels = torch.tensor([0.0, 1.0, NAN])
    assert IOU(3)(scores, labels) == 1.0
    assert TopK(1)(scores, labels) == 1.0
    assert Accuracy()(scores, labels) == 1.0
    assert Accuracy()(scores, torch.tensor([0.0, 1.0, 0.0])) < 1  # control


def test_a_watched_loss_divides_as_the_loss_does():
    g = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(N, 3, generator=g), torch.randint(0, 3, (N,), generator=g)
    labels[::3] = -100
    for loss in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.5]))):
        assert over_batches(MeanLoss(loss), scores, labels, 7) == pytest.approx(loss(scores, labels).item(), rel=1e-6)
    holes = torch.tensor([1.0, NAN, 3.0])
    assert MeanLoss(nn.L1Loss())(torch.zeros(3), holes) == 2.0
    assert MeanLoss(nn.L1Loss())(torch.tensor([NAN, 0, 0]), holes).isnan()  # control


def test_what_version_5_0_had_counted_in_mid_epoch_goes_on():
    scores, labels = torch.tensor([1.0, 1.0, -1.0, 2.0]), torch.tensor([1.0, 0.0, 0.0, 1.0])
    sums = {"counts": torch.tensor([1, 3, 4]), "seen": torch.tensor(6)}
    states = {Precision: (sums, 3 / 6), Recall: (sums, 3 / 6), Accuracy: ({"correct": torch.tensor(5),
                          "seen": torch.tensor(6)}, 8 / 10),
              AUC: ({"scores": [torch.tensor([3.0, 0.0])], "labels": [torch.tensor([True, False])]},
                    sk.roc_auc_score([1, 0, 1, 0, 0, 1], [3.0, 0.0, 1.0, 1.0, -1.0, 2.0]))}
    for kind, (kept, expected) in states.items():
        metric = kind()
        metric_state.load_metric_state_dict(metric, {"kept": kept, "lists": metric.lists, "learned": {}})
        metric.update(scores, labels)
        assert metric.compute().item() == pytest.approx(expected)
        assert kind()(scores, labels) != pytest.approx(expected)  # control


def test_a_state_of_several_classes_goes_on():
    g = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(N, 4, generator=g), torch.randint(0, 4, (N,), generator=g)
    for make in (F1, AUC):
        first, second = make(), make()
        first.update(scores[:10], labels[:10])
        metric_state.load_metric_state_dict(second, metric_state.metric_state_dict(first))
        second.update(scores[10:], labels[10:])
        assert second.compute() == make()(scores, labels) != first.compute()
        second.reset()
        assert second(scores[:, :3], labels % 3) == make()(scores[:, :3], labels % 3)  # another number of classes


def test_a_process_without_a_batch_joins_the_others():
    g = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(N, 4, generator=g), torch.randint(0, 4, (N,), generator=g)
    for make in (F1, AUC, Accuracy):
        assert over_processes(make, scores, labels, N) == make()(scores, labels).item()


def test_scores_kept_in_small_batches_are_joined_now_and_then():
    g = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(1000, generator=g), torch.randint(0, 2, (1000,), generator=g)
    metric = AUC()
    expected = over_batches(metric, scores, labels, 3)
    assert len(metric.scores) == len(metric.labels) < 70
    assert expected == AUC()(scores, labels)
    assert over_processes(AUC, scores, labels, 3) == expected
    assert over_processes(AUC, scores, labels.roll(1), 3) != expected  # control
