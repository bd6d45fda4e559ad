"""What a loss of unknown make leaves out, metrics by name leave out too, in every pass."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchkeras import KerasModel, Model
from torchkeras.metrics import MAE, R2, Accuracy, Metric, Recall
from torchkeras.weighting import examination
from torchkeras.weighting.denominator import Denominator


def without_zero(preds, labels):
    return F.cross_entropy(preds, labels, ignore_index=0)


def without_255(preds, labels):
    return F.cross_entropy(preds, labels, ignore_index=255)


def plain(preds, labels):
    return F.cross_entropy(preds, labels.clamp(max=3))


def squared_where_known(preds, labels):
    used = labels != -100
    return ((preds - labels)[used] ** 2).mean()


def squared(preds, labels):
    return ((preds - labels) ** 2).mean()


def classes(mark=None):
    g = torch.Generator().manual_seed(5)
    x, y = torch.randn(40, 5, generator=g), torch.randint(0, 4, (40,), generator=g)
    if mark is not None:
        y[::3] = mark
    return x, y


def linear(outputs=4):
    torch.manual_seed(6)
    return nn.Linear(5, outputs)


def share_right(net, x, y, mark):
    answers = net(x).argmax(1).tolist()
    told = [(a, b) for a, b in zip(answers, y.tolist(), strict=True) if b != mark]
    return sum(a == b for a, b in told) / len(told)


@pytest.mark.parametrize("size", [3, 7, 40])
@pytest.mark.parametrize(("loss", "mark"), [(without_zero, 0), (without_255, 255)], ids=["0", "255"])
def test_accuracy_counts_the_labels_that_the_loss_counts(loss, mark, size):
    x, y = classes(mark)
    net = linear()
    model = KerasModel(net, loss, {"acc": "accuracy", "top": "top_k", "mine": Accuracy()})
    model.metrics_dict["top"].k = 1
    found = model.evaluate((x, y), batch_size=size)
    assert found["val_acc"] == found["val_top"] == pytest.approx(share_right(net, x, y, mark))
    assert found["val_mine"] == pytest.approx(share_right(net, x, y, None))  # an object keeps to what its user said
    assert found["val_mine"] != pytest.approx(found["val_acc"])


def test_control_a_loss_that_counts_all_labels_leaves_them_to_the_metrics():
    x, y = classes()
    net = linear()
    found = KerasModel(net, plain, ["accuracy"]).evaluate((x, y), batch_size=7)["val_accuracy"]
    assert found == pytest.approx(share_right(net, x, y, None)) != pytest.approx(share_right(net, x, y, 0))


def test_precision_recall_and_auc_of_classes_leave_them_out_and_do_not_refuse_them():
    x, y = classes(255)
    names = ["f1", "precision_macro", "recall_micro", "auc", "ks"]
    kept = y != 255
    net = linear()
    found = KerasModel(net, without_255, names).evaluate((x, y), batch_size=9)
    right = KerasModel(net, nn.CrossEntropyLoss(), names).evaluate((x[kept], y[kept]), batch_size=9)
    assert found == pytest.approx(right, rel=1e-6)
    with pytest.raises(ValueError, match="labels that are no class"):
        KerasModel(net, plain, ["f1"]).evaluate((x, y), batch_size=9)  # control


def test_in_fit_both_passes_of_every_epoch_leave_them_out_and_so_does_what_follows():
    x, y = classes(255)
    net = linear()
    model = KerasModel(net, without_255, ["accuracy", "f1"], torch.optim.SGD(net.parameters(), lr=1e-12))
    right = share_right(net, x, y, 255)
    for _ in range(2):  # the second fit knows it from the first
        model.fit((x, y), (x, y), epochs=2, batch_size=7, ckpt_path=None, quiet=True)
        assert model.history["train_accuracy"] == model.history["val_accuracy"] == pytest.approx(
            [right] * len(model.history["epoch"]))
    assert model.evaluate((x, y))["val_accuracy"] == pytest.approx(right)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_first_batch_whose_labels_are_all_left_out_counts_nothing(steps):
    x, y = classes()
    y[:8] = 0
    net = linear()
    order = []

    class Watch(Metric):
        def count(self, preds, labels):
            order.append(labels.tolist())
            return {}

        def value(self, state):
            return torch.tensor(0.0)

    model = KerasModel(net, without_zero, {"acc": "accuracy", "watch": Watch()},
                       torch.optim.SGD(net.parameters(), lr=1e-12))
    batches = list(zip(x.split(4), y.split(4), strict=True))
    assert model.evaluate(batches)["val_acc"] == pytest.approx(share_right(net, x, y, 0))
    assert order == [labels.tolist() for _, labels in batches]
    model = KerasModel(net, without_zero, ["accuracy"], torch.optim.SGD(net.parameters(), lr=1e-12))
    model.fit(batches, epochs=1, ckpt_path=None, quiet=True, gradient_accumulation_steps=steps)
    assert model.history["train_accuracy"] == pytest.approx([share_right(net, x, y, 0)])


def numbers():
    x, _ = classes()
    g = torch.Generator().manual_seed(7)
    y = torch.randn(40, 1, generator=g)
    y[::4] = -100
    return x, y


@pytest.mark.parametrize("size", [4, 7, 40])
def test_errors_of_numbers_leave_out_what_the_loss_leaves_out(size):
    x, y = numbers()
    net = linear(1)
    pairs = [(a, b) for a, b in zip(net(x).flatten().tolist(), y.flatten().tolist(), strict=True) if b != -100]
    mean = sum(b for _, b in pairs) / len(pairs)
    errors = [a - b for a, b in pairs]
    mse = sum(e * e for e in errors) / len(pairs)
    right = {"val_mae": sum(map(abs, errors)) / len(pairs), "val_mse": mse, "val_rmse": mse ** 0.5,
             "val_mape": sum(abs(e / b) for e, (_, b) in zip(errors, pairs, strict=True)) / len(pairs),
             "val_r2": 1 - mse * len(pairs) / sum((b - mean) ** 2 for _, b in pairs), "val_loss": mse}
    found = KerasModel(net, squared_where_known, ["mae", "mse", "rmse", "mape", "r2"]).evaluate((x, y), batch_size=size)
    assert found == pytest.approx(right, rel=1e-5)
    assert KerasModel(net, squared, ["mae"]).evaluate((x, y))["val_mae"] > 10  # control: a loss that counts them
    own = KerasModel(net, squared_where_known, {"own": MAE()}).evaluate((x, y))
    assert own["val_own"] > 10  # control: an object keeps to what its user said


def test_whole_numbers_of_minus_one_hundred_are_measured_where_the_loss_counts_them():
    x, y = classes()
    y[0] = -100
    model = KerasModel(linear(1), lambda preds, labels: squared(preds.flatten(), labels.float()), ["mae", "r2"])
    right = (model.net(x).flatten() - y).abs().mean().item()
    assert model.evaluate((x, y))["val_mae"] == pytest.approx(right)


def told(metric, marks):
    metric.follows_loss = True
    metric.leave_out(marks)
    return metric


def test_several_marks_and_nan_among_them():
    preds, labels = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([2.0, -999.0, math.nan, 7.5])
    assert told(MAE(), (-999.0, math.nan, 7.5))(preds, labels) == 1
    assert told(MAE(), (math.nan,))(preds, labels).item() == pytest.approx((1 + 1001 + 3.5) / 3)  # control
    assert math.isnan(told(R2(), (-999.0, 7.5, 2.0))(preds, labels))
    whole = torch.tensor([2, -999, 3, 7])
    assert told(MAE(), (-999.0,))(preds, whole).item() == pytest.approx((1 + 0 + 3) / 3)


def test_a_mark_of_zero_is_a_no_unless_minus_one_is():
    yes = torch.tensor([1.0, 1.0, -1.0, -1.0])
    assert told(Accuracy(), (0.0,))(yes, torch.tensor([1, 0, -1, 0])) == 1
    assert Accuracy(ignore_index=None)(yes, torch.tensor([1, 0, -1, 0])) == pytest.approx(2 / 3)  # control
    assert told(Accuracy(), (0.0,))(yes, torch.tensor([1, 0, 1, 0])) == 0.5
    assert told(Recall(), (255.0,))(yes, torch.tensor([1.0, 0.0, 255.0, 1.0])).item() == 0.5


def test_a_verdict_is_read_where_it_leaves_labels_out():
    assert examination.left_out_labels(Denominator("valid", ignored=(7.0,))) == (7.0,)
    assert examination.left_out_labels(Denominator("shifted", ignored=(7.0, -1.0))) == (7.0, -1.0)
    for found in (None, Denominator("valid"), Denominator("samples", ignored=(7.0,)), Denominator("unseen")):
        assert examination.left_out_labels(found) == ()


def test_one_batch_at_a_time_they_are_left_out_too():
    model = Model(nn.Linear(4, 3))

    def loss_fn(preds, labels):
        return nn.functional.cross_entropy(preds, labels, ignore_index=-1)

    torch.manual_seed(0)
    x, y = torch.randn(12, 4), torch.arange(12) % 3
    marked = y.where(torch.arange(12) % 4 > 0, torch.tensor(-1))
    model.compile(loss=loss_fn, metrics=["sparse_categorical_accuracy"])
    with torch.no_grad():
        right = (model.net(x).argmax(1) == y)[marked >= 0].float().mean().item()
    whole = [model.test_on_batch(x[rows], marked[rows], return_dict=True, reset_metrics=False)
             for rows in (slice(0, 5), slice(5, 12))][-1]
    assert whole["sparse_categorical_accuracy"] == pytest.approx(right)
    with torch.no_grad():
        assert whole["loss"] == pytest.approx(loss_fn(model.net(x), marked).item(), rel=1e-6)


def test_what_an_ignore_index_of_the_loss_said_stays():
    metric = told(Accuracy(ignore_index=3), (0.0,))
    assert metric(torch.eye(4), torch.tensor([0, 0, 2, 3])) == pytest.approx(2 / 3)


class Language(nn.Module):
    """A net that brings the loss of a language model: each place against the label of the next."""

    def __init__(self, tokens=20):
        super().__init__()
        torch.manual_seed(2)
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, tokens)

    def forward(self, input_ids, labels=None):
        logits = self.head(self.embedding(input_ids).cumsum(1))
        if labels is None:
            return {"logits": logits}
        return {"logits": logits, "loss": F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())}


def texts(tokens=20):
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(0, tokens, (30, 9), generator=g)
    return ids, ids.where(torch.arange(9) < torch.randint(2, 10, (30, 1), generator=g), -100)


def next_right(logits, labels):
    hits = total = 0
    for row, truth in zip(logits.argmax(-1).tolist(), labels.tolist(), strict=True):
        for answer, label in zip(row[:-1], truth[1:], strict=True):
            hits, total = hits + (answer == label and label >= 0), total + (label >= 0)
    return hits / total


@pytest.mark.parametrize("tokens", [20, 9])
@pytest.mark.parametrize("size", [5, 30])
def test_a_net_that_predicts_the_next_token_is_measured_so(tokens, size):
    ids, labels = texts(tokens)
    net = Language(tokens)
    batches = [{"input_ids": a, "labels": b} for a, b in zip(ids.split(size), labels.split(size), strict=True)]
    shapes = set()
    model = KerasModel(net, None, {"acc": "accuracy", "top": "top_k", "object": Accuracy(axis=-1),
                                   "own": lambda preds, labels: shapes.add(tuple(labels.shape)) or 0.0})
    logits = net(ids)["logits"]
    found = model.evaluate(batches)
    right = next_right(logits, labels)
    assert found["val_acc"] == found["val_object"] == pytest.approx(right)
    assert right != pytest.approx(Accuracy(axis=-1)(logits, labels).item())  # control: not moved
    best = logits[:, :-1].topk(5, dim=-1).indices
    used = labels[:, 1:] >= 0
    assert found["val_top"] == pytest.approx((best == labels[:, 1:, None]).any(-1)[used].double().mean().item())
    assert {shape[1] for shape in shapes} == {9}  # a function may move it itself, and gets what the net put out


@pytest.mark.parametrize("last", [True, False], ids=["classes last", "classes second"])
def test_a_function_that_compares_the_next_label_is_measured_so(last):
    ids, labels = texts()
    net = Language()

    class Scores(nn.Module):
        def forward(self, x):
            found = net(x)["logits"]
            return found if last else found.transpose(1, 2)

    def shifted(preds, labels):
        scores = (preds if last else preds.transpose(1, 2))[:, :-1]
        return F.cross_entropy(scores.flatten(0, 1), labels[:, 1:].flatten())

    found = KerasModel(Scores(), shifted, ["accuracy"]).evaluate((ids, labels), batch_size=7)
    assert found["val_accuracy"] == pytest.approx(next_right(net(ids)["logits"], labels))


def test_each_output_leaves_out_what_its_own_loss_leaves_out():
    x, y = classes(255)
    _, other = classes()

    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.a, self.b = nn.Linear(5, 4), nn.Linear(5, 4)

        def forward(self, x):
            return {"a": self.a(x), "b": self.b(x)}

    net = Two()
    model = Model(net)
    model.compile(loss={"a": without_255, "b": lambda preds, labels: F.cross_entropy(preds, labels)},
                  metrics={"a": ["accuracy"], "b": ["accuracy"]}, optimizer="sgd")
    found = model.evaluate(x, {"a": y, "b": other}, batch_size=8, verbose=0, return_dict=True)
    assert found["a_accuracy"] == pytest.approx(share_right(net.a, x, y, 255))
    assert found["b_accuracy"] == pytest.approx(share_right(net.b, x, other, None))
