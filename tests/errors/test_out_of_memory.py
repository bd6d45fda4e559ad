"""Memory that runs out: what lived there is given back, and one sentence says what needs less."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from torchkeras import Callback, KerasModel
from torchkeras.checks.out_of_memory import is_out_of_memory, memory_explained

X = torch.randn(128, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (128,), generator=torch.Generator().manual_seed(1))


class Hungry(nn.Linear):
    """Asks for more memory than any machine has if a batch is large."""

    def forward(self, x):
        if len(x) > 40:
            torch.empty(2 ** 62, dtype=torch.uint8)
        return super().forward(x)


def notes_of(call):
    with pytest.raises(RuntimeError, match="allocate memory") as caught:
        call()
    return [one for one in caught.value.__notes__ if "ran out of memory" in one]


def model_of():
    return KerasModel(Hungry(6, 3), "cross_entropy")


def test_fit_names_the_batch_and_what_needs_less_and_the_advice_helps():
    model, options = model_of(), {"epochs": 1, "ckpt_path": None, "quiet": True, "cpu": True}
    before = model.net.weight.detach().clone()
    assert notes_of(lambda: model.fit((X, Y), batch_size=64, **options)) == [
        "cpu ran out of memory with batch_size=64: a smaller batch_size (with gradient_accumulation_steps, updates "
        'stay those of the larger batch) or mixed_precision="bf16" needs less.']
    assert torch.equal(before, model.net.weight)
    model.fit((X, Y), batch_size=32, gradient_accumulation_steps=2, **options)
    assert not torch.equal(before, model.net.weight)


def test_evaluate_and_predict_advise_what_they_can_take():
    assert notes_of(lambda: model_of().evaluate((X, Y), batch_size=64, cpu=True)) == [
        'cpu ran out of memory with batch_size=64: a smaller batch_size or mixed_precision="bf16" needs less.']
    assert notes_of(lambda: model_of().predict(X, batch_size=64, mixed_precision="bf16", cpu=True)) == [
        "cpu ran out of memory with batch_size=64: a smaller batch_size needs less."]


def test_an_evaluation_within_a_fit_is_noted_once():
    class Evaluates(Callback):
        def on_epoch_start(self, model):
            model.evaluate((X, Y), batch_size=64)

    assert len(notes_of(lambda: model_of().fit(
        (X, Y), batch_size=32, epochs=1, ckpt_path=None, quiet=True, cpu=True, callbacks=[Evaluates()]))) == 1


class Resident:
    batch_size = 64

    def __init__(self):
        self.there = True

    def give_back(self):
        before, self.there = self.there, False
        return before


def test_data_on_the_device_is_given_back_and_the_peak_is_named(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "max_memory_allocated", lambda device: 78 * 2**30)
    run = SimpleNamespace(accelerator=SimpleNamespace(device=torch.device("cuda", 0)), device="cuda:0",
                          objects=SimpleNamespace(optimizer=1), config=SimpleNamespace(mixed_precision="no"))
    data = [Resident(), None, Resident()]
    with pytest.raises(torch.OutOfMemoryError) as caught, memory_explained(run, *data):
        raise torch.OutOfMemoryError("CUDA out of memory")
    [note] = caught.value.__notes__
    assert note.startswith("cuda:0 ran out of memory at a peak of 78.0 GiB with batch_size=64, and the copy of the data "
                           "there was given back: ")
    assert not data[0].there
    assert not data[2].there


@pytest.mark.parametrize(("error", "expected"), [
    (torch.OutOfMemoryError("CUDA out of memory."), True), (RuntimeError("MPS backend out of memory"), True),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False), (ValueError("out of memory"), False)])
def test_errors_of_every_device_are_known_and_others_left_alone(error, expected):
    assert is_out_of_memory(error) is expected
    data = Resident()
    run = SimpleNamespace(accelerator=SimpleNamespace(device=torch.device("cpu")), device="cpu",
                          objects=SimpleNamespace(optimizer=None), config=SimpleNamespace(mixed_precision="no"))
    with pytest.raises(type(error)), memory_explained(run, data):
        raise error
    assert data.there is not expected
    assert hasattr(error, "__notes__") is expected
