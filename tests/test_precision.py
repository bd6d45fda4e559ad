"""evaluate and predict in the precision of fit."""

import copy

import pytest
import torch
from torch import nn

from torchkeras import Callback, KerasModel
from torchkeras.display.classes import judge

X = torch.randn(53, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (53,), generator=torch.Generator().manual_seed(0))


def model_of():
    torch.manual_seed(1)
    return KerasModel(nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), nn.CrossEntropyLoss(), ["accuracy"])


def by_hand(net, size=10):
    """Outputs and mean loss of a plain loop with autocast."""
    outputs, losses = [], []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for x, y in zip(X.split(size), Y.split(size), strict=True):
            outputs.append(net(x))
            losses.append(nn.functional.cross_entropy(outputs[-1], y).item() * len(y))
    return torch.cat(outputs), sum(losses) / len(X)


def test_predict_in_bf16_is_a_loop_with_autocast_bit_for_bit():
    model = model_of()
    outputs, _ = by_hand(model.net)
    found = model.predict(X, batch_size=10, mixed_precision="bf16")
    assert outputs.dtype == torch.bfloat16
    assert torch.equal(found, outputs.float())
    assert not torch.equal(found, model.predict(X, batch_size=10))  # control
    streamed = torch.cat(list(model.predict(X, batch_size=10, mixed_precision="bf16", stream=True)))
    assert torch.equal(streamed, found)
    assert (model.predict(X, batch_size=10, mixed_precision="bf16", as_numpy=True) == found.numpy()).all()


def test_evaluate_in_bf16_is_a_loop_with_autocast():
    model = model_of()
    _, loss = by_hand(model.net)
    assert model.evaluate((X, Y), batch_size=10, mixed_precision="bf16")["val_loss"] == pytest.approx(loss, rel=1e-7)
    assert model.evaluate((X, Y), batch_size=10)["val_loss"] != pytest.approx(loss, rel=1e-7)  # control


class Measuring(Callback):
    """Measures in a run, in its precision and in others."""

    def on_validation_epoch_end(self, model):
        self.found = {name: (model.evaluate((X, Y), batch_size=10, mixed_precision=name)["val_loss"],
                             model.predict(X, batch_size=10, mixed_precision=name)) for name in (None, "no", "bf16")}


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_val_loss_of_fit_comes_again_in_its_precision_alone(precision):
    model, other = model_of(), "no" if precision == "bf16" else "bf16"
    history = model.fit((X, Y), (X, Y), epochs=1, batch_size=10, mixed_precision=precision, ckpt_path=None, quiet=True)
    expected = history["val_loss"].iloc[-1]
    assert model.evaluate((X, Y), batch_size=10, mixed_precision=precision)["val_loss"] == expected
    assert model.evaluate((X, Y), batch_size=10, mixed_precision=other)["val_loss"] != expected


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_within_a_run_its_precision_is_taken_unless_another_is_asked_for(precision):
    model, measuring, other = model_of(), Measuring(), "no" if precision == "bf16" else "bf16"
    history = model.fit((X, Y), (X, Y), epochs=1, batch_size=10, mixed_precision=precision, ckpt_path=None, quiet=True,
                        callbacks=[measuring])
    loss, preds = measuring.found[None]
    assert loss == history["val_loss"].iloc[-1] == measuring.found[precision][0]
    assert torch.equal(preds, measuring.found[precision][1])
    assert loss != measuring.found[other][0]
    assert not torch.equal(preds, measuring.found[other][1])
    assert torch.equal(measuring.found[other][1], model.predict(X, batch_size=10, mixed_precision=other))


class Often(Callback):
    """Measures after each step in another precision, on batches for which nothing is drawn."""

    def on_step_end(self, model):
        if model.run.stage == "train":
            model.evaluate(list(zip(X.split(10), Y.split(10), strict=True)), mixed_precision="bf16")


def test_to_measure_in_another_precision_leaves_a_run_as_it_is():
    runs = []
    for callbacks in ([], [Often()]):
        model = model_of()
        torch.manual_seed(2)
        history = model.fit((X, Y), (X, Y), epochs=2, batch_size=10, gradient_accumulation_steps=2, ckpt_path=None,
                            quiet=True, callbacks=callbacks)
        runs.append((history, torch.cat([weight.detach().flatten() for weight in model.net.parameters()])))
    assert runs[0][0].equals(runs[1][0])
    assert torch.equal(runs[0][1], runs[1][1])
    assert not torch.equal(runs[0][1][:48], model_of().net[0].weight.detach().flatten())  # control


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_the_report_judges_in_the_precision_of_the_run(precision, monkeypatch):
    model, seen = model_of(), []
    model.fit((X, Y), epochs=1, mixed_precision=precision, ckpt_path=None, quiet=True)
    model.net[0].register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    assert judge(copy.copy(model), (X, Y)) is not None
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float32}


@pytest.mark.parametrize(("precision", "expected"), [
    ("O1", "mixed_precision: received 'O1'"), ("fp16", "mixed_precision: received 'fp16' on the CPU")])
@pytest.mark.parametrize("stream", [False, True])
def test_a_precision_that_is_none_is_refused_at_once(precision, expected, stream):
    with pytest.raises(ValueError, match=expected):
        model_of().predict(X, mixed_precision=precision, cpu=True, stream=stream)
    with pytest.raises(ValueError, match=expected):
        model_of().evaluate((X, Y), mixed_precision=precision, cpu=True)
