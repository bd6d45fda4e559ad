"""What speed="fast" tries, times and sets on an accelerator; a CPU that is taken for one stands in for it."""

from collections import deque
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import Callback, KerasModel
from torchkeras.acceleration import autotuner, optimizer_impl, step_graph
from torchkeras.acceleration.autotuner import StepAutotuner, candidates_for
from torchkeras.acceleration.candidates import (
    Candidate,
    ChannelsLast,
    CompiledNet,
    quiet_compilation,
)
from torchkeras.acceleration.multi_step_graph import CompiledMultiStep
from torchkeras.acceleration.step_graph import CompiledTrainStep, unsupported_part
from torchkeras.data import batches
from torchkeras.engine.epoch import EpochRunner

X = torch.randn(330, 6, generator=torch.Generator().manual_seed(0))
Y = torch.randint(0, 3, (330,), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def ahead(monkeypatch):
    """Takes the CPU for a device that works while the program goes on."""
    monkeypatch.setattr(autotuner, "is_ahead", lambda device: True)


def fitted(epochs=4, callbacks=(), **options):
    torch.manual_seed(0)
    model = KerasModel(nn.Linear(6, 3), "cross_entropy")
    model.fit((X, Y), epochs=epochs, batch_size=16, ckpt_path=None, quiet=True, speed="fast", callbacks=callbacks,
              **options)
    return model.run.notes


@pytest.mark.parametrize("took", [1e-5, 1e-2, 1.0])
def test_on_an_accelerator_everything_is_tried_however_long_a_step_takes(took):
    assert candidates_for(took, ahead=True) == [ChannelsLast, CompiledTrainStep, CompiledNet]


def test_control_on_a_cpu_the_length_of_a_step_decides():
    assert candidates_for(1e-3, ahead=False) == [CompiledTrainStep]
    assert candidates_for(1e-2, ahead=False) == [ChannelsLast, CompiledNet]


def test_all_three_are_considered_in_their_order(ahead, paces, monkeypatch):
    monkeypatch.setitem(paces, "plain steps", 0.5)  # a long step
    assert fitted()[-1] == (
        "fast: plain steps (plain 500.0 ms, channels last: no convolutions, one graph a step: too few steps are left "
        "to pay for compiling, compiled net: too few steps are left to pay for compiling)")


class Quick(Candidate):
    """Stands in for a way that compiles."""

    def __init__(self, step, batch, tuner):
        pass


@pytest.mark.parametrize(("graph", "tried"), [
    (1e-3, "fast: channels last + one graph a step (plain 2.0 ms, channels last 1.5 ms, one graph a step 1.0 ms, "
           "none)"),
    (9e-3, "fast: channels last + compiled net (plain 2.0 ms, channels last 1.5 ms, one graph a step 9.0 ms, "
           "compiled net 600 us)")])
def test_a_graph_is_made_of_the_net_in_its_best_layout_and_needs_no_compiled_net(
        graph, tried, ahead, paces, monkeypatch):
    class Images(Quick):
        name = "channels last"

    class Graph(Quick):
        name = "one graph a step"

    class Net(Quick):
        name = "compiled net"

    class Several(Quick):
        unsupported_reason = staticmethod(lambda *_: "none")

    for name, kind in {"ChannelsLast": Images, "CompiledTrainStep": Graph, "CompiledNet": Net,
                       "CompiledMultiStep": Several}.items():
        monkeypatch.setattr(autotuner, name, kind)
    for name, pace in {"channels last": 1.5e-3, "one graph a step": graph}.items():
        monkeypatch.setitem(paces, name, pace)
    assert fitted(epochs=9)[-1] == tried


def waits_of(monkeypatch):
    """At which steps the device was waited for."""
    seen = []

    def now(tuner, step):
        seen.append((tuner.run.epoch, tuner.run.step))
        return float(len(seen))

    monkeypatch.setattr(StepAutotuner, "now", now)
    fitted(epochs=2, validation_split=0.1)
    return seen


def test_ten_steps_are_timed_between_two_waits(ahead, monkeypatch):
    # 19 steps an epoch: one window each, and the time between two epochs is in none
    assert waits_of(monkeypatch) == [(1, 0), (1, 9), (1, 10), (2, 0), (2, 9), (2, 10)]


def test_control_on_a_cpu_each_step_is_timed(monkeypatch):
    assert len(waits_of(monkeypatch)) == 36


class Precision(Callback):
    def on_fit_start(self, model):
        self.seen = torch.get_float32_matmul_precision()

    def on_step_end(self, model):
        self.seen = torch.get_float32_matmul_precision()


@pytest.mark.parametrize(("chosen", "within"), [("highest", "high"), ("medium", "medium")])
def test_float32_products_are_coarser_on_an_accelerator_unless_the_user_chose(chosen, within, ahead):
    watch = Precision()
    torch.set_float32_matmul_precision(chosen)
    try:
        notes = fitted(callbacks=[watch])
        assert torch.get_float32_matmul_precision() == chosen
    finally:
        torch.set_float32_matmul_precision("highest")
    assert watch.seen == within
    assert any("TF32" in note for note in notes) == (chosen == "highest")


def test_control_on_a_cpu_they_stay_as_they_are():
    watch = Precision()
    assert not any("TF32" in note for note in fitted(callbacks=[watch]))
    assert watch.seen == "highest"


def run_of(speed="fast", precision="no"):
    return SimpleNamespace(config=SimpleNamespace(speed=speed, fsdp=False, mixed_precision=precision), notes=[])


def test_the_fused_form_is_taken_on_a_device_that_has_it_and_its_counters_are_there(monkeypatch):
    net = nn.Linear(3, 2)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    there = torch.optim.Adam(nn.Linear(3, 2, device="meta").parameters())
    for weight, state in zip(there.param_groups[0]["params"], optimizer.state.values(), strict=True):
        there.state[weight] = dict(state)

    def places():
        return {state["step"].device.type for state in there.state.values()}

    with optimizer_impl.optimizer_implementation(run_of(), there):
        assert there.param_groups[0]["fused"] is None  # control: not every device has it
        assert places() == {"cpu"}
    monkeypatch.setattr(optimizer_impl, "DEVICES", {"cpu", "meta"})
    for run, fused in ((run_of("exact"), None), (run_of(precision="fp16"), None), (run_of(), True)):
        with optimizer_impl.optimizer_implementation(run, there):
            assert there.param_groups[0]["fused"] is fused
            assert there.param_groups[0]["foreach"] is (False if fused else None)
            assert places() == ({"meta"} if fused else {"cpu"})
            if fused:
                monkeypatch.setattr(torch.Tensor, "to", lambda one, place: one)  # no way back from this device
        assert there.param_groups[0]["fused"] is None


def test_counters_come_back_when_the_fused_form_ends():
    moved = []

    class Counter(torch.Tensor):
        def to(self, place):
            moved.append(str(place))
            return self

    weight = nn.Parameter(torch.ones(1))
    optimizer = torch.optim.Adam([weight])
    optimizer.state[weight]["step"] = torch.zeros(()).as_subclass(Counter)
    with optimizer_impl.optimizer_implementation(run_of(), optimizer):
        assert moved == ["cpu"]  # where the weight is
    assert moved == ["cpu", "cpu"]


@pytest.mark.parametrize(("precision", "why"), [("fp16", "mixed precision in fp16"), ("bf16", None), ("no", None)])
def test_a_graph_goes_with_bf16_and_not_with_fp16(precision, why, monkeypatch):
    step = SimpleNamespace(accelerator=SimpleNamespace(mixed_precision=precision), plain=precision == "no",
                           optimizer=torch.optim.SGD(nn.Linear(1, 1).parameters()))
    table = {words: holds for words, holds in step_graph.UNSUPPORTED.items() if "precision" in words}
    monkeypatch.setattr(step_graph, "UNSUPPORTED", table)
    assert unsupported_part(step, None, []) == why


def selected_at_once(place):
    """How many batches of 128 images of MNIST are selected at once."""
    data = TensorDataset(torch.empty(1280, 1, 28, 28, device=place), torch.empty(1280, dtype=torch.int64, device=place))
    found = batches(DataLoader(data, 128), name="train_data").memory
    next(iter(found))
    return len(found.block[0]) // 128


def test_on_an_accelerator_large_batches_are_selected_together_too():
    assert (selected_at_once("meta"), selected_at_once("cpu")) == (8, 1)


def test_losses_of_several_steps_are_not_read_from_a_device():
    way = CompiledMultiStep.__new__(CompiledMultiStep)
    way.pending, way.size, way.at_once, way.graph = deque(), 4, 1, None
    block = [torch.empty(32, 2, device="meta"), torch.empty(32, device="meta")]
    way.data = SimpleNamespace(device_data=SimpleNamespace(block=block))
    way.run, way.model = SimpleNamespace(step=0, steps=8), SimpleNamespace(EpochRunner=EpochRunner)
    losses = torch.empty(8, device="meta")  # which would raise if it were read
    way.single = SimpleNamespace(run_graph=lambda *_: (losses, []), update_metrics=lambda counts: None, why=None)
    step = SimpleNamespace(facts=SimpleNamespace(paired=False), number=0, stage="train", learning_rate=0.1)
    found = [way(step, [block[0][:4], block[1][:4]]).losses["train_loss"] for _ in range(8)]
    assert all(one.is_meta and one.dim() == 0 for one in found)
    assert step.number == 8
    assert not way.pending


def test_random_numbers_are_put_back_after_compiling_on_any_kind_of_device(monkeypatch):
    class Apple:
        """torch.mps takes no number of a device, for which torch's own fork_rng asks."""

        state = torch.tensor([5])

        def is_available(self):
            return True

        def get_rng_state(self):
            return self.state.clone()

        def set_rng_state(self, state):
            self.state = state

    module, drawn = Apple(), torch.get_rng_state()
    with monkeypatch.context() as patch:
        patch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("mps"))
        patch.setattr(torch, "get_device_module", lambda device: module)
        with quiet_compilation():
            torch.rand(1)
            module.state = torch.tensor([6])
    assert int(module.state) == 5
    assert torch.equal(torch.get_rng_state(), drawn)
