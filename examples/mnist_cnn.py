"""Learn to read handwritten digits: a small CNN from first weights to two pictures, the job of ``make demo``."""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from digits import Digits, load_digits
from torchkeras import KerasModel
from torchkeras.display.plot import save_curves

HELD_OUT = 0.1  # the share of the training digits that says when to stop; the test digits have no part in that


def make_net() -> nn.Sequential:
    """Two convolutions find strokes, the last pooling asks which there are anywhere, two layers decide."""
    return nn.Sequential(
        nn.Conv2d(1, 32, kernel_size=3), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, kernel_size=5), nn.MaxPool2d(2),
        nn.Dropout2d(0.1), nn.AdaptiveMaxPool2d((1, 1)), nn.Flatten(),
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def scaled(images: np.ndarray) -> torch.Tensor:
    """Pixels from 0 to 1, with one colour channel."""
    return torch.from_numpy(images).unsqueeze(1).float() / 255


def save_digits(path: Path, digits: Digits, preds: np.ndarray, rows: int = 5, columns: int = 8) -> None:
    """Draw test digits with their labels: mistakes in the first row, marked red, then digits as they come."""
    wrong = preds != digits.test_labels
    shown = np.concatenate([np.flatnonzero(wrong)[:columns], np.flatnonzero(~wrong)])[:rows * columns]
    figure = Figure(figsize=(columns * 1.25, rows * 1.55), layout="constrained")
    figure.suptitle(f"Each digit and what it was read as: right for {(~wrong).sum():,} of {len(preds):,}, wrong in red")
    for axes, index in zip(figure.subplots(rows, columns).flat, shown, strict=False):
        label, pred = digits.test_labels[index], preds[index]
        axes.imshow(digits.test_images[index], cmap="gray_r")
        axes.set_title(f"{label}, read as {pred}", color="red" if wrong[index] else "black", fontsize=10)
        axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None, digits: Digits | None = None) -> float:
    """Train, evaluate, draw; gives the accuracy on the test digits."""
    options = parse(argv)
    digits = digits or load_digits(options.data)
    options.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(options.seed)

    train = scaled(digits.train_images), torch.from_numpy(digits.train_labels)
    test = scaled(digits.test_images), torch.from_numpy(digits.test_labels)

    net = make_net()
    epochs = options.epochs or (12 if options.data is None else 3)
    updates = epochs * math.ceil(len(train[1]) * (1 - HELD_OUT) / options.batch_size)
    optimizer = torch.optim.Adam(net.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=updates)
    model = KerasModel(net, loss_fn=nn.CrossEntropyLoss(label_smoothing=0.1), metrics_dict={"acc": "accuracy"},
                       optimizer=optimizer, lr_scheduler=schedule)
    model.summary(input_shape=(1, 28, 28))

    history = model.fit(train, validation_split=HELD_OUT, epochs=epochs, batch_size=options.batch_size,
                        monitor="val_acc", patience=5, ckpt_path=options.output / "best.pt",
                        mixed_precision=options.mixed_precision)
    accuracy = model.evaluate(test, batch_size=500)["val_acc"]

    save_curves(history, options.output / "curves.png", best_epoch=model.run.monitor.best_epoch)
    save_digits(options.output / "digits.png", digits, model.predict(test, output="classes", as_numpy=True))
    print(f"accuracy on {len(test[1]):,} digits it has never seen: {accuracy:.2%}")
    print(f"weights, curves and digits are in {options.output}")
    return accuracy


def parse(argv: list[str] | None) -> argparse.Namespace:
    """What can be chosen from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder for the full MNIST; default: 5,000 digits at hand")
    parser.add_argument("--epochs", type=int, help="default: 12, on full MNIST 3")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder for weights and pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mixed-precision", choices=("no", "bf16", "fp16"), default="no")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
