"""Where a run computes, and that everything is afterwards where it was found."""

import pytest
import torch
from torch import nn

from torchkeras import KerasModel
from torchkeras.core import device


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


def test_net_loss_and_optimizer_state_go_to_the_device():
    net, optimizer = trained()
    loss_fn = nn.CrossEntropyLoss(weight=torch.ones(3))
    assert homes(net, optimizer) == {"cpu"}
    # the meta device stands in for an accelerator; it keeps no numbers, so there is no way back from it
    device.move_to([net, loss_fn], [optimizer], torch.device("meta"))
    assert homes(net, optimizer) == {"meta"}
    assert loss_fn.weight.device.type == "meta"
    assert next(iter(optimizer.state.values()))["step"].device.type == "cpu"


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
