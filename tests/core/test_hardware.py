"""Where a run computes, and that everything is afterwards where it was found."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from torchkeras import KerasModel
from torchkeras.core import device
from torchkeras.distributed import accelerator
from torchkeras.metrics import Accuracy


def trained():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    net.register_parameter("scale", nn.Parameter(torch.ones(())))  # a weight without dimensions
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(5, 3)).sum().add(net.scale).backward()
    optimizer.step()
    return net, optimizer


def homes(net, optimizer):
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    return {one.device.type for one in (*net.parameters(), *net.buffers(), *moments)}


@pytest.fixture
def elsewhere(monkeypatch):
    """A device that stands in for an accelerator: it keeps no numbers, and gives zeros back."""
    to = torch.Tensor.to

    def moved(tensor, *args, **options):
        back = tensor.is_meta and any(str(one) == "cpu" for one in args)
        return torch.zeros_like(tensor, device="cpu") if back else to(tensor, *args, **options)

    monkeypatch.setattr(torch.Tensor, "to", moved)
    torch.__future__.set_swap_module_params_on_conversion(True)  # a parameter stays the same object, as on CUDA
    yield torch.device("meta")
    torch.__future__.set_swap_module_params_on_conversion(False)


def test_net_loss_and_optimizer_state_go_to_the_device_and_come_back(elsewhere):
    net, optimizer = trained()
    loss_fn = nn.CrossEntropyLoss(weight=torch.ones(3))
    steps = [state["step"] for state in optimizer.state.values()]
    with device.on_device(elsewhere, net, loss_fn, optimizers=[optimizer]):
        assert homes(net, optimizer) == {"meta"}
        assert loss_fn.weight.device.type == "meta"
        assert {one.device.type for one in steps} == {"cpu"}
    assert homes(net, optimizer) == {loss_fn.weight.device.type} == {"cpu"}
    assert all(state["step"] is one for state, one in zip(optimizer.state.values(), steps, strict=True))


def test_what_was_beside_a_net_on_the_device_comes_back_to_where_it_was(elsewhere):
    net, optimizer = trained()
    net.to(elsewhere)
    device.move_states([optimizer], [net])
    loss_fn, there = nn.CrossEntropyLoss(weight=torch.ones(3)), nn.Linear(2, 2, device=elsewhere)
    metric = Accuracy()
    metric.update(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    with device.on_device(elsewhere, net, loss_fn, there, metric, optimizers=[optimizer]):
        assert loss_fn.weight.device.type == metric.device.type == "meta"
    assert homes(net, optimizer) == {"meta"}
    assert there.weight.device.type == "meta"
    assert loss_fn.weight.device.type == metric.device.type == "cpu"


def test_memory_that_an_optimizer_keeps_elsewhere_by_itself_stays_there(elsewhere):
    net, optimizer = trained()
    net.to(elsewhere)  # and the moments are left on the CPU, as optimizers that offload them do
    with device.on_device(elsewhere, net, optimizers=[optimizer]):
        assert {state["exp_avg"].device.type for state in optimizer.state.values()} == {"cpu"}


def test_a_net_that_is_there_already_is_not_moved(elsewhere):
    class Fixed(nn.Linear):
        def to(self, *args, **options):
            raise ValueError("a quantized net cannot be moved")

    for place in ("cpu", elsewhere):
        with device.on_device(torch.device(place), Fixed(2, 2, device=place), nn.BCELoss(torch.ones(2))):
            pass
    with pytest.raises(ValueError, match="quantized"), device.on_device(elsewhere, Fixed(2, 2)):  # control
        pass


@pytest.mark.parametrize("option", ["fused", "capturable"])
def test_a_counter_goes_with_its_weight_if_the_optimizer_reads_it_there(option, elsewhere):
    net, optimizer = trained()
    optimizer.param_groups[0][option] = True
    with device.on_device(elsewhere, net, optimizers=[optimizer]):
        assert {state["step"].device.type for state in optimizer.state.values()} == {"meta"}
    assert {state["step"].device.type for state in optimizer.state.values()} == {"cpu"}


def test_lists_of_tensors_that_an_optimizer_remembers_go_with_the_weights(elsewhere):
    net = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(net.parameters(), max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = net(torch.ones(2, 3)).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    [state] = optimizer.state.values()
    assert state["old_dirs"]
    with device.on_device(elsewhere, net, optimizers=[optimizer]):
        assert {one.device.type for one in (*state["old_dirs"], *state["old_stps"], state["d"])} == {"meta"}
    assert {one.device.type for one in (*state["old_dirs"], *state["old_stps"], state["d"])} == {"cpu"}


def test_the_cache_is_freed_only_where_the_net_lives_elsewhere(monkeypatch):
    freed = []
    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: freed.append(True))
    with device.cache_freed(torch.device("cpu"), nn.Linear(1, 1)):
        pass
    with device.cache_freed(torch.device("meta"), nn.Linear(1, 1, device="meta")):
        pass
    assert freed == []
    with device.cache_freed(torch.device("meta"), nn.Linear(1, 1)):
        assert freed == []
    assert freed == [True]


def test_a_net_on_one_of_several_devices_is_computed_there(monkeypatch):
    class Fake:
        def __init__(self, **options):
            self.state = SimpleNamespace(device=torch.device("cuda"))

        device = property(lambda self: self.state.device)

    monkeypatch.setattr("accelerate.Accelerator", Fake)
    monkeypatch.setattr(accelerator, "begin_generators", lambda device: None)
    places = [None, "cpu", "cuda:1"]
    found = [accelerator.start_accelerator(home=None if one is None else torch.device(one)).device for one in places]
    assert list(map(str, found)) == ["cuda", "cuda", "cuda:1"]
    monkeypatch.setattr(accelerator, "launched", lambda: True)
    monkeypatch.setattr(accelerator, "has_device_for_each", lambda: True)
    monkeypatch.setattr(accelerator, "meet", lambda backend: None)
    assert str(accelerator.start_accelerator(home=torch.device("cuda:1")).device) == "cuda"  # each has its own


def test_a_device_with_a_number_is_the_current_one_within(monkeypatch):
    entered = []

    @contextmanager
    def current(index):
        entered.append(index)
        yield

    monkeypatch.setattr(torch.accelerator, "device_index", current)
    for name in ("cpu", "cuda", "mps:0", "cuda:1"):
        with device.current_device(torch.device(name)):
            pass
    assert entered == [1]


def test_evaluate_and_predict_leave_the_optimizers_memory_where_it_is(monkeypatch):
    net, optimizer = trained()
    moved = []
    monkeypatch.setattr(device, "move_states", lambda optimizers, modules: moved.extend(optimizers))
    x = torch.randn(6, 3)
    model = KerasModel(net, "mse", optimizer=optimizer)
    model.predict(x)
    model.evaluate((x, x[:, :1]))
    assert moved == []
    model.fit((x, x[:, :1]), epochs=1, ckpt_path=None, quiet=True)
    assert moved == [optimizer, optimizer]  # control: fit does, there and back


def test_a_net_over_several_devices_is_left_alone():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1, device="meta"))
    with device.on_device(torch.device("cpu"), net):
        assert [layer.weight.device.type for layer in net] == ["cpu", "meta"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_a_gpu_is_used_and_given_back(precision):
    net, optimizer = trained()
    x = torch.randn(64, 3)
    model = KerasModel(net, "mse", {"mae": "mae", "spread": lambda preds, labels: preds.std()}, optimizer)
    history = model.fit((x, x[:, :1]), (x, x[:, :1]), epochs=2, ckpt_path=None, quiet=True, mixed_precision=precision,
                        gradient_accumulation_steps=2, clip_grad_norm=1.0)
    assert model.run.device == "cuda:0" or model.run.device == "cuda"
    assert homes(net, optimizer) == {"cpu"}
    assert history["val_loss"].notna().all()
    assert model.predict(x).is_cpu
