"""What a run costs beside a net of which little learns: ``python -m benchmarks.frozen``, memory and bytes written.

Each way runs in a process of its own; memory is that of the process (the most it ever held), less what the same net
takes in a loop by hand.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import Callback, KerasModel

WIDTH, LAYERS, EPOCHS = 2048, 12, 4
WAYS = ("by hand", "fit", "fit .safetensors", "fit, resume=True")


class Adapted(nn.Module):
    """A frozen layer with a product of two thin matrices beside it that learns."""

    def __init__(self, rank: int = 8) -> None:
        super().__init__()
        self.base = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.down, self.up = nn.Linear(WIDTH, rank, bias=False), nn.Linear(rank, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Add both."""
        found: Tensor = torch.relu(self.base(x) + self.up(self.down(x)))
        return found


def net_of(kind: str) -> nn.Module:
    """Return a net of 200 MB: a backbone with a head that learns, or with adapters."""
    torch.manual_seed(0)
    if kind == "adapters":
        return nn.Sequential(*(Adapted() for _ in range(LAYERS)), nn.Linear(WIDTH, 10))
    body = nn.Sequential(*(layer for _ in range(LAYERS) for layer in (nn.Linear(WIDTH, WIDTH), nn.ReLU())))
    return nn.Sequential(body.requires_grad_(False), nn.Linear(WIDTH, 10))


class Written(Callback):
    """Adds up the sizes of the files that were written since the last step."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.total, self.seen = folder, 0, set[tuple[int, int]]()

    def look(self) -> None:
        """Count files that are new; a second name for one is none."""
        for path in self.folder.rglob("*"):
            if path.is_file() and (mark := (path.stat().st_ino, path.stat().st_mtime_ns)) not in self.seen:
                self.seen.add(mark)
                self.total += path.stat().st_size

    def on_step_end(self, model: Any) -> None:
        """After each step, so that none is missed."""
        self.look()


def run(kind: str, way: str) -> dict[str, int]:
    """Train in this process; return bytes: of the net, of what learns, the most memory, written."""
    net = net_of(kind)
    data = TensorDataset(torch.randn(64, WIDTH), torch.randint(10, (64,)))
    optimizer = torch.optim.Adam([one for one in net.parameters() if one.requires_grad], 1e-3)
    model = KerasModel(net, "cross_entropy", optimizer=optimizer)
    with tempfile.TemporaryDirectory() as name:
        written = Written(Path(name))
        if way == "by hand":
            for x, y in [batch for _ in range(EPOCHS) for batch in DataLoader(data, 16)]:
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x), y).backward()
                optimizer.step()
        else:
            path = f"{name}/best{'.safetensors' if way.endswith('safetensors') else '.pt'}"
            model.fit(DataLoader(data, 16), DataLoader(data, 16), epochs=EPOCHS, ckpt_path=path, quiet=True,
                      resume="resume" in way, callbacks=[written])
            written.look()
    sizes = [(one.numel() * one.element_size(), one.requires_grad) for one in net.parameters()]
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"net": sum(size for size, _ in sizes), "learns": sum(size for size, learns in sizes if learns),
            "most": most, "written": written.total}


def main() -> None:
    """Run each way in a process of its own, and print a table."""
    if len(sys.argv) == 3:
        print(json.dumps(run(sys.argv[1], sys.argv[2])))
        return
    for kind in ("head", "adapters"):
        found = {}
        for way in WAYS:
            command = [sys.executable, "-m", "benchmarks.frozen", kind, way]
            # else freed memory stays with the process, in pieces that say nothing of what is held
            kept = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
            found[way] = json.loads(subprocess.run(command, check=True, capture_output=True, env=kept).stdout)
        for way, one in found.items():
            more = one["most"] - found["by hand"]["most"]
            print(f"{kind:9} {way:17} net {one['net'] / 1e6:6.1f} MB, of which {one['learns'] / 1e6:5.2f} MB learn; "
                  f"{more / 1e6:6.1f} MB beside it; {one['written'] / 1e6:6.1f} MB written")


if __name__ == "__main__":
    main()
