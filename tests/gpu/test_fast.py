"""``speed="fast"`` on a GPU: other kernels, numbers that differ by rounding alone."""

import pytest
import torch
from tests.gpu.parts import adam, by_fit, distance, loader_of, mlp, table

from torchkeras import Callback
from torchkeras.acceleration import autotuner


@pytest.mark.timeout(400)  # it compiles
@pytest.mark.filterwarnings("default")  # torch's compiler warns of what it does on some cards
def test_fast_differs_from_exact_by_rounding_alone(gpu, monkeypatch):
    monkeypatch.setattr(autotuner, "COMPILE_TIME", 0.0)  # else a short run would not try what compiles
    found, notes = {}, {}
    for speed, seed in (("exact", 7), ("fast", 7), ("other order", 8)):
        net = mlp(inputs=20, dropout=0.0)
        torch.manual_seed(seed)
        found[speed], model, _ = by_fit(gpu, net, adam(net), loader_of(table(3300, inputs=20)), 3,
                                        metrics=["accuracy"],
                                        speed="fast" if speed == "fast" else "exact")
        notes[speed] = [note for note in model.run.notes if note.startswith("fast")]
    assert distance(found["fast"], found["exact"]) < 1e-2
    assert distance(found["other order"], found["exact"]) > 1e-2  # control
    assert notes["fast"]
    assert not notes["exact"]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_short_runs_are_fused_and_in_tf32_and_leave_all_as_it_was(gpu, precision):
    net, seen = mlp(), []

    class Watch(Callback):
        def on_step_end(self, model):
            [group] = model.optimizer.param_groups
            counters = {state["step"].device.type for state in model.optimizer.state.values()}
            seen.append((group["fused"], torch.get_float32_matmul_precision(), counters))

    model = by_fit(gpu, net, adam(net), loader_of(table()), 2, speed="fast", callbacks=[Watch()],
                   mixed_precision=precision)[1]
    assert seen[-1] == (True, "high", {"cuda"})
    assert model.optimizer.param_groups[0]["fused"] is None
    assert torch.get_float32_matmul_precision() == "highest"
    assert {state["step"].device.type for state in model.optimizer.state.values()} == {"cpu"}
    net(table()[0]).sum().backward()
    model.optimizer.step()  # as its owner goes on by hand


@pytest.mark.timeout(400)
@pytest.mark.filterwarnings("default")
def test_a_graph_is_chosen_in_bf16_or_it_is_said_why_not(gpu, monkeypatch):
    monkeypatch.setattr(autotuner, "COMPILE_TIME", 0.0)
    net = mlp(inputs=20, dropout=0.0)
    notes = by_fit(gpu, net, adam(net), loader_of(table(3300, inputs=20)), 3, speed="fast",
                   mixed_precision="bf16")[1].run.notes
    assert "mixed precision" not in notes[-1]
    assert "one graph a step" in notes[-1]
