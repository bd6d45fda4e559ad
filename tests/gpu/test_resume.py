"""A run that is stopped on a device goes on exactly, also in a process that never touched it."""

import subprocess
import sys

import pytest
import torch
from tests.conftest import ROOT
from tests.gpu.parts import adam, cnn, images, mlp, sgd, table
from torch import nn

from torchkeras import KerasModel
from torchkeras.core.rng import put_random_states, random_states


def metrics_and_a_schedule():
    net = cnn()
    optimizer = sgd(net)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    return KerasModel(net, nn.CrossEntropyLoss(), ["accuracy"], optimizer, scheduler), images(), 20


def dropout(**options):
    net = mlp(dropout=0.5, **options)
    return KerasModel(net, nn.CrossEntropyLoss(), None, adam(net)), table(), 33


def small_odd_batches():
    net = mlp(5, 48)
    return KerasModel(net, nn.CrossEntropyLoss(), None, adam(net)), table(inputs=5), 3


CASES = {"dropout": (dropout, {}), "bf16": (dropout, {"mixed_precision": "bf16"}),
         "images, metrics and a schedule": (metrics_and_a_schedule, {}),
         "small odd batches": (small_odd_batches, {"steps": 22})}


@pytest.mark.parametrize("case", CASES)
def test_a_stopped_run_goes_on_bit_for_bit(device, deterministic, case):
    make, options = CASES[case]
    model, data, batch = make()
    report = model.verify_resume(data, batch_size=batch, cpu=device.type == "cpu", **options)
    assert report.identical, str(report)
    assert report.steps >= 18


class Forgetful(nn.Module):
    """Counts its calls in an attribute that no state_dict has, and adds that to what it gives."""

    def __init__(self):
        super().__init__()
        self.inner, self.calls = mlp(), 0

    def forward(self, x):
        self.calls += self.training
        return self.inner(x) + self.calls * x.new_tensor([0.0, 0.0, 0.1])


def test_control_what_cannot_go_on_exactly_is_found(device, deterministic):
    net = Forgetful()
    model = KerasModel(net, nn.CrossEntropyLoss(), None, adam(net))
    assert not model.verify_resume(table(), batch_size=33, cpu=device.type == "cpu").identical


def test_the_generator_of_the_device_is_saved_and_put_back(gpu):
    torch.cuda.init()
    states = random_states()
    drawn = torch.rand(3, device=gpu)
    assert len(states["accelerator"]["cuda"]) == torch.cuda.device_count()
    assert not torch.equal(drawn, torch.rand(3, device=gpu))  # control
    put_random_states(states)
    assert torch.equal(drawn, torch.rand(3, device=gpu))
    fewer = {**states, "accelerator": {"cuda": [*states["accelerator"]["cuda"]] * 9}}  # of a larger machine
    put_random_states(fewer)
    assert torch.equal(drawn, torch.rand(3, device=gpu))


def test_a_process_in_which_cuda_has_not_begun_resumes_exactly(gpu):
    # its dropout must begin at the same place twice, though the generator of the GPU is made late
    code = ("import torch\nfrom tests.gpu.test_resume import dropout\n"
            "torch.use_deterministic_algorithms(True, warn_only=True)\n"
            "model, data, batch = dropout()\nassert not torch.cuda.is_initialized()\n"
            "report = model.verify_resume(data, batch_size=batch)\n"
            "assert torch.cuda.is_initialized() and report.identical, str(report)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                          timeout=100)
    assert done.returncode == 0, done.stderr[-2000:]
