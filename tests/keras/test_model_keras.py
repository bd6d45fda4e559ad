"""Model in Keras's words: names, arrays, callbacks, one batch at a time, several outputs."""

import copy
import math
import pickle
import re

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import r2_score, roc_auc_score
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchkeras
from torchkeras import Callback, Input, KerasModel, Model, losses, metrics
from torchkeras.keras import optimizers
from torchkeras.keras.callbacks import KERAS_MOMENTS

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(200, 4, generator=GENERATOR)
Y = ((X[:, 0] + X[:, 1] * X[:, 2]) > 0).float()
TARGET = X.sum(1, keepdim=True)
QUIET = {"verbose": 0, "shuffle": False}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1), nn.Sigmoid())


def binary(**asked):
    model = Model(net())
    model.compile(**({"optimizer": "nadam", "loss": "binary_crossentropy", "metrics": ["accuracy", "AUC"]} | asked))
    return model


def linear(optimizer="sgd", **asked):
    torch.manual_seed(0)
    model = Model(nn.Linear(4, 1))
    model.compile(optimizer=optimizer, loss="mse", **asked)
    return model


def weights(model):
    return torch.cat([one.detach().flatten() for one in model.parameters()])


# What SPEC's users write

def test_a_binary_classifier_as_keras_users_write_it():
    model = binary()
    model.learning_rate = 0.01
    history = model.fit(X.numpy(), Y.numpy(), batch_size=10, epochs=40, validation_data=(X[:50].numpy(),
                        Y[:50].numpy()), verbose=0)
    assert list(history.history) == ["loss", "accuracy", "AUC", "val_loss", "val_accuracy", "val_AUC"]
    assert history.epoch == list(range(40))
    assert history.history["accuracy"][-1] > 0.85
    assert history.history["AUC"][-1] > 0.9
    assert model.history is history


def test_arrays_frames_and_loaders_give_the_same():
    ways = [(X.numpy(), Y.numpy()), (pd.DataFrame(X.numpy()), pd.Series(Y.numpy())), (X, Y),
            (DataLoader(TensorDataset(X, Y), 20), None), (TensorDataset(X, Y), None)]
    found = []
    for number, (x, y) in enumerate(ways):
        size, shuffle = (None, None) if number == 3 else (20, False)
        found.append(binary().fit(x, y, batch_size=size, epochs=2, verbose=0, shuffle=shuffle).history)
    assert all(one == found[0] for one in found)
    assert binary().fit(X, Y, batch_size=21, epochs=2, **QUIET).history != found[0]  # control


def test_options_reach_the_engine():
    model = binary()
    history = model.fit(X, Y, batch_size=20, epochs=5, initial_epoch=2, steps_per_epoch=2, validation_freq=2,
                        validation_split=0.25, validation_steps=2, clip_grad_norm=1.0, **QUIET)
    assert history.epoch == [2, 3, 4]
    assert len(history.history["loss"]) == 3
    assert len(history.history["val_loss"]) == 2  # the fourth epoch, and the last
    assert model.engine.run.global_step == 6
    assert model.engine.run.config.clip_grad_norm == 1.0
    frame = history.to_frame()
    assert frame["epoch"].tolist() == [3, 4, 5]
    assert math.isnan(frame["val_loss"][0])
    assert repr(history).startswith("FitHistory(3 epochs: loss, accuracy")


def test_a_generator_has_steps():
    def stream():
        while True:
            yield X[:20], Y[:20]

    assert len(binary().fit(stream(), epochs=2, steps_per_epoch=4, verbose=0).epoch) == 2


@pytest.mark.parametrize(("verbose", "shown"), [
    (0, []), (1, ["cpu is used", " loss=", " val_AUC="]), ("auto", [" loss="]),
    (2, ["Epoch 1/2 - ", "s - loss: ", " - accuracy: ", " - val_AUC: "])])
def test_verbose_says_how_much_is_shown(verbose, shown, capsys):
    binary().fit(X, Y, epochs=2, validation_split=0.2, verbose=verbose)
    printed = capsys.readouterr().out
    assert [one for one in shown if one not in printed] == []
    assert bool(printed) == bool(shown)
    assert "train_" not in printed
    assert "best" not in printed  # the last weights stay
    if verbose == 2:
        assert len(printed.splitlines()) == 2


# The numbers are the engine's

def test_weights_and_numbers_are_those_of_kerasmodel_bit_for_bit():
    asked = {"batch_size": 30, "epochs": 4, "class_weight": {0: 1.0, 1: 3.0}, "seed": 5, "validation_split": 0.2}
    watched = {"monitor": "train_loss", "ckpt_path": None, "quiet": True}
    model, own, other = binary(), net(), net()
    history = model.fit(X, Y, verbose=0, sample_weight=torch.linspace(0, 1, 200), **asked)
    twin = KerasModel(own, losses.BinaryCrossentropy(), {"accuracy": metrics.AccuracyByShape(from_logits=False)},
                      optimizers.Nadam(own.parameters()))
    expected = twin.fit((X, Y, torch.linspace(0, 1, 200)), **watched, **asked)
    KerasModel(other, losses.BinaryCrossentropy(), None, optimizers.Nadam(other.parameters())).fit((X, Y), **watched, **asked)
    assert expected["train_loss"].is_monotonic_decreasing  # so that the best weights are the last ones
    assert torch.equal(weights(model), weights(own))
    assert not torch.equal(weights(model), weights(other))  # control: without the sample weights
    assert history.history["loss"] == expected["train_loss"].tolist()
    assert history.history["val_accuracy"] == expected["val_accuracy"].tolist()


def test_a_second_fit_goes_on():
    once, twice = binary(), binary()
    once.fit(X, Y, epochs=4, **QUIET)
    twice.fit(X, Y, epochs=2, **QUIET)
    assert not torch.equal(weights(once), weights(twice))  # control
    second = twice.fit(X, Y, epochs=4, initial_epoch=2, **QUIET)
    assert torch.equal(weights(once), weights(twice))
    assert second.epoch == [2, 3]


class Grow:
    """Gets worse in each epoch but the first."""

    def on_epoch_begin(self, epoch, logs=None):
        self.model.optimizer.param_groups[0]["lr"] = 0.01 if epoch == 0 else -0.01

    def on_epoch_end(self, epoch, logs):
        self.weights = getattr(self, "weights", [])
        self.weights.append(weights(self.model))


def test_the_last_weights_stay_unless_the_best_are_asked_for(tmp_path):
    ends = {"last": {}, "patience": {"patience": 9}, "monitor": {"monitor": "val_loss"},
            "file": {"ckpt_path": tmp_path / "best.pt"}}
    for name, asked in ends.items():
        grow, model = Grow(), linear()
        model.fit(X, TARGET, epochs=3, callbacks=[grow], validation_split=0.2, **asked, **QUIET)
        assert len(grow.weights) == 3
        assert torch.equal(weights(model), grow.weights[2]) is (name == "last")
        assert torch.equal(weights(model), grow.weights[0]) is (name != "last")
    assert torch.equal(torch.load(tmp_path / "best.pt")["bias"], model.net.bias)


def test_patience_ends_a_run_by_a_number_under_keras_name():
    history = binary().fit(X, Y, epochs=50, patience=1, monitor="val_AUC", validation_split=0.2, **QUIET)
    assert len(history.epoch) < 50
    assert history.stop_reason.startswith("val_AUC without improvement in 1 epoch")


def test_weights_that_a_callback_sets_at_the_end_of_an_epoch_stay():
    class Average:
        def on_epoch_end(self, epoch, logs):
            with torch.no_grad():
                self.model.net.weight.fill_(0.5)

    model = linear()
    model.fit(X, TARGET, callbacks=[Average()], **QUIET)
    assert model.net.weight.tolist() == [[0.5] * 4]


# Callbacks

class Diary:
    """Writes down what it hears."""

    def __init__(self):
        self.heard = []

    def __getattr__(self, name):
        if name in ("set_model", "set_params", *KERAS_MOMENTS) and "on_batch_" not in name:
            return lambda *given: self.heard.append((name, *given[:-1]))
        raise AttributeError(name)


def test_the_moments_are_keras_in_its_order():
    diary = Diary()
    binary().fit(X[:40], Y[:40], batch_size=15, epochs=1, validation_split=0.25, callbacks=[diary], **QUIET)
    assert diary.heard == [
        ("set_params",), ("set_model",), ("on_train_begin",), ("on_epoch_begin", 0),
        ("on_train_batch_begin", 0), ("on_train_batch_end", 0), ("on_train_batch_begin", 1), ("on_train_batch_end", 1),
        ("on_test_begin",), ("on_test_batch_begin", 0), ("on_test_batch_end", 0), ("on_test_end",),
        ("on_epoch_end", 0), ("on_train_end",)]


def test_logs_are_the_means_so_far():
    seen = {}

    class Watch:
        def on_batch_end(self, batch, logs):
            seen[batch] = dict(logs)

        def on_epoch_end(self, epoch, logs):
            seen["epoch"] = dict(logs)
            logs["more"] = 7.0

    model = Model(nn.Linear(4, 1))
    model.compile(torch.optim.SGD(model.parameters(), lr=0.0), "mse", ["mae"])
    history = model.fit(X, TARGET, batch_size=80, callbacks=[Watch()], **QUIET)
    with torch.no_grad():
        for batch, end in enumerate((80, 160, 200)):
            expected = nn.functional.mse_loss(model(X[:end]), TARGET[:end]).item()
            assert seen[batch]["loss"] == pytest.approx(expected, rel=1e-6)
            assert seen[batch]["mae"] == pytest.approx((model(X[:end]) - TARGET[:end]).abs().mean().item(), rel=1e-6)
    assert seen[0] != seen[1]  # control
    assert seen["epoch"] == pytest.approx(seen[2])
    assert history.history["more"] == [7.0]


def test_logs_that_nobody_reads_are_not_computed():
    class Costly(metrics.MAE):
        computed = 0

        def compute(self):
            Costly.computed += 1
            return super().compute()

    class Reads:
        def __init__(self, reads):
            self.reads = reads

        def on_train_batch_end(self, batch, logs):
            self.reads and logs["costly"]

    for reads, least, most in ((False, 0, 4), (True, 10, 20)):
        Costly.computed = 0
        linear(metrics={"costly": Costly()}).fit(X, TARGET, batch_size=20, callbacks=[Reads(reads)], **QUIET)
        assert least <= Costly.computed <= most


def test_logs_that_are_kept_unread_do_not_turn_into_later_ones():
    class Keeps:
        def on_train_batch_end(self, batch, logs):
            self.logs = logs
            self.read = self.model.history.epoch == [0] and dict(logs)

    keeps = Keeps()
    linear().fit(X, TARGET, epochs=1, callbacks=[keeps], **QUIET)
    assert dict(keeps.logs) == {}
    linear().fit(X, TARGET, epochs=2, callbacks=[keeps], **QUIET)
    assert list(keeps.logs) == ["loss"]  # control: these were read in time


class Base:
    """A base class as Keras has it: the newer names of the batch moments call the older ones."""

    def set_params(self, params):
        self.params = params

    def set_model(self, model):
        self._model = model

    @property
    def model(self):
        return self._model

    def on_batch_end(self, batch, logs=None):
        """For subclasses."""

    def on_train_batch_end(self, batch, logs=None):
        self.on_batch_end(batch, logs=logs)

    def on_epoch_end(self, epoch, logs=None):
        """For subclasses."""


def test_callbacks_on_a_base_class_of_keras_kind_are_told_once():
    class Early(Base):
        """Ends a run whose watched number no longer gets better, and brings the best weights back."""

        def __init__(self):
            self.best, self.batches = math.inf, 0

        def on_batch_end(self, batch, logs=None):
            self.batches += 1

        def on_epoch_end(self, epoch, logs=None):
            if logs["val_loss"] < self.best:
                self.best, self.weights = logs["val_loss"], copy.deepcopy(self.model.state_dict())
            else:
                self.model.stop_training = True
                self.model.load_state_dict(self.weights)

    early, grow, model = Early(), Grow(), linear()
    history = model.fit(X, TARGET, batch_size=40, epochs=5, validation_split=0.2, callbacks=[grow, early], **QUIET)
    assert history.epoch == [0, 1]
    assert early.batches == 8
    assert early.params["epochs"] == 5
    assert torch.equal(weights(model), grow.weights[0])
    assert not torch.equal(weights(model), grow.weights[1])  # control


def test_stop_training_ends_the_epoch_which_counts():
    class Stop:
        batches = 0

        def on_train_batch_end(self, batch, logs):
            self.batches += 1
            if self.model.history.epoch == [0] and batch == 2:
                self.model.stop_training = True

    stop, model = Stop(), binary()
    history = model.fit(X, Y, batch_size=20, epochs=5, validation_split=0.2, callbacks=[stop], **QUIET)
    assert stop.batches == 8 + 3
    assert history.epoch == [0, 1]
    assert len(history.history["val_loss"]) == 2
    assert history.stop_reason == "stop_training was set"
    assert len(model.fit(X, Y, epochs=2, **QUIET).epoch) == 2  # it does not last


def test_own_callbacks_hear_the_same_run():
    class Own(Callback):
        def __init__(self):
            self.epochs = []

        def on_validation_epoch_end(self, model):
            self.epochs.append(model.run.epoch)
            if model.run.epoch == 2:
                model.run.stop("enough")

        def on_epoch_end(self, epoch, logs=None):
            self.epochs.append(("keras", epoch))

    own = Own()
    history = binary().fit(X, Y, epochs=5, callbacks=[own], **QUIET)
    assert own.epochs == [1, ("keras", 0), 2, ("keras", 1)]
    assert history.stop_reason == "enough"


def test_callbacks_change_no_number():
    plain, told = binary(), binary()
    diary = Diary()
    first, second = plain.fit(X, Y, epochs=2, **QUIET), told.fit(X, Y, epochs=2, callbacks=[diary], **QUIET)
    assert first.history == second.history
    assert torch.equal(weights(plain), weights(told))
    assert len(diary.heard) > 20
    assert "EpochRunner" not in vars(told.engine)


# The learning rate

def test_the_learning_rate_can_be_changed_between_batches():
    class Halve:
        def on_train_batch_begin(self, batch, logs=None):
            self.model.learning_rate = 0.1 / 2 ** batch

    model, other = linear(), linear()
    model.fit(X, TARGET, batch_size=50, callbacks=[Halve()], **QUIET)
    other.fit(X, TARGET, batch_size=50, **QUIET)
    torch.manual_seed(0)
    own = nn.Linear(4, 1)
    for batch, (x, y) in enumerate(zip(X.split(50), TARGET.split(50), strict=True)):
        loss = nn.functional.mse_loss(own(x), y)
        for weight, gradient in zip(own.parameters(), torch.autograd.grad(loss, own.parameters()), strict=True):
            weight.data.add_(gradient, alpha=-0.1 / 2 ** batch)
    assert torch.equal(weights(model), weights(own))
    assert not torch.equal(weights(other), weights(own))  # control
    assert model.learning_rate == 0.1 / 8
    assert isinstance(model.optimizer, torch.optim.SGD)


def test_a_tensor_learning_rate_stays_a_tensor():
    torch.manual_seed(0)
    model = Model(nn.Linear(4, 1))
    model.compile(torch.optim.SGD(model.parameters(), lr=torch.tensor(0.1)), "mse")
    model.learning_rate = 0.5
    assert isinstance(model.optimizer.param_groups[0]["lr"], torch.Tensor)
    assert model.learning_rate == 0.5


@pytest.mark.parametrize("name", ["learning_rate", "lr"])
def test_the_rate_is_an_attribute_of_the_optimizer_too(name):
    seen = []

    class Schedule:
        def on_epoch_begin(self, epoch, logs=None):
            seen.append(getattr(self.model.optimizer, name))
            setattr(self.model.optimizer, name, seen[-1] / 2)

    model, halved, other = linear(), linear(), linear()
    model.fit(X, TARGET, epochs=3, callbacks=[Schedule()], **QUIET)
    halved.fit(X, TARGET, epochs=3, callbacks=[Halved()], **QUIET)
    other.fit(X, TARGET, epochs=3, **QUIET)
    assert seen == [0.01, 0.005, 0.0025]
    assert torch.equal(weights(model), weights(halved))
    assert not torch.equal(weights(model), weights(other))  # control
    setattr(model.optimizer, name, 0.25)
    assert model.learning_rate == model.optimizer.param_groups[0]["lr"] == 0.25
    model.optimizer.param_groups[0]["lr"] = 0.125  # as a scheduler does
    assert getattr(model.optimizer, name) == 0.125
    held, start = model.optimizer, weights(model)
    setattr(held, name, 0.0)
    model.train_on_batch(X, TARGET)
    assert torch.equal(start, weights(model))
    with pytest.raises(TypeError, match="learning_rate: received 'much'"):
        model.learning_rate = "much"


class Halved:
    def on_epoch_begin(self, epoch, logs=None):
        for group in self.model.optimizer.param_groups:
            group["lr"] /= 2


def test_an_optimizer_that_means_something_else_by_lr_keeps_it():
    class Own(torch.optim.SGD):
        lr = "mine"

    model = Model(nn.Linear(4, 1))
    model.compile(Own(model.parameters(), 0.5), "mse")
    model.fit(X, TARGET, **QUIET)
    assert (model.optimizer.lr, model.optimizer.learning_rate) == ("mine", 0.5)


# One batch at a time

def test_train_on_batch_is_the_loop_written_by_hand():
    model, own = binary(optimizer="adam"), net()
    adam, total = optimizers.Adam(own.parameters()), 0.0
    preds = []
    start = weights(own)
    for x, y in zip(X.split(30), Y.split(30), strict=True):
        found = model.train_on_batch(x.numpy(), y.numpy(), reset_metrics=False)
        adam.zero_grad()
        preds.append(own(x))
        losses.BinaryCrossentropy()(preds[-1], y).backward()
        adam.step()
        total += nn.functional.binary_cross_entropy(preds[-1][:, 0], y).item() * len(x)
    assert torch.equal(weights(model), weights(own))
    assert not torch.equal(start, weights(own))  # control
    scores = torch.cat(preds).detach()[:, 0]
    assert found == pytest.approx([total / 200, ((scores >= 0.5) == (Y > 0.5)).float().mean().item(),
                                   roc_auc_score(Y, scores)], rel=1e-6)
    assert dict(zip(model.metrics_names, found, strict=True)).keys() == {"loss", "accuracy", "AUC"}


def test_gradients_from_elsewhere_do_not_count():
    plain, stale, summed = linear(), linear(), linear()
    stale.net.bias.grad = torch.ones(1)
    plain.train_on_batch(X, TARGET)
    stale.train_on_batch(X, TARGET)
    assert torch.equal(weights(plain), weights(stale))
    summed.net.bias.grad = torch.ones(1)
    nn.functional.mse_loss(summed(X), TARGET).backward()
    summed.optimizer.step()
    assert not torch.equal(weights(plain), weights(summed))  # control


def test_a_batch_is_measured_alone_and_with_those_before_it_only_where_asked():
    model = binary()
    first = model.train_on_batch(X[:20], Y[:20], return_dict=True)
    tested = model.test_on_batch(X[20:40], Y[20:40])
    alone = model.test_on_batch(X[40:60], Y[40:60])
    assert first["loss"] == pytest.approx(losses.BinaryCrossentropy()(net()(X[:20]), Y[:20]).item())
    assert alone == pytest.approx(model.evaluate(X[40:60], Y[40:60]))
    for _ in range(2):  # a call without reset_metrics=False begins anew
        model.test_on_batch(X[:7], Y[:7])
        model.test_on_batch(X[20:40], Y[20:40], reset_metrics=False)
        both = model.test_on_batch(X[40:60], Y[40:60], reset_metrics=False)
        assert both == pytest.approx(model.evaluate(X[20:60], Y[20:60]))
        assert both[0] == pytest.approx((tested[0] + alone[0]) / 2)
        assert both[0] != pytest.approx(alone[0])  # control
    model.reset_metrics()
    assert model.test_on_batch(X[40:60], Y[40:60], reset_metrics=False) == pytest.approx(alone)


def test_training_adds_up_apart_from_testing_by_samples():
    model = linear(metrics=["mae"])
    model.learning_rate = 0.0
    model.train_on_batch(X[:50], TARGET[:50], reset_metrics=False)
    model.test_on_batch(X[:9], TARGET[:9])
    both = model.train_on_batch(X[50:60], TARGET[50:60], reset_metrics=False)
    assert both == pytest.approx(model.evaluate(X[:60], TARGET[:60]), rel=1e-6)
    assert model.train_on_batch(X[50:60], TARGET[50:60]) == pytest.approx(model.evaluate(X[50:60], TARGET[50:60]),
                                                                          rel=1e-6)
    with pytest.raises(TypeError, match="reset_metrics"):
        model.train_on_batch(X, TARGET, reset_metrics="no")


def test_modes_and_dropout_are_right_and_left_alone():
    torch.manual_seed(0)
    inside = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.BatchNorm1d(64), nn.Linear(64, 1))
    model = Model(inside)
    model.compile("sgd", "mse")
    model.eval()
    assert model.test_on_batch(X, TARGET) == model.test_on_batch(X, TARGET)
    assert np.array_equal(model.predict_on_batch(X), model.predict_on_batch(X))
    mean = inside[2].running_mean.clone()
    assert isinstance(model.train_on_batch(X, TARGET), float)
    assert not torch.equal(mean, inside[2].running_mean)
    assert not inside.training


def test_batches_are_weighed():
    share = torch.linspace(0, 1, 200)
    model, classes = linear(), binary(metrics=None)
    with torch.no_grad():
        expected = ((model(X) - TARGET).square()[:, 0] * share).mean().item()
        each = losses.BinaryCrossentropy(reduction="none")(classes(X), Y)
        weighed = (each * (1 + 4 * Y)).mean().item()
    assert model.test_on_batch(X, TARGET, sample_weight=share) == pytest.approx(expected)
    assert model.test_on_batch(X, TARGET) != pytest.approx(expected)  # control
    assert classes.train_on_batch(X, Y, class_weight={1: 5.0}) == pytest.approx(weighed)


def test_a_batch_without_a_finite_loss_changes_nothing():
    model = linear()
    model.train_on_batch(X, TARGET)
    before = weights(model)
    with pytest.raises(ValueError, match="train_loss is nan"):
        model.train_on_batch(X * float("nan"), TARGET)
    assert torch.equal(before, weights(model))
    model.train_on_batch(X, TARGET)
    assert not torch.equal(before, weights(model))  # control


def test_a_loop_of_ones_own_as_keras_users_write_it():
    model = binary()
    train, val = DataLoader(TensorDataset(X[:160], Y[:160]), 20), DataLoader(TensorDataset(X[160:], Y[160:]), 20)
    rows = []
    for epoch in range(1, 31):
        model.reset_metrics()
        if epoch == 15:
            model.learning_rate = model.learning_rate / 2
        for x, y in train:
            trained = model.train_on_batch(x, y, reset_metrics=False)
        for x, y in val:
            tested = model.test_on_batch(x, y, reset_metrics=False)
        rows.append(dict(zip(model.metrics_names, trained, strict=True)))
    assert rows[-1]["loss"] < 0.9 * rows[0]["loss"]
    assert tested == pytest.approx(model.evaluate(val))


# Evaluate, predict, save

def test_evaluate_gives_what_keras_gives(capsys):
    model = binary()
    found = model.evaluate(X, Y, batch_size=7)
    assert model.evaluate(X, Y, return_dict=True) == pytest.approx(dict(zip(model.metrics_names, found, strict=True)))
    assert found[2] == pytest.approx(roc_auc_score(Y, model.predict(X)))
    assert isinstance(linear().evaluate(X, TARGET), float)
    assert capsys.readouterr().out == ""
    model.evaluate(X, Y, verbose=1)
    assert capsys.readouterr().out.startswith("loss: ")


def test_predict_gives_numpy_and_takes_no_array_for_labels():
    class Two(Model):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(8, 2)

        def forward(self, a, b):
            return self.linear(torch.cat([a, b], 1))

    model = Two()
    expected = model(X, X).detach().numpy()
    for given in ([X, X], (X.numpy(), X.numpy()), {"a": X, "b": X}):
        assert np.array_equal(model.predict(given, batch_size=200), expected)
        assert np.array_equal(model.predict_on_batch(given), expected)
    assert linear().predict(DataLoader(TensorDataset(X, TARGET), 20)).shape == (200, 1)
    assert Model(net()).predict(X.numpy()).shape == (200, 1)  # before compile too


def test_weights_are_saved_without_anything_else(tmp_path):
    model, other = binary(), Model(net())
    model.fit(X, Y, **QUIET)
    for name in ("net.pt", "net.safetensors"):
        model.save(tmp_path / name)
        other.net[0].weight.data.zero_()
        assert not torch.equal(weights(model), weights(other))  # control
        assert str(other.load(tmp_path / name)) == "4 of 4 weights loaded"
        assert torch.equal(weights(model), weights(other))
    assert list(torch.load(tmp_path / "net.pt", weights_only=True)) == list(model.net.state_dict())
    with pytest.raises(ValueError, match="Keras"):
        model.save(tmp_path / "model.keras")


# Nets of every kind

def test_a_drawn_net_is_an_ordinary_model(capsys):
    x = Input((4,))
    hidden = nn.Linear(4, 8)(x).relu()
    model = Model(inputs=x, outputs=nn.Linear(8, 1)(hidden))
    same = Model(x, nn.Linear(8, 1)(hidden))
    model.compile(optimizer="adam", loss="mse", metrics=["mae"])
    history = model.fit(X, TARGET, epochs=30, verbose=0)
    assert history.history["loss"][-1] < 0.5 * history.history["loss"][0]
    assert model(X).shape == same(X).shape == (200, 1)
    for show in (model.summary, lambda: torchkeras.summary(model)):
        show()
        assert "Connected to" in capsys.readouterr().out
    twin = copy.deepcopy(model)
    twin.fit(X, TARGET, **QUIET)
    assert not torch.equal(weights(model), weights(twin))
    assert torch.equal(torch.compile(model, backend="eager")(X), model(X))


def test_several_inputs_come_in_lists_and_dicts():
    histories = []
    for given in ([X, TARGET], (X.numpy(), TARGET.numpy()), {"a": X, "b": TARGET}, {"b": TARGET, "a": X}):
        torch.manual_seed(0)
        a, b = Input((4,), name="a"), Input((1,), name="b")
        model = Model(inputs=[a, b], outputs=nn.Linear(5, 1)(torch.cat([a, b], 1)))
        model.compile("sgd", "mse", ["mae"])
        histories.append(model.fit(given, TARGET, epochs=2, validation_data=(given, TARGET), **QUIET).history)
        histories.append(model.fit(given, TARGET, validation_split=0.5, **QUIET).history)
        assert model.evaluate(given, TARGET)[0] == pytest.approx(model.test_on_batch(given, TARGET)[0])
    assert all(one == histories[0] for one in histories[::2])
    assert all(one == histories[1] for one in histories[1::2])
    assert histories[0]["val_loss"][-1] < histories[0]["loss"][0]


def test_a_subclass_survives_copying_and_pickling():
    model = Pair()
    model.compile("adam", "mse", ["mae"])
    model.fit(X, TARGET, **QUIET)
    model.train_on_batch(X, TARGET)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.engine.net is other
        before = weights(model)
        other.fit(X, TARGET, **QUIET)
        model.load_state_dict(model.state_dict())
        assert torch.equal(before, weights(model))
        assert not torch.equal(before, weights(other))
    assert list(model.state_dict()) == ["net.weight", "net.bias"]


class Pair(Model):
    """A subclass with a part that has the name of what ``Model`` holds."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(4, 1)

    def forward(self, x):
        return self.net(x) * 2


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's compiler looks
def test_torchs_own_compile_stays_within_reach():
    model = binary()
    expected = model.predict_on_batch(X)
    model.compile(backend="eager", dynamic=False)
    assert model.net._compiled_call_impl is not None
    assert np.array_equal(model.predict_on_batch(X), expected)
    assert model.metrics_names == ["loss", "accuracy", "AUC"]  # how it is trained stays
    model.fit(X, Y, **QUIET)
    other = Pair()
    nn.Module.compile(other, backend="eager")
    assert other._compiled_call_impl is not None


@pytest.mark.parametrize(("option", "said"), [
    ({"run_eagerly": True}, None), ({"jit_compile": "auto"}, None), ({"steps_per_execution": 1}, None),
    ({"weighted_metrics": []}, None), ({"auto_scale_loss": True}, None), ({"jit_compile": True}, "speed='fast'"),
    ({"steps_per_execution": 8}, "speed='fast'"), ({"weighted_metrics": ["accuracy"]}, "give them as metrics="),
    ({"run_eager": True}, "unknown beside these")])
def test_options_of_keras_are_taken_where_they_ask_for_what_is_done_and_else_answered(option, said):
    def compiled():
        model = Model(nn.Linear(4, 1))
        model.compile(loss="mse", optimizer="sgd", metrics=["mae"], **option)
        return model.fit(X, Y, **QUIET)

    if said is None:
        assert "mae" in compiled().history
    else:
        with pytest.raises((TypeError, ValueError), match=re.escape(said)):
            compiled()


def test_a_batch_that_cannot_be_is_named_by_its_own_arguments():
    model = binary()
    with pytest.raises(ValueError, match=re.escape("(x, y): received (x, y)[0] of length ")):
        model.train_on_batch(X, Y[:5])
    model.compile(loss="mse", optimizer="sgd")
    with pytest.raises(ValueError, match="^x: received a first loss of nan"):
        model.train_on_batch(np.full_like(X, np.nan), Y)


# Names and functions

def test_logits_are_read_where_they_are_announced():
    torch.manual_seed(0)
    inside = nn.Linear(4, 1)
    found = []
    for loss, from_logits in (("binary_crossentropy", True), (nn.BCEWithLogitsLoss(), False)):
        model = Model(inside)
        model.compile("sgd", loss, ["accuracy"], from_logits=from_logits)
        found.append(model.evaluate(X, Y[:, None]))
    assert found[0] == pytest.approx(found[1])
    right = ((inside(X)[:, 0] > 0) == (Y > 0.5)).float().mean().item()
    assert found[0][1] == pytest.approx(right)
    model.compile("sgd", "mse", ["accuracy"])  # no loss of logits: an answer is yes from 0.5 on
    assert model.evaluate(X, Y[:, None])[1] == pytest.approx(
        ((inside(X)[:, 0] >= 0.5) == (Y > 0.5)).float().mean().item())
    assert model.evaluate(X, Y[:, None])[1] != pytest.approx(right)  # control


def test_class_labels_are_read_by_their_shape():
    torch.manual_seed(0)
    inside = nn.Sequential(nn.Linear(4, 3), nn.Softmax(1))
    labels = X[:, :3].argmax(1)
    sparse, dense = Model(inside), Model(inside)
    sparse.compile("adam", "sparse_categorical_crossentropy", ["accuracy", "sparse_categorical_accuracy"])
    dense.compile("adam", "categorical_crossentropy", ["accuracy"])
    loss, accuracy, named = sparse.evaluate(X, labels)
    assert [loss, accuracy] == pytest.approx(dense.evaluate(X, nn.functional.one_hot(labels, 3)))
    assert accuracy == named == pytest.approx((inside(X).argmax(1) == labels).float().mean().item())


def test_functions_are_called_in_the_order_that_their_arguments_tell():
    def skewed(y_true, y_pred):
        return ((y_true - 3 * y_pred) ** 2).mean()

    def ours(preds, labels):
        return ((labels - 3 * preds) ** 2).mean()

    found = []
    for function in (skewed, ours):
        model = linear(metrics=None)
        model.compile("sgd", function, [function, r2_score])
        found.append(model.evaluate(X, TARGET, return_dict=True))
    assert list(found[0]) == ["loss", "skewed", "r2_score"]
    assert list(found[0].values()) == pytest.approx(list(found[1].values()))
    assert found[0]["skewed"] == pytest.approx(found[0]["loss"], rel=1e-6)
    assert found[0]["r2_score"] == pytest.approx(r2_score(TARGET, model.predict(X)), rel=1e-5)
    assert found[0]["loss"] != pytest.approx(skewed(torch.as_tensor(model.predict(X)), TARGET).item())  # control


def test_metric_columns_are_called_as_they_were_given():
    model = binary(metrics=["accuracy", "AUC", metrics.TopK(1), metrics.AUC(), metrics.AUC(), metrics.F1()])
    assert model.metrics_names == ["loss", "accuracy", "AUC", "top_k", "auc", "auc_1", "f1"]
    assert binary(metrics="acc").metrics_names == ["loss", "acc"]
    assert binary(metrics={"right": "accuracy"}).metrics_names == ["loss", "right"]


# Several outputs

def several(loss, loss_weights=None, metrics=None, as_dict=True, **asked):
    torch.manual_seed(0)
    x = Input((4,), name="x")
    topic, stars = nn.Linear(4, 3), nn.Linear(4, 1)
    drawn = {"topic": topic(x), "stars": stars(x)} if as_dict else [topic(x), stars(x)]
    model = Model(inputs=x, outputs=drawn, names={"topic": topic, "stars": stars})
    model.compile(torch.optim.SGD(model.parameters(), lr=0.1), loss, metrics, loss_weights, **asked)
    return model


TOPIC = X[:, :3].argmax(1)
BOTH = {"topic": TOPIC, "stars": TARGET}


def by_hand(steps, share, weight=None):
    """The weights after some epochs of one batch, and the losses of the first."""
    torch.manual_seed(0)
    topic, stars = nn.Linear(4, 3), nn.Linear(4, 1)
    sgd = torch.optim.SGD([*topic.parameters(), *stars.parameters()], lr=0.1)
    weight = torch.ones(200) if weight is None else weight
    for _ in range(steps):
        parts = [nn.functional.cross_entropy(topic(X), TOPIC, reduction="none"), (stars(X) - TARGET).square()[:, 0]]
        sgd.zero_grad()
        ((parts[0] * weight).mean() + share * (parts[1] * weight).mean()).backward()
        sgd.step()
    return torch.cat([one.detach().flatten() for one in (*topic.parameters(), *stars.parameters())])


def test_several_outputs_learn_as_a_loop_by_hand():
    asked = {"loss": {"topic": "cross_entropy", "stars": "mse"}, "loss_weights": {"stars": 0.25}}
    model = several(**asked, metrics={"topic": ["accuracy"], "stars": "mae"})
    history = model.fit(X, BOTH, batch_size=200, epochs=3, **QUIET).history
    assert list(history) == ["loss", "topic_loss", "stars_loss", "topic_accuracy", "stars_mae"]
    assert history["loss"] == pytest.approx([a + 0.25 * b for a, b in zip(history["topic_loss"],
                                                                            history["stars_loss"], strict=True)])
    assert torch.allclose(weights(model), by_hand(3, 0.25), atol=1e-6)
    assert not torch.allclose(weights(model), by_hand(3, 1.0), atol=1e-3)  # control
    share = torch.linspace(0, 1, 200)
    weighed = several(**asked)
    weighed.fit(X, BOTH, batch_size=200, epochs=3, sample_weight=share, **QUIET)
    assert torch.allclose(weights(weighed), by_hand(3, 0.25, share), atol=1e-6)
    assert not torch.allclose(weights(weighed), weights(model), atol=1e-3)  # control


def test_weights_of_one_change_nothing_where_an_output_has_several_values():
    x = Input((4,))
    wide, narrow = nn.Linear(4, 4), nn.Linear(4, 1)
    model = Model(x, {"wide": wide(x), "narrow": narrow(x)})
    model.compile("sgd", {"wide": "mse", "narrow": nn.L1Loss()})
    labels = {"wide": X, "narrow": TARGET}
    assert model.evaluate(X, labels, sample_weight=torch.ones(200)) == pytest.approx(model.evaluate(X, labels))
    twice = model.evaluate(X, labels, sample_weight=torch.full((200,), 2.0))
    assert twice[0] == pytest.approx(2 * model.evaluate(X, labels)[0])


def test_outputs_in_a_list_go_by_place_or_by_name():
    named = several({"topic": "cross_entropy", "stars": "mse"}, [1, 0.25], {"topic": "accuracy"}, as_dict=False)
    placed = several(["cross_entropy", "mse"], [1, 0.25], [["accuracy"], None], as_dict=False)
    first = named.fit(X, [TOPIC, TARGET], epochs=2, validation_split=0.25, **QUIET).history
    assert first == placed.fit(X, BOTH, epochs=2, validation_split=0.25, **QUIET).history
    assert list(first)[:4] == ["loss", "topic_loss", "stars_loss", "topic_accuracy"]
    assert first["val_loss"] != first["loss"]
    assert [one.shape for one in placed.predict(X)] == [(200, 3), (200, 1)]
    assert placed.metrics_names == ["loss", "topic_loss", "stars_loss", "topic_accuracy"]
    assert len(placed.evaluate(X, [TOPIC, TARGET])) == 4
    assert placed.test_on_batch(X, [TOPIC, TARGET]) == pytest.approx(placed.evaluate(X, [TOPIC, TARGET]))


def test_a_written_net_with_several_outputs_and_an_output_without_a_loss():
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 1)

        def forward(self, x):
            return {"a": self.linear(x), "b": self.linear(x).sigmoid(), "c": x}

    model = Model(Written())
    model.compile("adam", {"a": "mse", "b": "binary_crossentropy"}, {"b": ["accuracy"]}, from_logits=False)
    history = model.fit(X, {"a": TARGET, "b": Y}, epochs=2, **QUIET).history
    assert list(history) == ["loss", "a_loss", "b_loss", "b_accuracy"]
    assert history["loss"] == pytest.approx([a + b for a, b in zip(history["a_loss"], history["b_loss"], strict=True)])


def test_one_loss_is_that_of_each_output():
    x = Input((4,))
    first, second = nn.Linear(4, 1), nn.Linear(4, 1)
    model = Model(x, {"a": first(x), "b": second(x)})
    model.compile("sgd", "mse")
    found = model.evaluate(X, {"a": TARGET, "b": TARGET}, return_dict=True)
    assert found["loss"] == pytest.approx(found["a_loss"] + found["b_loss"])
    assert found["a_loss"] != pytest.approx(found["b_loss"])  # control


def test_penalties_of_layers_join_the_loss():
    torch.manual_seed(0)
    layer = losses.regularized(nn.Linear(4, 1), "l1_l2")
    model, plain = Model(layer), linear()
    model.compile("sgd", "mse", ["mae"])
    asked = losses.LayerPenalty(layer)().item()
    assert model.evaluate(X, TARGET)[0] == pytest.approx(plain.evaluate(X, TARGET) + asked)
    assert asked > 1e-3  # control


def test_a_layer_cannot_take_the_name_of_something_that_model_does():
    class Net(Model):
        def __init__(self, name):
            super().__init__()
            setattr(self, name, nn.Linear(4, 1))

        def forward(self, x):
            return x

    for name in ("predict", "engine", "fit", "train_on_batch"):
        with pytest.raises(ValueError, match=f"self.{name}"):
            Net(name)
    assert Net("head").head.out_features == 1


def test_a_model_that_is_not_compiled_can_be_looked_at():
    model = Model(net())
    assert (model.optimizer, model.learning_rate, model.metrics_names, model.history) == (None, None, [], None)
    assert not hasattr(model, "nothing")


# What is refused

WRONG = [
    (lambda m: Model(), TypeError, ["net", "subclass"]),
    (lambda m: Model(nn.Linear), TypeError, ["the class Linear"]),
    (lambda m: Model(net=3), TypeError, ["net", "int"]),
    (lambda m: Model(nn.Linear(1, 1)).fit(X, Y), RuntimeError, ["call model.compile("]),
    (lambda m: Model(nn.Linear(1, 1)).train_on_batch(X, Y), RuntimeError, ["call model.compile("]),
    (lambda m: m.compile("adamm", "mse"), ValueError, ["optimizer", "Did you mean 'adam'?"]),
    (lambda m: m.compile(torch.optim.Adam, "mse"), TypeError, ["the class Adam"]),
    (lambda m: m.compile("adam", "binary_crossentropi"), ValueError, ["Did you mean 'binary_crossentropy'?"]),
    (lambda m: m.compile("adam", nn.MSELoss), TypeError, ["Did you mean MSELoss()?"]),
    (lambda m: m.compile("adam", "mse", from_logits=True), ValueError, ["from_logits"]),
    (lambda m: m.compile("adam", "mse", ["acuracy"]), ValueError, ["Did you mean 'accuracy'?"]),
    (lambda m: m.compile("adam", "mse", [metrics.AUC]), TypeError, ["the class AUC"]),
    (lambda m: m.compile("adam", "mse", [3]), TypeError, ["metrics", "int"]),
    (lambda m: m.compile("adam", "mse", 3), TypeError, ["metrics", "list"]),
    (lambda m: m.compile("adam", "mse", loss_weights=[1]), ValueError, ["loss_weights"]),
    (lambda m: m.compile("adam", "mse", metric=["mae"]), TypeError, ["Did you mean 'metrics'?"]),
    (lambda m: m.compile("adam", "mse", backend="eager"), TypeError, ["compile(backend=...) without"]),
    (lambda m: m.fit(), TypeError, ["x: received None"]),
    (lambda m: m.fit(X, Y, epoch=3), TypeError, ["Did you mean 'epochs'?"]),
    (lambda m: m.fit(X, Y, resume=True), ValueError, ["ckpt_path: received None with resume"]),
    (lambda m: m.fit(X, Y, quiet=True), TypeError, ["fit(quiet=...)"]),
    (lambda m: m.fit(X, Y, batch_size=10, steps_per_epoch=3, resume=True, ckpt_path="x"), ValueError,
     ["steps_per_epoch: received 3 of 20 batches, with resume"]),
    (lambda m: m.fit(X, Y, verbose=3), ValueError, ["verbose"]),
    (lambda m: m.fit(X, Y, epochs=0), ValueError, ["epochs"]),
    (lambda m: m.fit(X, Y, validation_split=2), ValueError, ["validation_split"]),
    (lambda m: m.fit(X, Y[:5]), ValueError, ["200", "5"]),
    (lambda m: m.fit(X, Y, log_step_freq=3), TypeError, ["log_step_freq"]),
    (lambda m: m.fit(X, sample_weight=Y), ValueError, ["sample_weight"]),
    (lambda m: m.fit(DataLoader(X), Y), ValueError, ["y: received labels beside x"]),
    (lambda m: m.fit(X, Y, callbacks=Grow()), TypeError, ["callbacks=[...]"]),
    (lambda m: m.fit(X, Y, callbacks=[Grow]), TypeError, ["Did you mean Grow()?"]),
    (lambda m: m.fit(X, Y, callbacks=[Misspelt()]), TypeError, ["Did you mean 'on_epoch_end'?"]),
    (lambda m: m.fit(X, Y, patience=2, monitor="val_auc", validation_split=0.2), ValueError, ["val_AUC"]),
    (lambda m: m.train_on_batch(X, Y[:5]), ValueError, ["200", "5"]),
    (lambda m: m.predict(None), TypeError, ["None"]),
]


class Misspelt:
    def on_epoch_ends(self, epoch, logs=None):
        """Never called."""


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_wrong_calls_are_refused_with_what_to_do(case):
    call, kind, words = WRONG[case]
    model = binary()
    before = weights(model)
    with pytest.raises(kind) as error:
        call(model)
    assert [word for word in words if word not in str(error.value)] == []
    assert torch.equal(before, weights(model))


@pytest.mark.parametrize(("asked", "kind", "words"), [
    ({"loss": {"topc": "mse"}}, ValueError, ["Did you mean 'topic'?"]),
    ({"loss": ["mse"]}, ValueError, ["2, one for each of the outputs topic, stars"]),
    ({"loss": {"topic": None}}, ValueError, ["at least one"]),
    ({"loss": "mse", "metrics": ["mae"]}, TypeError, ["{'topic': ['accuracy']}"]),
    ({"loss": "mse", "loss_weights": {"stars": "much"}}, TypeError, ["loss_weights"]),
    ({"loss": {"topic": nn.CrossEntropyLoss(reduction="sum")}}, ValueError, ["'sum'", "'topic'"]),
])
def test_wrong_words_for_several_outputs_are_refused(asked, kind, words):
    with pytest.raises(kind) as error:
        several(**asked)
    assert [word for word in words if word not in str(error.value)] == []


def test_data_that_does_not_fit_several_outputs_is_refused():
    model = several({"topic": "cross_entropy", "stars": "mse"})
    for labels, words in (({"topc": TOPIC, "stars": TARGET}, "Did you mean 'topc'?"), ([TOPIC], "'stars'")):
        with pytest.raises(ValueError, match=r"labels") as error:
            model.fit(X, labels, **QUIET)
        assert words in str(error.value)
    with pytest.raises(ValueError, match="several outputs"):
        model.fit(X, BOTH, class_weight={0: 2.0}, **QUIET)
    x = Input((4,))
    twice = nn.Linear(4, 1)(x)
    with pytest.raises(ValueError, match="'loss'"):
        Model(x, {"loss": twice, "b": twice}).compile("sgd", "mse")


def test_the_model_is_among_the_public_names():
    assert torchkeras.Model is Model
    assert "Model" in torchkeras.__all__
