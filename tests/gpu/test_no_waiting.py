"""A step gives the GPU work and waits for nothing: no number is read, no copy held up."""

import pytest
import torch
from tests.gpu.parts import Rows, adam, by_fit, loader_of, mlp, table
from tests.gpu.waiting import Watch
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

from torchkeras import Callback

MANY = 33 * 70


def sampled():
    sampler = WeightedRandomSampler(torch.ones(MANY), MANY)
    return DataLoader(TensorDataset(*table(MANY)), 33, sampler=sampler)


def watched(device, data=None, callbacks=(), **options):
    net, watch = mlp(), Watch()
    by_fit(device, net, adam(net), loader_of(table(MANY)) if data is None else data, 1,
           callbacks=[*callbacks, watch], **options)
    assert watch.steps == 55  # else nothing was watched
    return watch.found


CASES = {
    "plain": {},
    "metrics": {"metrics": ["accuracy"]},
    "bf16": {"mixed_precision": "bf16", "metrics": ["accuracy"]},
    "fp16": {"mixed_precision": "fp16"},
    "clipped and accumulated": {"clip_grad_norm": 1.0, "gradient_accumulation_steps": 2},
    "class weights": {"class_weight": {0: 1.0, 1: 2.0}},
}


@pytest.mark.parametrize("case", CASES)
def test_a_step_does_not_wait(gpu, case):
    assert watched(gpu, **CASES[case]) == []


def test_a_step_does_not_wait_for_a_sampler(gpu):
    assert watched(gpu, sampled()) == []


def test_a_step_does_not_wait_for_batches_that_are_moved(gpu):
    assert watched(gpu, DataLoader(Rows(table(MANY)), 33)) == []


class Reads(Callback):
    """Reads a number of the device at every step."""

    def on_step_end(self, model):
        next(model.net.parameters()).sum().item()


def test_control_a_callback_that_reads_a_number_is_seen_to_wait(gpu):
    assert len(watched(gpu, callbacks=[Reads()])) >= 50


def test_the_steps_that_are_watched_are_steps_of_training():
    net, watch = mlp(), Watch(first=2, last=6)
    watch.stack = Counted()
    by_fit(torch.device("cpu"), net, adam(net), loader_of(table()), 2, callbacks=[watch])
    assert (watch.steps, watch.stack.begun, watch.stack.ended) == (4, 1, 1)


class Counted:
    """Stands in for the watch itself where there is no GPU."""

    begun = ended = 0

    def enter_context(self, watch):
        self.begun += 1
        return []

    def close(self):
        self.ended += 1
