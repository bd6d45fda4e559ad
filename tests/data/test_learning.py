"""Samples that learn: codes that are moved with the net, as a plain loop moves them."""

import pytest
import torch
from tests.faults.runs import StopAt
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import Callback, KerasModel

TARGETS = torch.randn(23, 4)


def parts():
    torch.manual_seed(0)
    codes = nn.Parameter(torch.randn(23, 3))
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))
    return codes, net, torch.optim.Adam([{"params": net.parameters()}, {"params": [codes]}], lr=0.05)


def by_hand(shuffle, accumulation):
    codes, net, optimizer = parts()
    torch.manual_seed(5)
    for _ in range(3):
        window = []
        for number, batch in enumerate(loader := DataLoader(TensorDataset(codes, TARGETS), 5, shuffle=shuffle), 1):
            window.append(batch)
            if len(window) < accumulation and number < len(loader):
                continue
            samples = sum(len(y) for _, y in window)
            for x, y in window:
                loss = nn.functional.mse_loss(net(x), y)
                (loss if accumulation == 1 else loss / (samples / len(y))).backward()
            optimizer.step()
            optimizer.zero_grad()
            window = []
    return codes


@pytest.mark.parametrize("kind", ["arrays", "loader"])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_codes_learn_as_in_a_plain_loop(kind, shuffle, accumulation):
    codes, net, optimizer = parts()
    before = codes.detach().clone()
    model = KerasModel(net, nn.MSELoss(), optimizer=optimizer)
    data, options = (codes, TARGETS), {"batch_size": 5, "shuffle": shuffle}
    if kind == "loader":
        data, options = DataLoader(TensorDataset(codes, TARGETS), 5, shuffle=shuffle), {}
    model.fit(data, epochs=3, ckpt_path=None, quiet=True, plot=False, monitor="train_loss", seed=5,
              gradient_accumulation_steps=accumulation, **options)
    assert torch.equal(codes, by_hand(shuffle, accumulation))
    assert not torch.equal(codes, before)
    assert any("samples that require grad are no weights of the net" in note for note in model.run.notes)
    assert model.evaluate((codes, TARGETS)).keys() == {"val_loss"}
    assert not model.predict(codes).requires_grad


def test_a_computed_tensor_that_needs_its_graph_again_is_no_silent_matter():
    codes, net, optimizer = parts()
    model = KerasModel(net, nn.MSELoss(), optimizer=optimizer)
    with pytest.raises(RuntimeError, match="second time"):
        model.fit((codes.exp(), TARGETS), epochs=2, ckpt_path=None, quiet=True, plot=False)


def test_codes_that_the_optimizer_does_not_have_are_refused_before_training():
    codes, net, _ = parts()
    model = KerasModel(net, nn.MSELoss(), optimizer=torch.optim.SGD(net.parameters(), lr=0.1))

    class Never(Callback):
        def on_step_end(self, model):
            raise AssertionError

    with pytest.raises(ValueError, match="add_param_group"):
        model.fit((codes, TARGETS), epochs=2, ckpt_path=None, quiet=True, plot=False, callbacks=[Never()])
    model.fit((codes.detach(), TARGETS), epochs=1, ckpt_path=None, quiet=True, plot=False)


def test_codes_go_on_bit_for_bit_in_a_resumed_run(tmp_path):
    left = []
    for name, stops in (("whole", ()), ("broken", (2, 5))):
        for stop in (*stops, None):
            torch.manual_seed(0)
            codes, net = nn.Parameter(torch.randn(24, 3)), nn.Linear(3, 2)
            model = KerasModel(net, "mse", optimizer=torch.optim.Adam([*net.parameters(), codes], lr=0.05))
            model.fit((codes, torch.arange(48.0).view(24, 2) / 48), epochs=3, batch_size=8, seed=1, resume=True,
                      ckpt_path=tmp_path / name, quiet=True, patience=None,
                      callbacks=[] if stop is None else [StopAt(stop)])
        left.append((codes.detach().clone(), net.weight.detach().clone()))
    assert all(map(torch.equal, *left))
