"""Counts of torchmetrics take in several batches at a time, and come to the same numbers."""

import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn

from torchkeras import KerasModel
from torchkeras.engine.callback import Callback
from torchkeras.metrics.buffered import BATCHES, Buffered, adds_up, buffered


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
    assert not adds_up(torchmetrics.Accuracy(task="binary"))
    assert not adds_up(torchmetrics.Accuracy(task="multiclass", num_classes=3, multidim_average="samplewise"))
    assert not adds_up(torchmetrics.MeanSquaredError())

    class Own(torchmetrics.classification.MulticlassAccuracy):
        def update(self, preds, target):
            super().update(preds.roll(1), target)

    assert not adds_up(Own(num_classes=3))




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
    together, one = fitted(None)
    apart, other = fitted([Reads()])
    assert [size for size in together if size > 10] == [10 * BATCHES] * 3 + [20]
    assert [size for size in apart if size > 10] == []
    assert one == other
    assert sum(together) - sum(apart) == 0


def test_only_such_metrics_are_wrapped():
    mine = torchmetrics.Accuracy(task="binary")
    found = buffered({"a": torchmetrics.Accuracy(task="multiclass", num_classes=3), "b": mine})
    assert isinstance(found["a"], Buffered)
    assert found["b"] is mine
    assert np.isfinite(float(torch.stack([found["a"](torch.eye(3), torch.arange(3))])))
