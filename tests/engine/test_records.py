"""History, monitor, config and schedules: the small records and decisions."""

import math

import pandas as pd
import pytest
import torch
from torch import nn
from torch.optim import SGD
from torch.optim import lr_scheduler as schedulers

from torchkeras import History, KerasModel, devices
from torchkeras.core.stop import NonFiniteLoss
from torchkeras.engine.adapted import raised
from torchkeras.engine.monitor import Monitor
from torchkeras.training.arguments import direction
from torchkeras.training.schedules import interval_of
from torchkeras.weighting.averages import AverageMeter


def test_history_columns_never_differ_in_length():
    history = History()
    history.open(1)
    history.record({"train_loss": 3.0})
    history.open(2)
    history.record({"train_loss": 2.0, "val_loss": 1.0})
    assert history["val_loss"][1] == 1.0
    assert math.isnan(history["val_loss"][0])
    assert pd.DataFrame(history).shape == (2, 3)
    history.discard()
    assert history["epoch"] == [1]


def test_a_name_that_was_never_logged_is_answered_with_the_nearest():
    history = History()
    history.open(1)
    history.record({"val_acc": 1.0})
    with pytest.raises(KeyError, match=r"'val_ac' was never logged. Logged: epoch, val_acc. Did you mean 'val_acc'\?"):
        history["val_ac"]


@pytest.mark.parametrize(("name", "expected"), [
    ("val_loss", "min"), ("val_acc", "max"), ("val_accuracy", "max"), ("val_auc", "max"), ("train_rmse", "min"),
    ("val_f1", "max"), ("val_mae", "min"), ("val_r2", "max"), ("val_ks", "max"), ("val_wer_error", "min"),
    ("val_accuracy_loss", "min"), ("val_top5", "max")])
def test_the_direction_follows_the_name(name, expected):
    assert direction(name, "auto", None)[0] == expected


def test_the_direction_follows_the_metric_before_its_name_and_the_caller_before_both():
    assert direction("val_loss", "auto", True)[0] == "max"
    assert direction("val_acc", "min", True)[0] == "min"


def test_the_monitor_counts_misses_from_the_last_improvement():
    monitor = Monitor("val_acc", "max", patience=2)
    for epoch, value in enumerate([0.5, 0.4, 0.6, 0.6, math.nan], start=1):
        monitor.update(epoch, value)
    assert (monitor.best, monitor.best_epoch, monitor.num_bad_epochs, monitor.should_stop) == (0.6, 3, 2, True)


def make(kind):
    optimizer = SGD(nn.Linear(1, 1).parameters(), lr=0.1)
    return {"onecycle": lambda: schedulers.OneCycleLR(optimizer, 0.1, total_steps=9),
            "cyclic": lambda: schedulers.CyclicLR(optimizer, 0.1, 0.2),
            "step": lambda: schedulers.StepLR(optimizer, 2),
            "plateau": lambda: schedulers.ReduceLROnPlateau(optimizer),
            "cosine": lambda: schedulers.CosineAnnealingLR(optimizer, 5),
            "chained": lambda: schedulers.ChainedScheduler([schedulers.CyclicLR(optimizer, 0.1, 0.2)])}[kind]()


@pytest.mark.parametrize(("kind", "expected"), [("onecycle", "step"), ("cyclic", "step"), ("chained", "step"),
                                                ("step", "epoch"), ("plateau", "epoch"), ("cosine", "epoch")])
def test_a_scheduler_moves_at_the_interval_of_its_kind(kind, expected):
    assert interval_of(make(kind)) == expected


def test_an_interval_that_is_asked_for_is_taken():
    assert interval_of(make("step"), "step") == "step"
    with pytest.raises(ValueError, match="lr_interval: received 'step' for ReduceLROnPlateau"):
        interval_of(make("plateau"), "step")


def rates(build, epochs=4, **options):
    x = torch.randn(30, 2)
    net = nn.Linear(2, 1)
    optimizer = SGD(net.parameters(), lr=0.1)
    model = KerasModel(net, "mse", optimizer=optimizer, lr_scheduler=build(optimizer))
    history = model.fit((x, x[:, :1]), epochs=epochs, batch_size=10, patience=None, ckpt_path=None, quiet=True,
                        **options)
    return history["lr"].tolist(), model


def test_a_per_epoch_schedule_moves_once_an_epoch_and_lr_is_the_rate_that_trained():
    found, model = rates(lambda optimizer: schedulers.StepLR(optimizer, 1, 0.5))
    assert found == pytest.approx([0.1, 0.05, 0.025, 0.0125])
    assert "lr_scheduler: StepLR moves every epoch" in model.run.notes
    assert rates(lambda optimizer: schedulers.StepLR(optimizer, 1, 0.5), lr_interval="step")[0] != found


@pytest.mark.parametrize(("accumulation", "updates"), [(1, 12), (2, 8)])
def test_a_per_step_schedule_is_counted_in_updates(accumulation, updates):
    _, model = rates(lambda optimizer: schedulers.CyclicLR(optimizer, 0.1, 0.2, cycle_momentum=False),
                     gradient_accumulation_steps=accumulation)
    assert model.lr_scheduler.last_epoch == updates


def test_reduce_on_plateau_gets_the_watched_number():
    found, _ = rates(lambda optimizer: schedulers.ReduceLROnPlateau(optimizer, threshold=100, threshold_mode="abs",
                                                                         patience=0, factor=0.1))
    assert found == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_means_find_the_first_loss_that_is_not_finite():
    means = AverageMeter(alarm=raised)
    losses = [1.0] * 199 + [math.nan] + [1.0] * 99

    def feed():
        for loss in losses:
            means.add({"train_loss": torch.tensor(loss)}, 4)

    with pytest.raises(NonFiniteLoss, match="train_loss is nan") as found:
        feed()
    assert found.value.step == 200
    losses[199] = 1.0
    means.clear()
    feed()
    assert means.result() == {"train_loss": 1.0}


def test_means_weigh_by_samples_in_float64():
    means = AverageMeter()
    for value, count in [(1.0, 32), (4.0, 1)] * 100:
        means.add({"val_loss": torch.tensor(value)}, count)
    assert means.result()["val_loss"] == pytest.approx((32 + 4) / 33, rel=1e-15)


def test_devices_end_with_the_cpu():
    found = devices()
    assert found[-1].kind == "cpu"
    assert found[-1].memory_gib is None or found[-1].memory_gib > 0
    assert str(found[-1]).startswith("cpu: ")


def test_notes_tell_what_fit_decided():
    x = torch.randn(30, 2)
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model = KerasModel(net, "mse", optimizer=SGD(net[1].parameters(), lr=0.1))
    model.fit((x, x[:, :1]), epochs=1, ckpt_path=None, quiet=True, gradient_accumulation_steps=8)
    assert "monitor: no val_data, watching train_loss" in model.run.notes
    assert "optimizer: 2 parameters of the net are not in it: 0.weight, 0.bias" in model.run.notes
    assert any("an epoch has 1 batches: one update an epoch" in note for note in model.run.notes)


def test_wandb_logs_each_epoch_and_closes_only_what_it_opened(monkeypatch):
    import sys
    from types import SimpleNamespace

    calls = []

    class Fake:
        run = None

        def init(self, **options):
            calls.append("init")
            self.run = SimpleNamespace(summary={}, id="7")
            return self.run

        def log(self, row):
            calls.append(sorted(row))

        def finish(self, exit_code):
            calls.append(("finish", exit_code))
            self.run = None

    fake = Fake()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    x = torch.randn(30, 2)
    model = KerasModel(nn.Linear(2, 1), "mse")
    model.fit((x, x[:, :1]), epochs=1, ckpt_path=None, quiet=True, wandb="digits")
    assert calls == ["init", ["epoch", "lr", "train_loss"], ("finish", 0)]
    calls.clear()
    fake.run = SimpleNamespace(summary={}, id="7")  # the user's own
    model.fit((x, x[:, :1]), epochs=1, ckpt_path=None, quiet=True, wandb=True)
    assert calls == [["epoch", "lr", "train_loss"]]
    assert fake.run.summary["best_train_loss"] > 0


def test_a_missing_wandb_is_answered_with_the_extra_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "wandb", None)
    x = torch.randn(30, 2)
    with pytest.raises(ImportError, match=r"pip install torchkeras\[wandb\]"):
        KerasModel(nn.Linear(2, 1), "mse").fit((x, x[:, :1]), wandb=True)
