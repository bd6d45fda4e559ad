"""fp16 with a gradient scaler, which torch has for the CPU too: updates as they are without it, but for the scale."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from torchkeras import KerasModel
from torchkeras.distributed.accelerator import start_accelerator
from torchkeras.training import session

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (48,), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def scaled(monkeypatch):
    """Let runs in fp16 train on the CPU with a scaler; all is computed in float32."""
    scalers = []

    def started(*, mixed_precision="no", **options):
        accelerator = start_accelerator(**options)
        if mixed_precision == "fp16":
            scalers.append(torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2))
            accelerator.scaler, accelerator.native_amp = scalers[-1], True
            accelerator.state._mixed_precision = "fp16"
            accelerator.autocast = nullcontext
        return accelerator

    monkeypatch.setattr(session, "start_accelerator", started)
    return scalers


def net_of():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def trained(precision, optimizer_of, **options):
    net = net_of()
    model = KerasModel(net, nn.CrossEntropyLoss(), optimizer=optimizer_of(net))
    model.fit((X, Y), epochs=2, batch_size=8, shuffle=False, cpu=True, ckpt_path=None, quiet=True,
              mixed_precision=precision, **options)
    return net, model


def distance(net, other):
    return max((a - b).abs().max().item() for a, b in zip(net.parameters(), other.parameters(), strict=True))


def one(net):
    return torch.optim.SGD(net.parameters(), lr=0.1)


def several(net):
    return [torch.optim.SGD(net[0].parameters(), lr=0.1), torch.optim.SGD(net[2].parameters(), lr=0.1)]


CLIPS = [{}, {"clip_grad_norm": 0.1}, {"clip_grad_value": 0.01}, {"clip_grad_norm": 0.1, "clip_grad_value": 0.01},
         {"clip_grad_norm": 0.1, "gradient_accumulation_steps": 2}]


@pytest.mark.parametrize("optimizer", [one, several])
@pytest.mark.parametrize("options", CLIPS)
def test_scaled_updates_are_those_without_a_scale(options, optimizer, scaled):
    expected, _ = trained("no", optimizer, **options)
    found, _ = trained("fp16", optimizer, **options)
    assert distance(found, expected) < 1e-5
    assert scaled[-1].get_scale() > 4.0  # control: it has grown
    assert distance(net_of(), expected) > 1e-3  # control: it has trained
    if options:
        assert distance(expected, trained("no", optimizer)[0]) > 1e-3  # control: clipping does something


def test_step_counters_stay_on_the_cpu_from_the_second_fit_on(scaled, monkeypatch):
    _, model = trained("fp16", lambda net: torch.optim.Adam(net.parameters()))
    loaded = []
    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", lambda *given: loaded.append(given))
    model.fit((X, Y), epochs=1, batch_size=8, cpu=True, ckpt_path=None, quiet=True, mixed_precision="bf16")
    assert loaded == []  # accelerate would load a state that it has moved, counters too
    assert {float(state["step"]) for state in model.optimizer.state.values()} == {18.0}
