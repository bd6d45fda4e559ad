"""What users of Keras write, as they write it: one batch at a time, names, callbacks, steps, options."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from torchkeras import Model
from torchkeras.keras.callbacks import (
    BackupAndRestore,
    CSVLogger,
    EarlyStopping,
    LambdaCallback,
    LearningRateScheduler,
    ModelCheckpoint,
    ReduceLROnPlateau,
    TerminateOnNaN,
)

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(120, 4).astype("float32")
Y = (X[:, :1] > 0).astype("float32")


def model(optimizer="adam", loss="binary_crossentropy", metrics=("accuracy",), end=nn.Sigmoid):
    torch.manual_seed(0)
    made = Model(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1), end()))
    made.compile(optimizer=optimizer, loss=loss, metrics=list(metrics))
    return made


def test_batches_are_measured_alone_and_together():
    made = model()
    made.train_on_batch(X[:40], Y[:40])
    before = made.evaluate(X[40:80], Y[40:80])
    assert made.train_on_batch(X[40:80], Y[40:80]) == pytest.approx(before)  # this batch, before its update
    made.reset_metrics()
    for rows in (slice(0, 40), slice(40, 120)):
        found = made.test_on_batch(X[rows], Y[rows], reset_metrics=False)
    assert found == pytest.approx(made.evaluate(X, Y))
    assert made.predict_on_batch(X).shape == (120, 1)


@pytest.mark.parametrize(("name", "rate"), [
    ("sgd", 0.01), ("rmsprop", 0.001), ("adam", 0.001), ("nadam", 0.001), ("adadelta", 0.001), ("adagrad", 0.001),
    ("adamax", 0.001), ("adamw", 0.001), ("adafactor", 0.001), ("ftrl", 0.001), ("lion", 0.001), ("lamb", 0.001)])
def test_names_of_optimizers_have_keras_rates(name, rate):
    made = model(name)
    assert made.optimizer.learning_rate == made.learning_rate == rate
    made.optimizer.learning_rate = rate / 2
    made.train_on_batch(X, Y)
    assert made.optimizer.param_groups[0]["lr"] == rate / 2


def test_sgd_and_mse_give_the_loss_of_keras():
    x = np.linspace(-1, 1, 32, dtype="float32")[:, None]
    made = Model(nn.Linear(1, 1))
    made.set_weights([np.full((1, 1), 0.5), np.zeros(1)])
    made.compile("sgd", "mse")
    found = made.fit(x, 3 * x + 2, batch_size=8, epochs=3, shuffle=False, verbose=0).history["loss"]
    weight, bias, expected = 0.5, 0.0, []
    for _ in range(3):
        losses = []
        for start in range(0, 32, 8):
            part = x[start:start + 8, 0].astype("float64")
            error = weight * part + bias - (3 * part + 2)
            losses.append((error ** 2).mean())
            weight, bias = weight - 0.01 * 2 * (error * part).mean(), bias - 0.01 * 2 * error.mean()
        expected.append(np.mean(losses))
    assert found == pytest.approx(expected, rel=1e-5)


def test_callbacks_as_notebooks_give_them(tmp_path):
    seen = []
    made = model("sgd")
    told = [EarlyStopping(monitor="val_loss", patience=3, restore_best_weights=True),
            ModelCheckpoint(str(tmp_path / "best.pt"), monitor="val_loss", save_best_only=True, save_weights_only=True),
            ModelCheckpoint(filepath=str(tmp_path / "{epoch:02d}.pt")), CSVLogger(str(tmp_path / "log.csv")),
            ReduceLROnPlateau(monitor="val_loss", factor=0.5, patience=2), TerminateOnNaN(),
            LearningRateScheduler(lambda epoch, lr: lr * 0.9), BackupAndRestore(str(tmp_path / "backup")),
            LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(round(logs["learning_rate"], 6)))]
    history = made.fit(X, Y, batch_size=20, epochs=4, validation_split=0.25, callbacks=told, verbose=0)
    assert seen == [0.009, 0.0081, 0.00729, 0.006561]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["01.pt", "02.pt", "03.pt", "04.pt", "best.pt", "log.csv"]
    assert list(history.history) == ["loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"]
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 5


def test_a_models_weights_in_keras_words(tmp_path):
    made, other = model(), model()
    made.fit(X, Y, verbose=0)
    other.set_weights(made.get_weights())
    assert np.array_equal(made.predict(X), other.predict(X))
    made.save_weights(str(tmp_path / "weights.pt"))
    fresh = model()
    fresh.load_weights(str(tmp_path / "weights.pt"))
    assert np.array_equal(made.predict(X), fresh.predict(X))
    assert made.count_params() == 4 * 8 + 8 + 8 + 1


def test_steps_per_epoch_go_through_all_the_data():
    seen = []
    made = model()
    log = LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(batch))
    made.fit(X, Y, batch_size=20, steps_per_epoch=2, epochs=3, verbose=0, callbacks=[log])
    once = model()
    once.fit(X, Y, batch_size=20, epochs=1, verbose=0, shuffle=False)
    steps = model()
    steps.fit(X, Y, batch_size=20, steps_per_epoch=2, epochs=3, verbose=0, shuffle=False)
    assert seen == [0, 1] * 3
    assert all(map(np.array_equal, once.get_weights(), steps.get_weights()))


@pytest.mark.parametrize("loss", ["log_cosh", "poisson", "hinge", "squared_hinge", "msle", "binary_focal_crossentropy",
                                  "mean_squared_logarithmic_error", "dice", "tversky"])
def test_losses_by_name(loss):
    made = model("adam", loss, [])
    if loss in ("dice", "tversky"):
        made.evaluate(X, Y, batch_size=120)
        return
    assert math.isfinite(made.fit(X, Y, epochs=1, verbose=0, batch_size=30).history["loss"][0])


def test_auc_is_exact_where_keras_has_200_thresholds():
    made = model(metrics=["AUC"])
    scores = made.predict(X)[:, 0]
    assert made.evaluate(X, Y)[1] == pytest.approx(roc_auc_score(Y[:, 0], scores), abs=1e-12)
    counts = [((scores >= cut) & (Y[:, 0] == 1)).sum() for cut in np.linspace(0, 1, 200)]
    assert counts[0] == Y.sum()


def test_options_that_were_refused(tmp_path):
    made = model()
    history = made.fit(X, Y, epochs=3, batch_size=20, validation_data=(X, Y), validation_batch_size=60,
                       validation_freq=[2], ckpt_path=tmp_path / "a.pt", resume=True, save_every="epoch", verbose=0)
    assert len(history.history["val_loss"]) == 1
    assert made.validate((X, Y)) == pytest.approx({"val_loss": made.evaluate(X, Y)[0],
                                                   "val_accuracy": made.evaluate(X, Y)[1]})


def test_the_display_has_the_names_of_the_history(capsys):
    made = model()
    history = made.fit(X, Y, epochs=2, validation_split=0.25, verbose=1)
    printed = capsys.readouterr().out
    assert all(f" {name}=" in printed for name in history.history)
    assert "train_loss" not in printed
    assert "reach best" not in printed
    model().fit(X, Y, epochs=2, validation_split=0.25, patience=3, monitor="val_loss", verbose=1)
    assert "reach best val_loss" in capsys.readouterr().out  # where the best weights come back
