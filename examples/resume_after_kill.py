"""kill -9 in mid-epoch loses nothing: started again, a run comes to the very bits of one that nobody disturbed."""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from torchkeras import Callback, KerasModel

EPOCHS, BATCH = 4, 32
KILLS = ("epoch 2 step 13", "epoch 3 step 8")


class Slow(Callback):
    """Says where the run is, and takes its time, as larger nets do."""

    def on_step_end(self, model: KerasModel) -> None:
        """One line a training step."""
        if model.run.stage == "train":
            print(f"at epoch {model.run.epoch} step {model.run.step}", flush=True)
            time.sleep(0.01)


def train(folder: Path) -> None:
    """The training script: nothing in it asks whether it is started for the first time."""
    torch.set_num_threads(1)  # more would only wait for each other in a net this small
    torch.manual_seed(0)
    x = torch.randn(1000, 2)
    y = (x.norm(dim=1, keepdim=True) < 1.2).float()  # about half of them
    net = nn.Sequential(nn.Linear(2, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 1))
    model = KerasModel(net, loss_fn="bce_with_logits", metrics_dict=["accuracy"],
                       optimizer=torch.optim.Adam(net.parameters(), lr=0.01))
    history = model.fit((x, y), validation_split=0.2, epochs=EPOCHS, batch_size=BATCH, seed=0, cpu=True,
                        callbacks=[Slow()], ckpt_path=folder / "best.pt", resume=True, save_every=5)
    bits = b"".join(value.numpy().tobytes() for value in net.state_dict().values())
    bits += history.to_json(double_precision=15).encode()
    print("end", hashlib.sha256(bits).hexdigest()[:16], f"{history['val_accuracy'].max():.4f}")


def start(folder: Path, kill_at: str | None = None) -> list[str]:
    """Run the script in a process of its own, killed at a step; gives its first step, its last, and how it ended."""
    command = [sys.executable, __file__, "--train", str(folder)]
    steps, end = [], ["killed", ""]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("at "):
                steps.append(line[3:].strip())
            if line.startswith("end "):
                end = line.split()[1:]
            if kill_at is not None and steps and steps[-1] == kill_at:
                process.kill()
                break
    if not steps or (kill_at is None and process.returncode):
        raise subprocess.CalledProcessError(process.returncode, command)
    return [steps[0], steps[-1], *end]


def main(argv: list[str] | None = None) -> list[list[str]]:
    """One run undisturbed, and one that is killed; gives for each process what stands in its line of the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=len(KILLS), choices=range(1, len(KILLS) + 1), help="how often")
    parser.add_argument("--train", type=Path, help="train in this folder, and nothing else")
    options = parser.parse_args(argv)
    if options.train is not None:
        train(options.train)
        return []
    rows = []
    print(f"{'run':14}{'from':18}{'to':18}{'weights and history':22}best accuracy")
    with tempfile.TemporaryDirectory() as folder:
        for run, kill_at in [("undisturbed", None), *[("disturbed", step) for step in KILLS[:options.kills]],
                             ("disturbed", None)]:
            rows.append(start(Path(folder) / run, kill_at))
            first, last, digest, accuracy = rows[-1]
            print(f"{run:14}{first:18}{last:18}{digest:22}{accuracy}", flush=True)
    print("the same to the last bit" if rows[0][2:] == rows[-1][2:] else "NOT the same")
    return rows


if __name__ == "__main__":
    main()
