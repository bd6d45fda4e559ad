"""What the processes of a job send where a backend reads device memory alone, without such a device."""

import datetime
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn

from torchkeras.core.communicator import Communicator
from torchkeras.distributed import accelerator, broadcast, communicator, ddp, rendezvous, restart
from torchkeras.distributed.communicator import ProcessGroupCommunicator


class Pair(Communicator):
    world_size = 2


@pytest.fixture
def nccl(monkeypatch):
    """A backend that refuses main memory; a clone stands in for a copy on its device."""
    there = []

    def copy(value, kind):
        there.append(value.clone())
        return there[-1]

    def send(value, src):
        if not any(value is one for one in there):
            raise RuntimeError("No backend type associated with device type cpu")
        value.fill_(7)  # what process 0 has

    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    monkeypatch.setattr(dist, "broadcast", send)
    monkeypatch.setattr(broadcast, "copy_on_device", copy)


def test_weights_and_buffers_in_main_memory_are_shared_by_way_of_the_device(nccl):
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    broadcast.same_weights(Pair(), net)
    assert all((one == 7).all() for one in net.state_dict().values())
    net[1].running_mean.zero_()
    broadcast.same_buffers(Pair(), net)
    assert (net[1].running_mean == 7).all()


def test_control_a_backend_of_main_memory_gets_the_tensors_themselves(monkeypatch):
    sent, net = [], nn.Linear(2, 3)
    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(dist, "broadcast", lambda value, src: sent.append(value.data_ptr()))
    broadcast.same_weights(Pair(), net)
    assert sent == [net.weight.data_ptr(), net.bias.data_ptr()]


@pytest.fixture
def pair(monkeypatch):
    """Process 0 of two; what it sends, as the other gets it."""
    wire, whole = [], []

    def objects(box, src):
        wire.append(pickle.dumps(box[0]))
        box[0] = pickle.loads(wire[-1])

    monkeypatch.setattr(dist, "get_backend", lambda: "gloo")
    monkeypatch.setattr(dist, "broadcast_object_list", objects)
    monkeypatch.setattr(dist, "broadcast", lambda value, src: whole.append(value.clone()))
    main = ProcessGroupCommunicator.__new__(ProcessGroupCommunicator)
    main.rank, main.world_size, main.is_main_process = 0, 2, True
    return main, wire, whole


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.complex64, torch.int16])
def test_a_large_tensor_is_sent_by_itself_and_not_in_a_pickle(pair, dtype, monkeypatch):
    main, wire, whole = pair
    large = (torch.arange(2.0**20) % 5).to(dtype).reshape(4, -1).t()
    state = {"net": [large, torch.ones(3)], "position": (1, {"row": "x"})}
    found = main.broadcast(state)
    assert torch.equal(found["net"][0], large)
    assert torch.equal(found["net"][1], torch.ones(3))
    assert found["position"] == (1, {"row": "x"})
    assert len(wire[0]) < 10_000
    # the other process: the same skeleton, and the tensor as it comes
    monkeypatch.setattr(dist, "broadcast", lambda value, src: value.copy_(whole[0]))
    got = communicator.joined(pickle.loads(wire[0]), iter(()))
    assert got["net"][0].dtype == dtype
    assert torch.equal(got["net"][0], large)


def test_what_is_sent_holds_no_tensor_of_a_device():
    found = communicator.in_main_memory({"a": [torch.ones(2), "b"], "c": (3, None)})
    assert torch.equal(found["a"][0], torch.ones(2))
    seen = []

    class Away(torch.Tensor):
        is_cpu = False

        def cpu(self):
            seen.append(True)
            return torch.zeros(1)

    away = torch.ones(2).as_subclass(Away)
    assert torch.equal(communicator.in_main_memory({"a": [away]})["a"][0], torch.zeros(1))
    assert seen == [True]


def test_a_number_for_the_device_is_no_copy_that_waits_for_it(monkeypatch):
    def refused(*args, **options):
        raise AssertionError("a copy from main memory")

    hook = ddp.WeightedAllReduceHook(2)
    monkeypatch.setattr(torch, "as_tensor", refused)
    monkeypatch.setattr(torch, "tensor", refused)
    assert hook.payload(torch.ones(3)).tolist() == [0.5, 0.0]
    hook.weight = torch.full((), 0.25)
    assert hook.payload(torch.ones(3)).tolist() == [0.25, 0.0]
    assert hook.payload(torch.ones(3, device="meta")).device.type == "meta"


def test_a_job_waits_for_a_long_callback_as_long_over_nccl_as_over_gloo(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(dist, "init_process_group", lambda *args, **options: told.append(options["timeout"]))
    monkeypatch.setattr(rendezvous, "file", tmp_path / "meet")
    monkeypatch.setattr(rendezvous, "stay_on_this_machine", lambda: None)
    monkeypatch.setattr(rendezvous, "strangers", lambda *args: [])
    for name, value in {"RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    rendezvous.meet("nccl")
    import accelerate

    monkeypatch.setattr(accelerate, "Accelerator", lambda **options: told.append(
        options["kwargs_handlers"][0].to_kwargs()["timeout"]) or Fake())
    accelerator.start_accelerator(cpu=True)
    assert told == [restart.PATIENCE, restart.PATIENCE]
    assert datetime.timedelta(minutes=30) == restart.PATIENCE


class Fake:
    device = torch.device("meta")
