"""Metrics are tried on the first batch: the broken are refused, those that need a whole epoch are not."""

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
import torchmetrics
from torch import nn

from torchkeras import KerasModel

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
SORTED = torch.arange(3).repeat_interleave(20)  # the first batches have one class
BINARY = torch.arange(2).repeat_interleave(30)


def log_loss(preds, labels):
    return sk.log_loss(labels.numpy(), preds.double().softmax(1).numpy(), labels=None)


def auc_of_three(preds, labels):
    return sk.roc_auc_score(labels.numpy(), preds.double().softmax(1).numpy(), multi_class="ovr")


def auc_of_two(preds, labels):
    if len(np.unique(labels.numpy())) < 2:
        raise ValueError("Only one class present in y_true.")
    return sk.roc_auc_score(labels.numpy(), preds[:, 1].numpy())


def hinge(preds, labels):
    if len(labels.unique()) < 2:
        raise ValueError("one class")
    return (1 - labels * preds).clamp(min=0).mean()


NEEDS_AN_EPOCH = {"log loss": (3, log_loss, SORTED), "AUC of three": (3, auc_of_three, SORTED),
                  "AUC of two": (2, auc_of_two, BINARY)}


def fitted(outputs, metric, labels, loss_fn="cross_entropy", **options):
    torch.manual_seed(0)
    net = nn.Linear(4, outputs)
    model = KerasModel(net, loss_fn, {"it": metric}, torch.optim.SGD(net.parameters(), lr=0.0))
    return model, model.fit((X, labels), (X, labels), epochs=1, batch_size=4, shuffle=False, ckpt_path=None,
                            quiet=True, **options)


@pytest.mark.parametrize("name", NEEDS_AN_EPOCH)
def test_a_metric_that_needs_every_class_is_measured_over_the_epoch(name):
    outputs, metric, labels = NEEDS_AN_EPOCH[name]
    model, frame = fitted(outputs, metric, labels)
    with torch.no_grad():
        by_hand = metric(model.net(X), labels)
    assert frame["train_it"][0] == pytest.approx(float(by_hand))
    assert frame["val_it"][0] == pytest.approx(float(by_hand))


@pytest.mark.parametrize("shape", [(60,), (60, 1)])
def test_labels_of_minus_one_and_one_and_of_columns_are_filled_too(shape):
    labels = (2.0 * BINARY - 1).reshape(shape)
    net = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0) if len(shape) == 1 else nn.Identity())
    KerasModel(net, nn.MSELoss(), {"it": hinge}).fit((X, labels), epochs=1, batch_size=4, shuffle=False,
                                                     ckpt_path=None, quiet=True)


def test_metrics_of_torchmetrics_that_need_two_samples_are_not_refused():
    net = nn.Linear(4, 1)
    KerasModel(net, nn.MSELoss(), {"r2": torchmetrics.R2Score()}).fit(
        (X, X[:, :1]), epochs=1, batch_size=1, ckpt_path=None, quiet=True)


def many(preds, labels):
    return preds.argmax(1)


def nothing(preds, labels):
    return None


def misspelled(preds, labels):
    return torch.mean(pred - labels)  # noqa: F821


def wrongly_called(preds, labels):
    return sk.accuracy_score(labels)


def of_other_shapes(preds, labels):
    return (preds - labels.reshape(7, -1)).mean()


class Unfinished:
    def update(self, preds, labels):
        self.seen = preds.missing

    def compute(self):
        return 1.0

    def reset(self):
        pass


@pytest.mark.parametrize(("metric", "error"), [(many, ValueError), (nothing, ValueError), (misspelled, NameError),
                                               (wrongly_called, TypeError), (of_other_shapes, RuntimeError),
                                               (Unfinished(), AttributeError),
                                               (torchmetrics.Accuracy(task="multiclass", num_classes=2), Exception)],
                         ids=lambda one: getattr(one, "__name__", type(one).__name__))
def test_a_broken_metric_is_refused_before_anything_is_updated(metric, error):
    net = nn.Linear(4, 3)
    before = net.weight.detach().clone()
    with pytest.raises(error):
        KerasModel(net, "cross_entropy", {"it": metric}).fit((X, SORTED.flip(0)), epochs=1, batch_size=4,
                                                             ckpt_path=None, quiet=True)
    assert torch.equal(net.weight, before)


def test_a_step_that_feeds_its_metrics_in_its_own_way_is_not_refused():
    class Positive(KerasModel.StepRunner):
        def measure(self, loss, preds, labels):
            return super().measure(loss, preds[:, 1], labels)

    def one_column(preds, labels):
        assert preds.dim() == 1
        return ((preds > 0) == labels).float().mean()

    net = nn.Linear(4, 2)
    model = KerasModel(net, "cross_entropy", {"it": one_column})
    with pytest.raises(AssertionError):
        model.fit((X, BINARY), epochs=1, ckpt_path=None, quiet=True)
    model.StepRunner = Positive
    row = model.fit((X, BINARY), (X, BINARY), epochs=1, ckpt_path=None, quiet=True)
    assert 0 <= row["val_it"][0] <= 1
