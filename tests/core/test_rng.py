"""The generators of an accelerator, without one: a module in the place of torch.cuda."""

import pytest
import torch

from torchkeras.core import rng
from torchkeras.data.seeded import seeded
from torchkeras.distributed import streams
from torchkeras.state.generators import rng_state, set_rng_state


class Devices:
    """What torch.cuda and torch.xpu tell and do, for some devices; a state is one number."""

    def __init__(self, count, current=0, begun=True):
        self.states = [torch.tensor([number]) for number in range(count)]
        self.current, self.begun = current, begun

    def is_available(self):
        return True

    def is_initialized(self):
        return self.begun

    def init(self):
        self.begun = True

    def device_count(self):
        return len(self.states)

    def current_device(self):
        return self.current

    def get_rng_state(self, index=None):
        return self.states[self.current if index is None else index].clone()

    def set_rng_state(self, state, index=None):
        self.states[self.current if index is None else index] = state.clone()

    @property
    def numbers(self):
        return [int(one) for one in self.states]


class Apple:
    """What torch.mps has: one device, which needs no beginning."""

    def __init__(self):
        self.state = torch.tensor([5])

    def is_available(self):
        return True

    def get_rng_state(self):
        return self.state.clone()

    def set_rng_state(self, state):
        self.state = state.clone()


@pytest.fixture
def there(monkeypatch):
    """Puts an accelerator in place."""
    def put(kind, module):
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device(kind))
        monkeypatch.setattr(torch, "get_device_module", lambda device: module)
        return module

    return put


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_the_own_devices_state_comes_first_and_goes_back_to_the_own_device(kind, there):
    module = there(kind, Devices(3, current=1))
    states = rng.random_states()
    assert [int(one) for one in states["accelerator"][kind]] == [1, 0, 2]
    module.states = [torch.tensor([9])] * 3
    rng.put_random_states(states)
    assert module.numbers == [0, 1, 2]


def test_a_state_of_many_devices_goes_on_where_there_are_fewer_and_of_one_where_there_are_more(there):
    there("cuda", Devices(4, current=3))
    saved = rng_state()
    few = there("cuda", Devices(1))
    set_rng_state(saved)
    assert few.numbers == [3]  # the device that computed
    saved = rng_state()
    many = there("cuda", Devices(3, current=2))
    set_rng_state(saved)
    assert many.numbers == [0, 1, 3]


def test_a_state_of_another_kind_of_device_or_of_none_leaves_this_one_alone(there):
    there("cuda", Devices(2))
    saved = rng_state()
    other = there("xpu", Devices(2, current=1))
    other.states = [torch.tensor([7]), torch.tensor([8])]
    set_rng_state(saved)
    rng.put_random_states(rng.cpu_random_states())
    assert other.numbers == [7, 8]


def test_a_list_for_cuda_alone_as_states_had_it_before_is_read(there):
    module = there("cuda", Devices(2))
    old = {name: value for name, value in rng_state().items() if name != "accelerator"}
    set_rng_state({**old, "cuda": [torch.tensor([6])]})
    assert module.numbers == [6, 1]
    set_rng_state({**old, "cuda": []})
    assert module.numbers == [6, 1]


def test_apples_generator_is_saved_and_put_back(there):
    module = there("mps", Apple())
    states = rng.random_states()
    assert [int(one) for one in states["accelerator"]["mps"]] == [5]
    module.state.fill_(1)
    rng.put_random_states(states)
    assert int(module.state) == 5


def test_a_launched_process_saves_its_own_device_alone(there, monkeypatch):
    there("cuda", Devices(8, current=5))
    monkeypatch.setenv("LOCAL_RANK", "5")
    assert [int(one) for one in rng.random_states()["accelerator"]["cuda"]] == [5]


def test_generators_that_have_not_begun_have_no_state_and_begin_when_a_run_starts(there):
    module = there("cuda", Devices(1, begun=False))
    assert rng.random_states()["accelerator"] == {}
    rng.begin_generators(torch.device("cpu"))
    assert not module.begun  # control: a run on the CPU begins nothing
    rng.begin_generators(torch.device("cuda"))
    assert len(rng.random_states()["accelerator"]["cuda"]) == 1


def test_a_seeded_sample_leaves_the_device_alone(there):
    class Noise:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            return torch.rand(())

    noise, module = seeded(Noise(), seed=1), there("cuda", Devices(8))
    module.get_rng_state = module.set_rng_state = None  # each sample would ask all eight
    assert noise[2] == noise[2] != noise[1]


def test_the_processes_of_a_job_go_on_with_the_main_ones_numbers_on_their_devices_too(there):
    main = there("cuda", Devices(2, current=0))
    main.states[0] = torch.tensor([42])
    sent = rng.random_states()
    other = there("cuda", Devices(2, current=1))

    class Communicator:
        world_size, is_main_process = 2, False

        def broadcast(self, value):
            return sent

    streams.same_stream(Communicator())
    assert other.numbers[1] == 42


def test_a_kind_of_device_without_generators_to_save_is_left_alone(there, monkeypatch):
    there("mtia", object())
    states = rng.random_states()
    assert states["accelerator"] == {}
    rng.put_random_states({**states, "accelerator": {"mtia": [torch.tensor([1])]}})
    rng.begin_generators(torch.device("mtia"))

    def refuse(device):
        raise RuntimeError("no such module")

    monkeypatch.setattr(torch, "get_device_module", refuse)
    assert rng.random_states()["accelerator"] == {}
