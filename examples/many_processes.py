"""Two processes share every batch, and all numbers are those of one: epoch by epoch, beside each other."""

import argparse

import pandas as pd
import torch
from torch import nn

from digits import load_digits
from torchkeras import KerasModel


def make_model() -> KerasModel:
    """A small CNN, with the same first weights each time.

    Two processes add up in another order; of float32, Adam would make visible differences of that in a few epochs.
    """
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=5, stride=2), nn.ReLU(), nn.Conv2d(16, 32, kernel_size=3, stride=2), nn.ReLU(),
        nn.Flatten(), nn.Linear(800, 10)).double()
    return KerasModel(net, loss_fn="cross_entropy", metrics_dict=["accuracy"], optimizer="adam")


def main(argv: list[str] | None = None) -> pd.DataFrame:
    """Train once in one process and once in several; gives the two histories in one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--cpu", action="store_true", help="leave accelerators alone")
    options = parser.parse_args(argv)
    digits = load_digits()
    x = torch.from_numpy(digits.train_images[:options.samples]).unsqueeze(1).double() / 255
    data = x, torch.from_numpy(digits.train_labels[:options.samples])
    # As many processes as there are accelerators, or any number on the CPU.
    cpu = options.cpu or torch.accelerator.device_count() < options.processes
    settings = {"epochs": options.epochs, "batch_size": 50, "validation_split": 0.2, "seed": 0, "ckpt_path": None,
                "patience": None, "cpu": cpu, "quiet": True}

    one, several = make_model(), make_model()
    table = one.fit(data, **settings).set_index("epoch")
    other = several.fit_ddp(options.processes, data, **settings).set_index("epoch")

    columns = ["train_loss", "val_loss", "val_accuracy"]
    joined = pd.concat({"1 process": table[columns], f"{options.processes} processes": other[columns]}, axis=1)
    print(joined.swaplevel(axis=1)[columns].to_string(float_format="{:.6f}".format))
    weights = zip(one.net.parameters(), several.net.parameters(), strict=True)
    print(f"\nlargest difference of any number: {(table - other).abs().to_numpy().max():.1e}, "
          f"of any weight: {max((a - b).abs().max().item() for a, b in weights):.1e}")
    return joined


if __name__ == "__main__":
    main()
