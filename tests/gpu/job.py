"""What is tried in a process that is all of a job: ``python -m tests.gpu.job cpu`` or ``cuda``."""

import os
import sys
from types import SimpleNamespace

import torch
import torch.distributed as dist
from tests.gpu.parts import adam, by_fit, by_hand, distance, loader_of, mlp, table
from tests.gpu.waiting import waits
from torch import nn

from torchkeras.distributed import ddp
from torchkeras.distributed.accelerator import start_accelerator
from torchkeras.distributed.broadcast import same_weights
from torchkeras.distributed.communicator import ProcessGroupCommunicator


def fit_is_the_plain_loop(device):
    found = []
    for way in (by_fit, by_hand):
        net = mlp()
        torch.manual_seed(2)
        weights = way(device, net, adam(net), loader_of(table()))
        found.append(weights[0] if way is by_fit else weights)
    assert dist.get_backend() == ("nccl" if device.type == "cuda" else "gloo")
    assert distance(*found) < 1e-4, distance(*found)
    assert distance(found[0], mlp().state_dict()) > 1e-2  # control: it has trained


def objects_and_tensors_are_exchanged(device):
    communicator, x = ProcessGroupCommunicator(0, 1), torch.ones(3, device=device)
    assert communicator.all_gather("a") == ["a"]
    assert communicator.broadcast({"b": 1}) == {"b": 1}
    assert communicator.reduce_on_main(len, 4) == 1
    large = torch.arange(2.0 ** 19, device=device).reshape(2, -1)
    for found in (communicator.all_gather(x)[0], communicator.broadcast([x])[0]):
        assert found.is_cpu  # on no other process's device
        assert torch.equal(found, x.cpu())
    assert torch.equal(communicator.broadcast({"large": large})["large"], large.cpu())


def backward(net, device):
    x, y = (one.to(device) for one in table(64))
    nn.functional.cross_entropy(net(x), y).backward()


def a_replica_has_the_gradients_of_its_net(device):
    plain = mlp(dropout=0.0).to(device)
    replica = ddp.replicas({"net": mlp(dropout=0.0).to(device)})["net"]
    for net in (replica, plain):
        for _ in range(3):  # the second time DDP builds its buckets anew
            net.zero_grad()
            backward(net, device)
    for one, other in zip(replica.parameters(), plain.parameters(), strict=True):
        assert (one.grad - other.grad).abs().max() < 1e-6
        assert one.grad.abs().max() > 1e-4  # control


def a_replica_does_not_wait(device):
    if device.type == "cpu":
        return
    replica = ddp.replicas({"net": mlp(dropout=0.0).to(device)})["net"]
    for _ in range(3):
        backward(replica, device)
    with waits() as found:
        for _ in range(10):
            backward(replica, device)
    assert found == []


def weights_in_main_memory_are_shared(device):
    """What happens before a net is sharded: it is in main memory, of which NCCL knows nothing."""
    same_weights(SimpleNamespace(world_size=2), mlp())


TRIED = (fit_is_the_plain_loop, objects_and_tensors_are_exchanged,
         a_replica_has_the_gradients_of_its_net, a_replica_does_not_wait,
         weights_in_main_memory_are_shared)


def main(kind):
    start_accelerator(cpu=kind == "cpu")
    assert "LOCAL_RANK" in os.environ
    for one in TRIED:
        one(torch.device(kind))
        print(one.__name__, flush=True)
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1])
