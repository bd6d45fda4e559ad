"""Callbacks in Keras's words: their decisions; the epochs here are those in which Keras 3.15 makes them."""

import csv
import math

import numpy as np
import pytest
import torch
from torch import nn

from torchkeras import Model
from torchkeras.keras import callbacks

X, Y = torch.ones(8, 1), torch.zeros(8, 1)


class Play(callbacks.Callback):
    """Replaces the numbers of each epoch by given ones."""

    def __init__(self, values, name="val_loss"):
        self.values, self.name = values, name
        self.rates, self.weights = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.rates.append(round(self.model.learning_rate, 9))

    def on_epoch_end(self, epoch, logs=None):
        logs[self.name] = self.values[epoch]
        self.weights.append(self.model.get_weights())


def run(values, *told, name="val_loss", **options):
    play, model = Play(values, name), Model(nn.Linear(1, 1))
    model.compile("sgd", "mse")
    history = model.fit(X, Y, epochs=len(values), callbacks=[play, *told], verbose=0, **options)
    return play, model, history


@pytest.mark.parametrize(("options", "values", "epochs"), [
    ({"patience": 0}, [3, 2, 1, 2, 0], 4), ({"patience": 2}, [3, 2, 2.5, 2.5, 1], 4),
    ({"patience": 2, "min_delta": 0.5}, [3, 2.8, 2.7, 1, 0], 3), ({"patience": 2, "min_delta": -0.5}, [3, 2.8, 2.7, 0], 3),
    ({"patience": 1, "start_from_epoch": 3}, [1, 2, 3, 9, 9, 9, 9], 5), ({"patience": 3, "baseline": 1.0}, [3, 2, 1.5, 1.2], 4),
    ({"patience": 2, "mode": "max"}, [1, 2, 3, 2, 3, 9], 5), ({"patience": 1}, [math.nan, math.nan, 1, 1], 2),
    ({"patience": 9}, [1, 2, 3], 3)])
def test_early_stopping_ends_where_keras_ends(options, values, epochs):
    stop = callbacks.EarlyStopping("val_loss", **options)
    _, model, history = run(values, stop)
    assert len(history.epoch) == epochs
    assert stop.stopped_epoch == (epochs - 1 if epochs < len(values) else 0)


def test_early_stopping_brings_the_best_weights_back_if_asked():
    for restores in (True, False):
        play, model, _ = run([3, 1, 2, 2, 2], callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=restores))
        expected = play.weights[1 if restores else 3]
        assert all(map(np.array_equal, model.get_weights(), expected))
        assert not all(map(np.array_equal, play.weights[1], play.weights[3]))


def test_a_callback_can_be_used_again_and_a_missing_number_warns():
    stop = callbacks.EarlyStopping("val_loss", patience=1)
    assert len(run([1, 2, 3], stop)[2].epoch) == len(run([1, 2, 3], stop)[2].epoch) == 2
    with pytest.warns(UserWarning, match="'val_auc' was not measured"):
        run([1], callbacks.EarlyStopping("val_auc"))


@pytest.mark.parametrize(("options", "values", "rates"), [
    ({"patience": 1}, [3, 2, 2, 2, 1], [0.01, 0.01, 0.01, 0.001, 0.0001]),
    ({"patience": 2, "factor": 0.5}, [3, 2, 2, 2, 2, 2], [0.01] * 4 + [0.005] * 2),
    ({"patience": 1, "cooldown": 2}, [2, 2, 2, 2, 2, 2], [0.01] * 2 + [0.001] * 2 + [0.0001] * 2),
    ({"patience": 1, "min_lr": 0.004}, [2, 2, 2, 2], [0.01, 0.01, 0.004, 0.004]),
    ({"patience": 1, "min_delta": 1.0}, [3, 2.5, 1.5], [0.01, 0.01, 0.001]),
    ({"patience": 1, "mode": "max"}, [1, 2, 3], [0.01] * 3)])
def test_the_rate_is_lowered_where_keras_lowers_it(options, values, rates):
    play, _, history = run(values, callbacks.ReduceLROnPlateau("val_loss", **options))
    assert play.rates == pytest.approx(rates)
    assert history.history["learning_rate"] == pytest.approx(rates)


@pytest.mark.parametrize("schedule", [lambda epoch, rate: rate / 2, lambda epoch: 0.01 / 2 ** (epoch + 1)])
def test_a_schedule_sets_the_rate_of_each_epoch(schedule):
    _, model, history = run([1, 1, 1], callbacks.LearningRateScheduler(schedule))
    assert history.history["learning_rate"] == pytest.approx([0.005, 0.0025, 0.00125])
    assert model.learning_rate == pytest.approx(0.00125)


def test_weights_are_saved_in_files_named_by_epoch_and_numbers(tmp_path):
    _, model, _ = run([3, 1, 2], callbacks.ModelCheckpoint(tmp_path / "a{epoch:02d}-{val_loss:.1f}.pt"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a01-3.0.pt", "a02-1.0.pt", "a03-2.0.pt"]
    play, model, _ = run([3, 1, 2], callbacks.ModelCheckpoint(tmp_path / "best.pt", save_best_only=True))
    model.load_weights(tmp_path / "best.pt")
    assert all(map(np.array_equal, model.get_weights(), play.weights[1]))
    run([3, 1], callbacks.ModelCheckpoint(tmp_path / "b{epoch}_{batch}.pt", save_freq=3), batch_size=2)
    assert sorted(one.name for one in tmp_path.glob("b?_*")) == ["b1_3.pt", "b2_2.pt"]
    run([3, 1], callbacks.ModelCheckpoint(tmp_path / "c.pt", save_best_only=True, initial_value_threshold=0.5))
    assert not (tmp_path / "c.pt").exists()
    with pytest.raises(ValueError, match="names in braces among epoch, loss"):
        run([1], callbacks.ModelCheckpoint(tmp_path / "{val_auc}.pt"))


def test_a_table_has_keras_columns(tmp_path):
    path = tmp_path / "log.csv"
    for append in (False, True):
        run([3, 1], callbacks.CSVLogger(path, separator=";", append=append))
    with path.open(newline="") as file:
        rows = list(csv.reader(file, delimiter=";"))
    assert [row[0] for row in rows] == ["epoch", "0", "1", "0", "1"]
    assert rows[0] == ["epoch", "loss", "val_loss"]
    assert [row[2] for row in rows[1:]] == ["3", "1", "3", "1"]


def test_functions_histories_and_lines(capsys):
    seen, history = [], callbacks.History()
    _, _, found = run([3, 1], callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: seen.append(batch),
                                                       on_train_end=lambda logs: seen.append("end")), history)
    assert seen == [0, 0, "end"]
    assert history.history == found.history
    model = Model(nn.Linear(1, 1))
    model.compile("sgd", "mse")
    model.fit(X, Y, epochs=2, batch_size=4, verbose=2, callbacks=[callbacks.ProgbarLogger()])
    assert "Epoch 1/2\n2/2 - " in capsys.readouterr().out
    with pytest.raises(TypeError, match="Did you mean 'on_epoch_end'"):
        callbacks.LambdaCallback(on_epoch_ends=print)


def test_a_loss_that_is_nan_ends_the_run_and_is_an_error_if_asked():
    model = Model(nn.Linear(1, 1))
    model.compile("sgd", "mse")
    bad = torch.cat([X[:4], X[4:] * float("nan")])
    with pytest.warns(RuntimeWarning, match="train_loss is nan"):
        model.fit(bad, Y, batch_size=4, epochs=3, shuffle=False, verbose=0, callbacks=[callbacks.TerminateOnNaN()])
    with pytest.raises(RuntimeError, match="train_loss is nan"):
        model.fit(bad, Y, batch_size=4, epochs=3, shuffle=False, verbose=0,
                  callbacks=[callbacks.TerminateOnNaN(raise_error=True)])


def test_weights_go_in_and_out_as_arrays(tmp_path):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    model, other = Model(net), Model(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    given = model.get_weights()
    assert [one.shape for one in given] == [(3, 2), (3,), (3,), (3,), (3,), (3,), ()]
    assert model.count_params() == 15
    given[0][:] = 7
    assert net[0].weight.max() < 7  # copies
    other.set_weights(given)
    assert other.net[0].weight.min() == 7
    before = other.get_weights()
    with pytest.raises(ValueError, match="weights: received arrays of shapes"):
        other.set_weights([*given[:-1], np.zeros(5)])
    assert all(map(np.array_equal, other.get_weights(), before))  # all or none
    model.save_weights(tmp_path / "a.pt")
    with pytest.raises(ValueError, match="which is there already"):
        model.save_weights(tmp_path / "a.pt", overwrite=False)
    other.load_weights(tmp_path / "a.pt")
    assert all(map(np.array_equal, other.get_weights(), model.get_weights()))
    for write in (model.save_weights, lambda path: callbacks.ModelCheckpoint(path)):
        with pytest.raises(ValueError, match="Keras's file formats"):
            write(tmp_path / "a.weights.h5")


@pytest.mark.parametrize("name", ["TensorBoard", "SwapEMAWeights", "OrbaxCheckpoint", "RemoteMonitor"])
def test_what_is_not_shipped_says_what_to_take(name):
    with pytest.raises(ImportError, match=f"has no {name}: "):
        getattr(callbacks, name)


@pytest.mark.parametrize("make", [
    lambda: callbacks.EarlyStopping(patience=-1), lambda: callbacks.EarlyStopping(mode="down"),
    lambda: callbacks.ReduceLROnPlateau(factor=1.0), lambda: callbacks.LearningRateScheduler(3),
    lambda: callbacks.ModelCheckpoint("a.pt", save_freq="batch"), lambda: callbacks.BackupAndRestore(""),
    lambda: run([1], callbacks.LearningRateScheduler(lambda epoch, rate: None))])
def test_wrong_arguments_are_refused(make):
    with pytest.raises((TypeError, ValueError), match="received"):
        make()
