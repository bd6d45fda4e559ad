"""Odd but legal uses, each of which once went wrong."""

import threading

import numpy as np
import pytest
import torch
from torch import nn

from torchkeras import Callback, KerasModel

X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
CLASSES = torch.arange(60) % 3
QUIET = {"ckpt_path": None, "quiet": True}


def model(outputs=1, loss_fn="mse", **parts):
    torch.manual_seed(0)
    return KerasModel(nn.Linear(4, outputs), loss_fn, **({"optimizer": "sgd"} | parts))


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_measuring_another_model_in_a_callback_leaves_the_run_alone(precision):
    other, seen = model(), []

    class Measure(Callback):
        def on_validation_epoch_end(self, model):
            other.evaluate((X, Y))
            other.predict(X)

    class Look(Callback):
        def on_step_end(self, model):
            seen.append(model.run.accelerator.mixed_precision)

    faces = [model(), model(), model()]
    for face, callbacks, steps in zip(faces, ([], [Measure(), Look()], []), (3, 3, 1), strict=True):
        face.fit((X, Y), epochs=3, batch_size=10, shuffle=False, gradient_accumulation_steps=steps,
                 mixed_precision=precision, callbacks=callbacks, **QUIET)
    assert torch.equal(faces[0].net.weight, faces[1].net.weight)
    assert not torch.equal(faces[0].net.weight, faces[2].net.weight)
    assert set(seen) == {precision}


def test_fits_in_several_threads_do_not_meet():
    faces, errors = [model() for _ in range(4)], []

    def work(face, steps):
        try:
            face.fit((X, Y), epochs=3, batch_size=10, shuffle=False, gradient_accumulation_steps=steps, **QUIET)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(face, steps))
               for face, steps in zip(faces, (1, 2, 3, 1), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert torch.equal(faces[0].net.weight, faces[3].net.weight)
    assert not torch.equal(faces[0].net.weight, faces[1].net.weight)


def test_class_weights_are_refused_for_labels_of_several_classes_a_sample():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 18)

        def forward(self, x):
            return self.layer(x).reshape(-1, 3, 6)

    labels = torch.zeros(60, 6, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"class_weight: received with labels of shape \(32, 6\).*own loss"):
        KerasModel(Tokens(), "cross_entropy").fit((X, labels), class_weight={0: 2.0}, **QUIET)
    one_hot = nn.functional.one_hot(CLASSES).float()
    weighted, plain = (model(3, "cross_entropy", optimizer="sgd").fit((X, labels), class_weight={1: 5.0}, shuffle=False,
                                                                      epochs=1, **QUIET)["train_loss"][0]
                       for labels in (one_hot, CLASSES))
    assert weighted == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("loss_fn", [nn.CrossEntropyLoss(), nn.functional.cross_entropy], ids=["module", "function"])
@pytest.mark.parametrize("size", [9, 16, 60])
def test_labels_that_torch_ignores_weigh_nothing(loss_fn, size):
    labels = CLASSES.clone()
    labels[:40] = -100
    face = model(3, loss_fn)
    with torch.no_grad():
        whole = nn.functional.cross_entropy(face.net(X), labels).item()
    assert face.evaluate((X, labels), batch_size=size)["val_loss"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("loss_fn", [nn.MSELoss(), nn.MSELoss(reduction="sum"), nn.KLDivLoss(reduction="batchmean")])
@pytest.mark.parametrize("size", [7, 60])
def test_weights_of_one_change_nothing_whatever_the_reduction(loss_fn, size):
    labels = torch.rand(60, 3)
    face = model(3, loss_fn)
    plain, ones, twos = (face.evaluate(data, batch_size=size)["val_loss"] for data in (
        (X, labels), (X, labels, torch.ones(60)), (X, labels, 2 * torch.ones(60))))
    assert ones == pytest.approx(plain, rel=1e-5)
    assert twos == pytest.approx(2 * plain, rel=1e-5)


@pytest.mark.parametrize(("moment", "trained", "rows"), [
    ("on_fit_start", 0, 0), ("on_epoch_start", 0, 0), ("on_train_epoch_end", 6, 1)])
def test_a_stop_is_heard_at_every_moment_and_keeps_a_finished_pass(moment, trained, rows):
    face = model()
    stop = type("Stop", (), {moment: lambda self, model: model.run.stop("enough")})()
    history = face.fit((X, Y), (X, Y), epochs=3, batch_size=10, callbacks=[stop], **QUIET)
    assert (face.run.global_step, len(history)) == (trained, rows)
    assert history.attrs["stop_reason"] == "enough"


def test_a_stop_at_the_last_step_of_an_epoch_keeps_the_epoch():
    class Stop:
        def on_step_end(self, model):
            if model.run.global_step == 12:
                model.run.stop("enough")

    history = model().fit((X, Y), epochs=9, batch_size=10, callbacks=[Stop()], **QUIET)
    assert history["epoch"].tolist() == [1, 2]


def test_a_failure_in_the_middle_of_the_first_window_leaves_no_trace():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.layer, self.calls = nn.BatchNorm1d(4), nn.Linear(4, 1), 0

        def forward(self, x):
            self.calls += 1
            if self.calls == 2:
                raise ZeroDivisionError
            return self.layer(self.norm(x))

    face = KerasModel(Fails(), "mse")
    state = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        face.fit((X, Y), batch_size=10, gradient_accumulation_steps=4, **QUIET)
    assert torch.equal(torch.get_rng_state(), state)
    assert face.net.norm.num_batches_tracked == 0
    assert face.net.layer.weight.grad is None


def test_a_loss_with_weights_comes_back_with_the_best_ones():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, preds, labels):
            return nn.functional.mse_loss(preds * self.scale, labels)

    net, loss_fn = nn.Linear(4, 1), Scaled()
    optimizer = torch.optim.SGD([*net.parameters(), loss_fn.scale], lr=0.7)
    face = KerasModel(net, loss_fn, optimizer=optimizer)
    with pytest.warns(RuntimeWarning, match="val_loss is inf in epoch 4: .*the loss of them is not"):
        history = face.fit((X, Y), (X, Y), epochs=4, batch_size=60, **QUIET)
    assert history["val_loss"].idxmin() < len(history) - 1  # it gets worse in the end
    assert face.evaluate((X, Y), batch_size=60)["val_loss"] == pytest.approx(history["val_loss"].min(), rel=1e-6)


def test_numpy_whole_numbers_are_whole_numbers():
    history = model(3, "cross_entropy").fit((X, CLASSES), epochs=np.int64(2), batch_size=np.int32(20),
                                            class_weight={np.int64(1): np.float64(2.0)}, **QUIET)
    assert len(history) == 2


def test_fitting_a_model_from_its_own_callback_is_refused():
    class Nested:
        def on_epoch_start(self, model):
            model.fit((X, Y), epochs=1, **QUIET)

    with pytest.raises(RuntimeError, match="this model is being fitted already"):
        model().fit((X, Y), epochs=1, callbacks=[Nested()], **QUIET)


def test_classes_are_read_from_outputs_that_carry_logits():
    class Carries(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return {"logits": self.layer(x), "features": x}

    face = KerasModel(Carries(), "cross_entropy")
    assert torch.equal(face.predict(X, output="classes"), face.net.layer(X).argmax(1))
