"""A product of matrices, a regression and the MNIST CNN, timed on the CPU and on the accelerator, if there is one."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from digits import Digits, load_digits
from mnist_cnn import make_net, scaled
from torchkeras import KerasModel, devices


def multiply(device: str, rows: int) -> float:
    """A (rows x 200) @ (200 x rows) product of random numbers; gives their mean square, which is about 200."""
    a, b = torch.randn(rows, 200, device=device), torch.randn(200, rows, device=device)
    return (a @ b).square().mean().item()


def regress(device: str, rows: int, steps: int) -> float:
    """Full-batch Adam on y = 2 x1 - 3 x2 + 10 with noise of variance 4; gives the last loss, which comes near that."""
    x = 10 * torch.rand(rows, 2, device=device) - 5
    y = x @ torch.tensor([[2.0], [-3.0]], device=device) + 10 + 2 * torch.randn(rows, 1, device=device)
    net, loss_fn = nn.Linear(2, 1).to(device), nn.MSELoss()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    for _ in range(steps):
        loss = loss_fn(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


def train_cnn(device: str, digits: Digits, epochs: int) -> float:
    """The CNN of mnist_cnn.py by fit; gives its accuracy on the test digits."""
    net = make_net()
    model = KerasModel(net, loss_fn="cross_entropy", metrics_dict=["accuracy"],
                       optimizer=torch.optim.Adam(net.parameters(), lr=3e-3))
    on = {"cpu": device == "cpu"}
    model.fit((scaled(digits.train_images), torch.from_numpy(digits.train_labels)), epochs=epochs, batch_size=64,
              ckpt_path=None, quiet=True, **on)
    test = scaled(digits.test_images), torch.from_numpy(digits.test_labels)
    return model.evaluate(test, batch_size=500, **on)["val_accuracy"]


def timed(job: Callable[[str], float], device: str) -> tuple[float, float]:
    """Seconds and result of a job; the result is a number in main memory, so nothing is under way any more."""
    torch.manual_seed(0)
    start = time.perf_counter()
    result = job(device)
    return time.perf_counter() - start, result


def main(argv: list[str] | None = None) -> dict[str, dict[str, tuple[float, float]]]:
    """Time each job on each device; gives seconds and result by job and device."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of the full MNIST; default: 4,000 digits to train on")
    parser.add_argument("--small", action="store_true", help="sizes for a quick look")
    parser.add_argument("--epochs", type=int, default=2, help="of the CNN")
    options = parser.parse_args(argv)
    digits = load_digits(options.data)
    size, rows, steps = (1000, 10_000, 300) if options.small else (10_000, 1_000_000, 500)
    jobs = {f"matmul {size:,} x 200 x {size:,}": lambda device: multiply(device, size),
            f"regression, {rows:,} rows, {steps} steps": lambda device: regress(device, rows, steps),
            f"MNIST CNN, {len(digits.train_labels):,} digits, {options.epochs} epochs":
                lambda device: train_cnn(device, digits, options.epochs)}
    print("\n".join(map(str, devices())))
    kinds = list(dict.fromkeys(device.kind.split(":")[0] for device in devices()[::-1]))  # the CPU first
    if len(kinds) > 1:
        multiply(kinds[1], 100)  # a device is slow the first time it is used
    print(f"\n{'seconds':42}" + "".join(f"{kind:>10}" for kind in kinds) + "   result")
    table = {}
    for name, job in jobs.items():
        table[name] = {kind: timed(job, kind) for kind in kinds}
        seconds, results = zip(*table[name].values(), strict=True)
        faster = f"   {seconds[0] / seconds[1]:.1f} times as fast" if len(kinds) > 1 else ""
        print(f"{name:42}" + "".join(f"{one:10.3f}" for one in seconds)
              + "   " + ", ".join(f"{one:.3f}" for one in results) + faster, flush=True)
    return table


if __name__ == "__main__":
    main()
