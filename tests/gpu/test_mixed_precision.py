"""bf16 and fp16 on a device: as by hand, and without harm to the optimizer."""

import pytest
import torch
from tests.gpu.parts import QUIET, adam, by_fit, by_hand, distance, loader_of, mlp, table

BF16, FP16 = ("bf16", torch.bfloat16), ("fp16", torch.float16)


def distance_to_the_loop_by_hand(device, kind, dtype, clip=None):
    """How far fit is from the same loop, and from one that draws another order and dropout."""
    found = []
    for way, seed in (("fit", 7), ("hand", 7), ("hand", 8)):
        net = mlp(width=64)
        torch.manual_seed(seed)
        if way == "fit":
            found.append(by_fit(device, net, adam(net), loader_of(table()), 3, mixed_precision=kind,
                                clip_grad_norm=clip)[0])
        else:
            found.append(by_hand(device, net, adam(net), loader_of(table()), 3, clip=clip,
                                 dtype=dtype))
    return distance(found[0], found[1]), distance(found[0], found[2])


def test_bf16_is_that_of_the_plain_loop(device):
    found, control = distance_to_the_loop_by_hand(device, *BF16)
    assert found <= 1e-3
    assert control > 0.05


@pytest.mark.parametrize("clip", [None, 0.1])
def test_fp16_is_that_of_the_plain_loop(gpu, clip):
    found, control = distance_to_the_loop_by_hand(gpu, *FP16, clip=clip)
    assert found <= 1e-2
    assert control > 0.05


def test_fp16_can_be_clipped_by_norm_and_by_value(gpu):
    net = mlp()
    weights, _, history = by_fit(gpu, net, adam(net), loader_of(table()), 1, mixed_precision="fp16",
                                 clip_grad_norm=1.0, clip_grad_value=0.5)
    assert history["train_loss"].notna().all()
    assert all(one.isfinite().all() for one in weights.values())


@pytest.mark.parametrize("options", [{}, {"clip_grad_norm": 0.1}])
def test_several_optimizers_in_fp16_share_one_scale(gpu, options):
    found = []
    for precision, each in (("fp16", True), ("no", False), ("no", True)):
        net = mlp(width=64, dropout=0.0)
        parts = (net[0], net[3]) if each else (net,)
        optimizers = [torch.optim.SGD(one.parameters(), lr=0.05) for one in parts]
        torch.manual_seed(7)
        found.append(by_fit(gpu, net, optimizers if each else optimizers[0], loader_of(table()), 3,
                            mixed_precision=precision, **options)[0])
    assert distance(found[0], found[1]) <= 1e-2  # divided by the scale twice, they would not move
    assert distance(found[0], mlp(width=64).state_dict()) > 0.05  # control: they have
    assert distance(found[2], found[1]) < 1e-5


def test_a_second_fit_in_bf16_finds_step_counters_on_the_cpu(device):
    # with a counter on the GPU torch's usual Adam waits for the device twice a parameter and step
    net = mlp()
    model = by_fit(device, net, adam(net), loader_of(table()), 1, mixed_precision="bf16")[1]
    model.fit(loader_of(table()), epochs=1, mixed_precision="bf16", cpu=device.type == "cpu",
              **QUIET)
    states = model.optimizer.state.values()
    assert {str(state["step"].device) for state in states} == {"cpu"}
    assert {int(state["step"]) for state in states} == {20}  # control: both fits were counted


def test_an_optimizer_that_users_made_fused_comes_back_whole(device):
    net = mlp()
    model = by_fit(device, net, adam(net, fused=True), loader_of(table()), 1)[1]
    kept = [value for state in model.optimizer.state.values() for value in state.values()]
    assert {str(value.device) for value in kept} == {"cpu"}
    model.fit(loader_of(table()), epochs=1, cpu=device.type == "cpu", **QUIET)
    before = net[0].weight.detach().clone()
    net(table()[0]).sum().backward()
    model.optimizer.step()  # as its owner goes on by hand, on the CPU
    assert not torch.equal(before, net[0].weight)


def with_a_nan():
    x, y = table(640)
    x[500] = float("nan")
    return x, y


def test_a_nan_leaves_weights_and_optimizer_sound(device):
    net = mlp()
    model = by_fit(device, net, adam(net), table(640), 1, batch_size=32)[1]
    options = {"batch_size": 32, "cpu": device.type == "cpu", **QUIET}
    with pytest.warns(RuntimeWarning, match="train_loss is nan"):
        history = model.fit(with_a_nan(), epochs=2, shuffle=False, **options)
    assert "nan" in history.attrs["stop_reason"]
    assert "step 16" in history.attrs["stop_reason"]  # sample 500 is in batch 16
    assert all(one.isfinite().all() for one in net.state_dict().values())
    assert [name for state in model.optimizer.state.values() for name, value in state.items()
            if not value.isfinite().all()] == []
    again = model.fit(table(640), epochs=1, **options)
    assert again.attrs["stop_reason"] is None  # control: sound data train on


def test_a_nan_in_fp16_is_no_overflow_to_be_passed_over(gpu):
    net = mlp()
    with pytest.warns(RuntimeWarning, match="train_loss is nan"):
        history = by_fit(gpu, net, adam(net), with_a_nan(), 1, batch_size=32, shuffle=False,
                         mixed_precision="fp16")[2]
    assert "nan" in history.attrs["stop_reason"]
    assert all(one.isfinite().all() for one in net.state_dict().values())
