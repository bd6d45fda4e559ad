"""Beside the package keras itself, where it is installed: the same losses, decisions and numbers."""

import csv
import os
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from torch import nn

from torchkeras import Model
from torchkeras.keras import callbacks as ours

if find_spec("keras") is None:
    pytest.skip("keras is not installed", allow_module_level=True)
os.environ["KERAS_BACKEND"] = "torch"
import keras

# Keras converts torch's tensors in a way that numpy warns of
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

RANDOM = np.random.RandomState(0)
X = RANDOM.randn(96, 6).astype("float32")
Y = (np.sin(X[:, :1] * 2) + X[:, 1:2] * X[:, 2:3]).astype("float32")
FIRST, SECOND = ((RANDOM.randn(*shape) * 0.4).astype("float32") for shape in ((6, 8), (8, 1)))
VAL = (X[:32] * 1.5, Y[:32])


def theirs(optimizer, metrics=("mae",)):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)])
    model.set_weights([FIRST, np.zeros(8, "float32"), SECOND, np.zeros(1, "float32")])
    model.compile(optimizer, "mse", metrics=list(metrics), jit_compile=False)
    return model


def mine(optimizer, metrics=("mae",)):
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
    model = Model(net)
    model.set_weights([FIRST.T, np.zeros(8), SECOND.T, np.zeros(1)])
    model.compile(optimizer if isinstance(optimizer, str) else optimizer(net.parameters()), "mse", list(metrics))
    return model


def fitted(model, callbacks, epochs=12, **options):
    options = {"batch_size": 16, "shuffle": False, "verbose": 0, "validation_data": VAL} | options
    return model.fit(X, Y, epochs=epochs, callbacks=callbacks, **options)


def weights(model):
    found = [np.asarray(one) for one in model.get_weights()]
    return [one.T if one.ndim == 2 and isinstance(model, Model) else one for one in found]


def same(first, second, **tolerance):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, **({"atol": 2e-5, "rtol": 1e-4} | tolerance))


CALLBACKS = {
    "stops": lambda kit: [kit.EarlyStopping("val_loss", patience=2, restore_best_weights=True)],
    "stops late": lambda kit: [kit.EarlyStopping("val_mae", patience=1, start_from_epoch=4, mode="min")],
    "has a baseline": lambda kit: [kit.EarlyStopping("loss", patience=3, baseline=0.5, min_delta=0.01)],
    "lowers the rate": lambda kit: [kit.ReduceLROnPlateau("val_loss", factor=0.3, patience=1, cooldown=1, min_lr=1e-3)],
    "lowers it by a margin": lambda kit: [kit.ReduceLROnPlateau("loss", factor=0.5, patience=2, min_delta=0.05)],
    "schedules": lambda kit: [kit.LearningRateScheduler(lambda epoch, rate: rate * 0.9 if epoch else rate)],
    "schedules by the epoch": lambda kit: [kit.LearningRateScheduler(lambda epoch: 0.05 / (epoch + 1))],
    "two": lambda kit: [kit.ReduceLROnPlateau("val_loss", factor=0.5, patience=1),
                        kit.EarlyStopping("val_loss", patience=4, restore_best_weights=True)],
}


@pytest.mark.parametrize("kit", [ours, keras.callbacks], ids=["ours", "keras.callbacks"])
@pytest.mark.parametrize("case", CALLBACKS)
def test_callbacks_decide_as_in_keras_epoch_by_epoch(case, kit):
    model, other = theirs(keras.optimizers.SGD(0.3)), mine(lambda given: torch.optim.SGD(given, 0.3))
    expected = fitted(model, CALLBACKS[case](keras.callbacks))
    found = fitted(other, CALLBACKS[case](kit))
    assert found.epoch == expected.epoch
    assert sorted(found.history) == sorted(expected.history)
    for name, values in expected.history.items():
        np.testing.assert_allclose(found.history[name], values, atol=2e-5, rtol=1e-4, err_msg=name)
    same(weights(other), weights(model))


@pytest.mark.parametrize("validates", [True, False])
def test_tables_of_csv_logger_are_those_of_keras(tmp_path, validates):
    rows = {"ours": [], "keras": []}  # Keras's logger, on our model: with torch it fails on Keras's own
    options = {} if validates else {"validation_data": None}
    for append in (False, True, True):
        for name, logger in (("ours", ours.CSVLogger), ("keras", keras.callbacks.CSVLogger)):
            fitted(mine("sgd"), [logger(str(tmp_path / name), append=append)], epochs=3, **options)
            with (tmp_path / name).open(newline="") as file:
                rows[name].append(list(csv.reader(file)))
    assert rows["ours"] == rows["keras"]
    assert [len(one) for one in rows["ours"]] == [4, 7, 10]
    expected = fitted(theirs("sgd"), [], epochs=3, **options).history
    column = rows["ours"][0][0].index("mae")
    np.testing.assert_allclose([float(row[column]) for row in rows["ours"][0][1:]], expected["mae"], atol=1e-5)


def test_checkpoints_are_saved_in_the_same_epochs_and_batches(tmp_path):
    for kind, options in {"best": {"save_best_only": True}, "all": {}, "batches": {"save_freq": 4},
                          "threshold": {"save_best_only": True, "initial_value_threshold": 1.3}}.items():
        names = []
        for place, (model, kit, suffix) in enumerate((
                (theirs(keras.optimizers.SGD(0.3)), keras.callbacks, "weights.h5"),
                (mine(lambda given: torch.optim.SGD(given, 0.3)), ours, "pt"))):
            folder = tmp_path / f"{kind}{place}"
            path = folder / ("{epoch:02d}_{batch}." if kind == "batches" else "{epoch:02d}.")
            fitted(model, [kit.ModelCheckpoint(f"{path}{suffix}", save_weights_only=True, **options)])
            names.append(sorted(one.name.split(".")[0] for one in folder.iterdir()))
        assert names[0] == names[1]


def test_further_callbacks_of_keras_work(capsys):
    seen = []
    lambdas = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append((epoch, sorted(logs))))
    history = keras.callbacks.History()
    model = mine("sgd")
    found = fitted(model, [lambdas, history, keras.callbacks.TerminateOnNaN(), keras.callbacks.ProgbarLogger()],
                   epochs=2, verbose=2)
    assert seen == [(0, ["loss", "mae", "val_loss", "val_mae"]), (1, ["loss", "mae", "val_loss", "val_mae"])]
    assert history.history == found.history
    assert model.history is found
    assert history.params == {"epochs": 2, "steps": 6, "verbose": 2}
    assert "6/6" in capsys.readouterr().out


def test_the_direction_of_a_metric_is_known_to_keras_callbacks():
    labels = (Y > 0).astype("float32")
    model = Model(nn.Sequential(nn.Linear(6, 1), nn.Sigmoid()))
    model.compile("adam", "binary_crossentropy", ["accuracy"])
    stop = keras.callbacks.EarlyStopping("val_accuracy", patience=2)
    model.fit(X, labels, epochs=4, callbacks=[stop], validation_split=0.3, verbose=0)
    assert stop.best == max(model.history.history["val_accuracy"])


@pytest.mark.parametrize(("make", "words"), [
    (lambda: keras.callbacks.ModelCheckpoint("x.keras"), "torchkeras.keras.callbacks.ModelCheckpoint"),
    (lambda: keras.callbacks.BackupAndRestore("x"), "resume=True"),
    (lambda: keras.callbacks.TensorBoard("x"), "TensorBoardCallback"),
    (keras.callbacks.SwapEMAWeights, "AveragedModel")])
def test_callbacks_of_keras_that_cannot_work_are_refused_before_training(make, words):
    model = mine("sgd")
    before = weights(model)
    with pytest.raises(TypeError, match="callbacks: received keras.callbacks") as error:
        fitted(model, [make()])
    assert words in str(error.value)
    same(weights(model), before, atol=0, rtol=0)


@pytest.mark.parametrize("steps", [2, 3, 4, 6])
@pytest.mark.filterwarnings("ignore:Your input ran out of data", "ignore:fit. the data ended after")
def test_steps_per_epoch_go_on_through_the_data_as_in_keras(steps):
    expected, found = (fitted(model, [], epochs=5, steps_per_epoch=steps, validation_data=None).history["loss"]
                       for model in (theirs("sgd"), mine("sgd")))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_one_batch_alone_is_what_keras_gives():
    model, other = theirs("sgd"), mine("sgd")
    for start in (0, 16, 32):
        rows = slice(start, start + 16)
        np.testing.assert_allclose(other.train_on_batch(X[rows], Y[rows]), model.train_on_batch(X[rows], Y[rows]),
                                   atol=1e-6)
        np.testing.assert_allclose(other.test_on_batch(X[rows], Y[rows]), model.test_on_batch(X[rows], Y[rows]),
                                   atol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW", "Adadelta", "Adagrad", "Adamax", "Adafactor",
                                  "Nadam", "Ftrl", "Lion", "Lamb", "Muon"])
def test_optimizers_by_name_give_the_losses_of_keras(name):
    expected = fitted(theirs(getattr(keras.optimizers, name)()), [], epochs=3).history
    found = fitted(mine(name), [], epochs=3).history
    for column, values in expected.items():
        np.testing.assert_allclose(found[column], values, atol=1e-5, err_msg=column)
