"""The precision of a run is its own, and ends with it."""

import contextlib

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from torchkeras import Callback, KerasModel
from torchkeras.distributed.accelerator import start_accelerator

X = torch.rand(8, 3)


@pytest.fixture
def default_dtype():
    """Gives autocast another default on the CPU, as it has another one on GPUs."""
    before = torch.get_autocast_dtype("cpu")
    torch.set_autocast_dtype("cpu", torch.float16)
    yield
    torch.set_autocast_dtype("cpu", before)


@contextlib.contextmanager
def stays_on(accelerator):
    """What accelerate's own does in earlier versions: it is not left on an error."""
    if accelerator.mixed_precision == "bf16":
        torch.autocast("cpu", torch.bfloat16).__enter__()
    yield


def product(accelerator):
    with accelerator.autocast():
        return (X @ X.T).dtype


def test_precision_is_off_after_an_error(monkeypatch):
    class Fails(nn.Linear):
        def forward(self, x):
            if self.training:
                raise RuntimeError("boom")
            return super().forward(x)

    monkeypatch.setattr(Accelerator, "autocast", stays_on)
    with pytest.raises(RuntimeError, match="boom"):
        KerasModel(Fails(3, 1), "mse").fit((X, X[:, :1]), epochs=1, ckpt_path=None, quiet=True, cpu=True,
                                           mixed_precision="bf16")
    assert not torch.is_autocast_enabled("cpu")
    assert (X @ X.T).dtype is torch.float32


def test_each_accelerator_has_its_own_precision_while_several_live(default_dtype):
    first = start_accelerator(mixed_precision="bf16", cpu=True)
    second = start_accelerator(mixed_precision="no", cpu=True)
    assert product(first) is torch.bfloat16
    assert product(second) is torch.float32
    assert product(Accelerator(cpu=True)) is torch.float32  # control: accelerate's own


def test_a_run_in_bf16_stays_so_after_a_callback_measured_in_another_precision(default_dtype):
    seen = []

    class Sees(nn.Linear):
        def forward(self, x):
            out = super().forward(x)
            seen.append((self.training, out.dtype))
            return out

    class Measures(Callback):
        def on_step_end(self, model):
            if model.run.step == 1:
                model.evaluate((X, X[:, :1]), mixed_precision="no")

    KerasModel(Sees(3, 1), "mse").fit((X, X[:, :1]), epochs=1, batch_size=4, ckpt_path=None, quiet=True, cpu=True,
                                      mixed_precision="bf16", callbacks=[Measures()])
    assert {dtype for training, dtype in seen if training} == {torch.bfloat16}
    assert (False, torch.float32) in seen
