"""Where things are while and after a device computes, and that its numbers are those of the CPU."""

import gc

import pytest
import torch
from tests.gpu.parts import QUIET, adam, by_fit, cnn, differing, loader_of, mlp, on_cpu, table
from torch import nn

from torchkeras import KerasModel, summary


def options_of(device):
    return {"cpu": device.type == "cpu"}


def test_evaluate_gives_the_same_at_any_batch_size(device):
    (x, y), net = table(331), mlp()
    model = KerasModel(net, nn.CrossEntropyLoss(), ["accuracy"])
    found = [model.evaluate((x, y), batch_size=size, **options_of(device))
             for size in (1, 7, 64, 331)]
    with torch.no_grad():
        preds = mlp().eval().double()(x.double())
    assert [one["val_loss"] for one in found] == pytest.approx(
        [nn.functional.cross_entropy(preds, y).item()] * 4, abs=1e-5)
    right = (preds.argmax(1) == y).double().mean().item()
    assert [one["val_accuracy"] for one in found] == pytest.approx([right] * 4)


def test_predict_gives_what_the_net_gives_on_the_cpu(device):
    (x, y), net = table(331), mlp()
    model, options = KerasModel(net, nn.CrossEntropyLoss()), options_of(device)
    with torch.no_grad():
        expected = mlp().eval()(x)
    for found in (model.predict(x, batch_size=50, **options),
                  model.predict((x, y), batch_size=7, **options),
                  torch.cat(list(model.predict(x, batch_size=50, stream=True, **options)))):
        assert found.device.type == "cpu"
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert next(net.parameters()).device.type == "cpu"


def test_the_best_weights_open_without_a_gpu(device, tmp_path):
    net = mlp()
    by_fit(device, net, adam(net), table(), 1, ckpt_path=tmp_path / "best.pt")
    kept = torch.load(tmp_path / "best.pt", weights_only=True)
    assert {str(one.device) for one in kept.values()} == {"cpu"}
    assert differing(kept, on_cpu(net.state_dict())) == []


@pytest.mark.parametrize("begins", ["on the CPU", "on the device"])
def test_everything_comes_back_where_it_was(device, begins):
    home = device if begins == "on the device" else torch.device("cpu")
    net = mlp().to(home)
    loss_fn = nn.CrossEntropyLoss(weight=torch.ones(3))
    model = KerasModel(net, loss_fn, ["accuracy"], adam(net))
    model.fit(loader_of(table()), epochs=1, **options_of(device), **QUIET)
    assert model.run.device.startswith(device.type)
    moments = [value for state in model.optimizer.state.values()
               for name, value in state.items() if name != "step"]
    assert {one.device.type for one in (*net.parameters(), *moments)} == {home.type}
    assert loss_fn.weight.device.type == "cpu"


def test_a_summary_moves_no_generator(device):
    net, lines = cnn().to(device), []
    before = states(device)
    found = summary(net, input_shape=(1, 14, 14), write=lines.append)
    assert found.total_params == sum(one.numel() for one in net.parameters())
    assert all(map(torch.equal, before, states(device)))
    net.train()(torch.zeros(2, 1, 14, 14, device=device))
    assert not all(map(torch.equal, before, states(device)))  # control: its dropout draws


def states(device):
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if device.type == "cuda" else [])]


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_net_on_the_second_gpu_trains_there(gpu):
    net = mlp().to("cuda:1")
    model = by_fit(gpu, net, adam(net), loader_of(table()), 1)[1]
    assert model.run.device == "cuda:1"
    assert {str(one.device) for one in net.parameters()} == {"cuda:1"}
    assert torch.cuda.current_device() == 0


def test_a_second_fit_of_lbfgs_finds_its_lists_where_the_net_is(device):
    net = mlp(dropout=0.0)
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=3)
    model = by_fit(device, net, optimizer, loader_of(table(), 330), 1)[1]
    [state] = optimizer.state.values()
    assert state["old_dirs"]  # control
    assert {one.device.type for one in (*state["old_dirs"], state["d"])} == {"cpu"}
    model.fit(loader_of(table(), 330), epochs=1, **options_of(device), **QUIET)


def allocated():
    gc.collect()
    return torch.cuda.memory_allocated()


def test_nothing_is_left_on_the_gpu(gpu):
    before = allocated()
    torch.cuda.reset_peak_memory_stats()
    net = mlp(width=4096)
    model = by_fit(gpu, net, adam(net), loader_of(table(50_000)), 1)[1]
    peak = torch.cuda.max_memory_allocated()
    assert peak - before > 2 ** 20  # control: it was there
    assert torch.cuda.memory_reserved() - torch.cuda.memory_allocated() < 2 ** 25  # other programs may have it
    del model
    assert allocated() - before < 2 ** 20


class Hungry(nn.Module):
    """Asks for more memory than there is if a batch is large."""

    def __init__(self):
        super().__init__()
        self.inner = mlp()

    def forward(self, x):
        if len(x) > 40:
            torch.empty(2 ** 42, dtype=torch.uint8, device=x.device)
        return self.inner(x)


def test_out_of_memory_says_what_to_do_and_leaves_all_as_it_was(gpu):
    net = Hungry()
    model = KerasModel(net, nn.CrossEntropyLoss(), optimizer=adam(net))
    before = on_cpu(net.state_dict())
    with pytest.raises(torch.OutOfMemoryError) as caught:
        model.fit(table(), batch_size=64, epochs=1, **QUIET)
    [note] = [one for one in caught.value.__notes__ if "ran out of memory" in one]
    assert "batch_size=64" in note
    assert "GiB" in note
    assert "was given back" in note  # the table had lived there
    assert {one.device.type for one in net.parameters()} == {"cpu"}
    assert differing(before, on_cpu(net.state_dict())) == []
    model.fit(table(), batch_size=32, epochs=1, **QUIET)  # the advice helps
    assert differing(before, on_cpu(net.state_dict())) != []
