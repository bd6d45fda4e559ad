"""Counts take in several batches at a time, and come to the same numbers."""

import copy

import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn

from torchkeras import KerasModel
from torchkeras.engine.callback import Callback
from torchkeras.metrics import AUC, F1, IOU, MAE, R2, Accuracy, Metric, Precision, Recall, TopK
from torchkeras.metrics.buffered import (
    Buffered,
    buffered,
    flushed,
    is_countable,
    is_countable_torchmetric,
)
from torchkeras.metrics.task import Task


def data(samples=500, classes=4):
    torch.manual_seed(0)
    return torch.randn(samples, classes), torch.randint(classes, (samples,))


@pytest.mark.parametrize("options", [{}, {"average": "micro"}, {"average": None}, {"top_k": 2}, {"ignore_index": 1}])
@pytest.mark.parametrize("size", [7, 25, 500])
@pytest.mark.parametrize("kind", [torchmetrics.Accuracy, torchmetrics.F1Score, torchmetrics.Recall])
def test_the_number_is_that_of_one_update_a_batch(kind, size, options):
    preds, labels = data()
    plain = kind(task="multiclass", num_classes=4, **options)
    slow = Buffered(kind(task="multiclass", num_classes=4, **options))
    for begin in range(0, 500, size):
        for metric in (plain, slow):
            metric.update(preds[begin:begin + size], labels[begin:begin + size])
    assert torch.equal(plain.compute().nan_to_num(), slow.compute().nan_to_num())
    slow.reset()
    slow.update(preds[:3], preds[:3].argmax(dim=1))
    if "ignore_index" not in options and options.get("average", "") is not None:
        assert 0 < float(slow.compute()) <= 1


def test_batches_of_other_shapes_follow_one_another():
    metric = Buffered(torchmetrics.Accuracy(task="multiclass", num_classes=3, average="micro"))
    metric.update(torch.eye(3), torch.arange(3))
    metric.update(torch.arange(3), torch.tensor([0, 1, 1]))  # classes in place of scores
    metric.update(torch.zeros(2, 3, 5), torch.zeros(2, 5, dtype=torch.int64))
    assert float(metric.compute()) == pytest.approx(15 / 16)


def test_a_net_may_write_into_its_output_again():
    metric, output = Buffered(torchmetrics.Accuracy(task="multiclass", num_classes=2, average="micro")), torch.eye(2)
    metric.update(output, torch.tensor([0, 1]))
    output.zero_()
    assert float(metric.compute()) == 1.0


def test_metrics_that_look_at_a_batch_as_a_whole_are_left_as_they_are():
    # a batch of scores between 0 and 1 is taken for probabilities, another for logits
    assert not is_countable_torchmetric(torchmetrics.Accuracy(task="binary"))
    assert not is_countable_torchmetric(torchmetrics.Accuracy(task="multiclass", num_classes=3, multidim_average="samplewise"))
    assert not is_countable_torchmetric(torchmetrics.MeanSquaredError())

    class Own(torchmetrics.classification.MulticlassAccuracy):
        def update(self, preds, target):
            super().update(preds.roll(1), target)

    assert not is_countable_torchmetric(Own(num_classes=3))


def fitted(callbacks):
    torch.manual_seed(0)
    x, y = data()
    metric = torchmetrics.classification.MulticlassAccuracy(4, average="micro")
    calls = []
    update = metric.update
    metric.update = lambda *batch: (calls.append(len(batch[0])), update(*batch))
    model = KerasModel(nn.Linear(4, 4), loss_fn="cross_entropy", metrics_dict={"acc": metric})
    frame = model.fit((x, y), epochs=1, batch_size=10, ckpt_path=None, quiet=True, callbacks=callbacks)
    return calls, frame["train_acc"][0]


class Reads(Callback):
    def on_step_end(self, model):
        self.seen = float(model.metrics_dict["acc"].compute())


def test_fit_updates_them_once_in_many_steps_unless_a_listener_hears_of_each():
    communicator, one = fitted(None)
    apart, other = fitted([Reads()])
    assert communicator == [10, 49 * 10]
    assert [size for size in apart if size > 10] == []
    assert one == other
    assert sum(communicator) - sum(apart) == 0


def test_only_such_metrics_are_wrapped():
    mine = torchmetrics.Accuracy(task="binary")
    found = buffered({"a": torchmetrics.Accuracy(task="multiclass", num_classes=3), "b": mine})
    assert isinstance(found["a"], Buffered)
    assert found["b"] is mine
    assert np.isfinite(float(torch.stack([found["a"](torch.eye(3), torch.arange(3))])))


OURS = [Accuracy, Precision, Recall, F1, lambda: TopK(2), lambda: IOU(4), lambda: Accuracy(ignore_index=1),
        lambda: F1(average="micro"), lambda: Accuracy(threshold=0.3, from_logits=False),
        lambda: Accuracy(one_hot=True)]


def kinds_of_batches():
    """Batches whose every number could be read: classes, yes and no, one-hot, -1, NaN, half precision, none."""
    made = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(700, 4, generator=made), torch.randint(-1, 4, (700,), generator=made)
    single, signs = torch.randn(700, generator=made), torch.randint(0, 2, (700,), generator=made) * 2 - 1
    broken = torch.where(scores > 2, torch.nan, scores)
    yield from [(scores, labels), (broken, labels.double()), (scores.half(), labels.int()),
                (scores.round(), labels), (scores.reshape(100, 4, 7), labels.reshape(100, 7))]
    yield from [(single, signs), (single[:, None], signs), (single, (signs > 0).float()),
                (single, torch.where(signs > 0, torch.nan, 0.0)), (single > 0, signs > 0),
                (scores, torch.nn.functional.one_hot(labels.clamp(min=0), 4))]
    yield scores[:0], labels[:0]


def state_of(metric):
    return {name: getattr(metric, name) for name in metric.sums}


def told(metric, batches, when=()):
    """What a metric says at each of these places and in the end, or what it refuses."""
    said = []
    try:
        for place, batch in enumerate(batches):
            metric.update(*batch)
            said.append(place)
            if place in when:
                said.append(str(metric.compute()))
        said.append(str(metric.compute()))
    except (ValueError, TypeError) as error:
        said.append(str(error))
    return said


@pytest.mark.parametrize("size", [1, 7, 100])
@pytest.mark.parametrize("make", OURS)
def test_ours_count_say_and_refuse_the_same_at_each_moment(make, size):
    waited = 0
    for preds, labels in kinds_of_batches():
        batches = list(zip(preds.split(size), labels.split(size), strict=True))
        plain, slow = make(), buffered({"m": make()})["m"]
        assert isinstance(slow, Buffered)
        assert told(slow, batches, (0, 2, 70)) == told(plain, batches, (0, 2, 70))
        assert all(torch.equal(one, state_of(slow)[name]) for name, one in state_of(plain).items())
        slow.reset()
        told(slow, batches)
        waited += slow.capacity
    assert waited > 0


def test_ours_of_unlike_batches_in_turn_count_the_same():
    plain, slow = Accuracy(), buffered({"m": Accuracy()})["m"]
    preds, labels = data()
    for place in range(0, 400, 8):
        for first, last in ((place, place + 3), (place + 3, place + 6), (place + 6, place + 8)):
            for metric in (plain, slow):
                metric.update(preds[first:last], labels[first:last])
    assert slow.correct == plain.correct > 0
    assert slow.seen == plain.seen == 400


def test_what_ours_refuse_by_shape_is_refused_with_the_batch_that_came():
    slow = buffered({"m": Accuracy()})["m"]
    preds, labels = data(40)
    slow.update(preds[:10], labels[:10])
    slow.update(preds[10:20], labels[10:20])
    with pytest.raises(ValueError, match=r"shape \(10, 4\) with labels of shape \(9,\)"):
        slow.update(preds[20:30], labels[20:29])
    assert slow.seen == 20


def test_labels_that_a_loss_leaves_out_are_left_out_from_then_on():
    metrics = [buffered({"m": Accuracy(task=Task(from_logits=True))})["m"], Accuracy(task=Task(from_logits=True))]
    preds, labels = data(300)
    for metric in metrics:
        metric.__dict__["follows_loss"] = True
        getattr(metric, "metric", metric).follows_loss = True
        for place in range(0, 300, 10):
            if place == 150:
                metric.leave_out((3.0,))
            metric.update(preds[place:place + 10], labels[place:place + 10])
    slow, plain = metrics
    assert slow.seen == plain.seen == 300 - int((labels[150:] == 3).sum())
    assert slow.correct == plain.correct


def test_only_ours_that_add_up_whole_numbers_wait():
    class Mine(Accuracy):
        pass

    class Counts(Metric):
        def __init__(self):
            super().__init__()
            self.add_sum("seen")

    patched = Accuracy()
    patched.count = lambda preds, labels: {"seen": 1}
    assert is_countable(Accuracy())
    unsure = Accuracy(task=Task(from_logits=None))
    assert not any(map(is_countable, [Mine(), Counts(), patched, MAE(), R2(), AUC(), unsure, len]))
    assert not isinstance(buffered({"m": Accuracy()}, own=False)["m"], Buffered)


def test_a_metric_that_waits_can_be_copied_and_asked_what_it_is():
    slow = buffered({"m": TopK(3)})["m"]
    for _ in range(3):
        slow.update(*data(20))
    twin = copy.deepcopy(slow)
    slow.update(*data(20))
    assert (twin.seen, slow.seen, slow.k, slow.cheap) == (60, 80, 3, True)
    with pytest.raises(AttributeError, match="nothing"):
        slow.nothing  # noqa: B018


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_no_batch_is_left_waiting_when_the_work_ends(error):
    slow = buffered({"m": Accuracy()})["m"]
    try:
        with flushed([slow, MAE()]):
            for _ in range(3):
                slow.update(*data(20))
            assert slow.waiting
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert slow.metric.seen == 60


def counted_updates(monkeypatch):
    sizes, update = [], Accuracy.update
    monkeypatch.setattr(Accuracy, "update", lambda self, preds, labels: (
        sizes.append(len(preds)), update(self, preds, labels))[1])
    return sizes


def test_fit_and_evaluate_let_ours_wait_and_give_the_same_numbers(monkeypatch):
    sizes, x_y = counted_updates(monkeypatch), data()
    rows = []
    for callbacks in (None, [Reads()]):
        torch.manual_seed(0)
        metrics = {"acc": Accuracy(), "named": "accuracy"}
        model = KerasModel(nn.Linear(4, 4), "cross_entropy", metrics)
        frame = model.fit(x_y, x_y, epochs=2, batch_size=10, ckpt_path=None, quiet=True,
                          callbacks=callbacks)
        rows.append((frame.drop(columns="lr").to_numpy().tolist(), model.evaluate(x_y, batch_size=10)))
    assert rows[0] == rows[1]
    # of two metrics: the first passes of the first run, and both evaluations; then its second passes
    assert sizes.count(490) == 2 * (2 + 2)
    assert sizes.count(500) == 2 * 2


def test_a_buffer_made_in_inference_mode_can_be_written_outside_of_it():
    generator = torch.Generator().manual_seed(0)
    preds = [torch.randn(32, 4, generator=generator) for _ in range(6)]
    labels = [torch.randint(0, 4, (32,), generator=generator) for _ in range(6)]
    one, plain = Buffered(Accuracy()), Accuracy()
    with torch.inference_mode():
        for x, y in zip(preds[:3], labels[:3], strict=True):
            one.update(x, y)
    for x, y in zip(preds[3:], labels[3:], strict=True):
        one.update(x.requires_grad_(), y)
    for x, y in zip(preds, labels, strict=True):
        plain.update(x.detach(), y)
    assert len(one.waiting) == 5  # control: they wait
    assert not any(row[0].requires_grad for row in one.waiting)
    assert copy.deepcopy(one).compute() == one.compute() == plain.compute()
