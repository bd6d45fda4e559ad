"""``speed="fast"`` on a GPU: other kernels, numbers that differ by rounding alone."""

import pytest
import torch
from tests.gpu.parts import adam, by_fit, distance, loader_of, mlp, table

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
