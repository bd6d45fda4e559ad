"""What is wrong with callbacks in Keras's words is said before training."""

import math

import pytest
import torch
from torch import nn

from torchkeras import Model
from torchkeras.keras import callbacks

X, Y = torch.ones(8, 1), torch.zeros(8, 1)


def fit(*told, validates=True, **options):
    model = Model(nn.Linear(1, 1))
    model.compile("sgd", "mse", ["mae"])
    before = model.get_weights()[0].copy()
    try:
        return model.fit(X, Y, verbose=0, callbacks=list(told), validation_data=(X, Y) if validates else None, **options)
    except (TypeError, ValueError):
        assert (model.get_weights()[0] == before).all()  # nothing was trained
        raise


@pytest.mark.parametrize("make", [
    lambda: callbacks.EarlyStopping(min_delta="a"), lambda: callbacks.EarlyStopping(min_delta=math.nan),
    lambda: callbacks.EarlyStopping(monitor=None), lambda: callbacks.EarlyStopping(baseline="a"),
    lambda: callbacks.ReduceLROnPlateau(factor="a"), lambda: callbacks.ReduceLROnPlateau(min_lr=-1),
    lambda: callbacks.ReduceLROnPlateau(min_lr="a"), lambda: callbacks.ModelCheckpoint("a.pt", monitor=3),
    lambda: callbacks.ModelCheckpoint("a.pt", initial_value_threshold="a"),
    lambda: callbacks.CSVLogger("a.csv", separator=";;"), lambda: callbacks.CSVLogger("a.csv", separator=None)])
def test_arguments_are_checked_when_a_callback_is_made(make):
    with pytest.raises((TypeError, ValueError), match="received"):
        make()


@pytest.mark.parametrize(("make", "fix"), [
    (lambda: callbacks.EarlyStopping("val_los"), "Did you mean 'val_loss'"),
    (lambda: callbacks.ReduceLROnPlateau("val_maee"), "Did you mean 'val_mae'"),
    (lambda: callbacks.ModelCheckpoint("a.pt", "val_acc", save_best_only=True), "expected one of loss, mae"),
    (lambda: callbacks.ModelCheckpoint("{val_los}.pt"), "filepath: received 'val_los'"),
    (lambda: callbacks.ModelCheckpoint("{}.pt"), "filepath: received ''"),
    (lambda: callbacks.ModelCheckpoint("{epoch.foo}.pt"), "filepath: received 'epoch.foo'")])
def test_a_number_that_no_epoch_has_is_an_error_before_training(make, fix):
    with pytest.raises(ValueError, match=fix):
        fit(make())


def test_names_that_will_be_measured_pass_and_so_do_those_that_another_callback_adds(tmp_path):
    class Adds:
        def on_epoch_end(self, epoch, logs=None):
            logs["gain"] = 1.0

    fit(callbacks.EarlyStopping("val_mae"), callbacks.LearningRateScheduler(lambda epoch: 0.1),
        callbacks.ModelCheckpoint(tmp_path / "{epoch:02d}-{val_mae:.1f}-{learning_rate}.pt"))
    assert len(list(tmp_path.glob("01-*.pt"))) == 1
    fit(Adds(), callbacks.EarlyStopping("gain"))
    with pytest.raises(ValueError, match="'gain' of EarlyStopping"):
        fit(callbacks.EarlyStopping("gain"), Adds())
    for one in (callbacks.EarlyStopping(), callbacks.ModelCheckpoint("{val_loss}.pt")):
        with pytest.raises(ValueError, match="Without validation_data or validation_split"):
            fit(one, validates=False)


def test_the_best_weights_are_not_those_of_an_epoch_that_was_not_judged(tmp_path):
    best = callbacks.ModelCheckpoint(tmp_path / "{epoch}.pt", save_best_only=True)
    with pytest.warns(UserWarning, match="'val_loss' was not measured"):
        fit(best, epochs=3, validation_freq=[2])
    assert [one.name for one in tmp_path.iterdir()] == ["2.pt"]


@pytest.mark.parametrize("rate", [math.nan, math.inf, -1])
def test_a_rate_that_is_negative_or_not_finite_is_refused(rate):
    model = Model(nn.Linear(1, 1))
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="learning_rate: received"):
        model.learning_rate = rate
    assert model.learning_rate == pytest.approx(0.01)
    with pytest.raises(ValueError, match="schedule: received"):
        fit(callbacks.LearningRateScheduler(lambda epoch: rate))


def test_a_method_with_another_signature_is_an_error_before_training():
    class Short(callbacks.Callback):
        def on_epoch_end(self, epoch):
            pass

    class Waits:
        async def on_train_begin(self, logs=None):
            pass

    for one in (Short(), callbacks.LambdaCallback(on_epoch_end=lambda epoch: None)):
        with pytest.raises(TypeError, match="expected a method of epoch and logs"):
            fit(one)
    with pytest.raises(TypeError, match="async or yields"):
        fit(Waits())
    fit(callbacks.LambdaCallback(on_epoch_end=lambda *given: None))
