"""Images in one folder a class: written from handwritten digits here, read back turned and mirrored, and learned."""

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from digits import load_digits
from torchkeras import KerasModel
from torchkeras.data import ImageFolder

CLASSES = {"four": 4, "nine": 9}


def write_folders(folder: Path, samples: int) -> None:
    """``train/four/000.png`` and so on: so many images a class to train on, and up to 100 a class to validate on."""
    digits = load_digits()
    parts = {"train": (digits.train_images, digits.train_labels), "val": (digits.test_images, digits.test_labels)}
    for part, (images, labels) in parts.items():
        for name, digit in CLASSES.items():
            place = folder / part / name
            place.mkdir(parents=True, exist_ok=True)
            for number, image in enumerate(images[labels == digit][:samples]):
                Image.fromarray(image).save(place / f"{number:03}.png")


def make_net() -> nn.Sequential:
    """Two convolutions, and a logit for each class."""
    return nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, kernel_size=3), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(),
        nn.Linear(32, len(CLASSES)))


def save_grid(path: Path, data: ImageFolder, preds: np.ndarray, rows: int = 5, columns: int = 8) -> None:
    """Images with their folder and what they were taken for: mistakes first, in red."""
    labels = np.array([number for _, number in data.samples])
    wrong = preds != labels
    right = np.random.default_rng(0).permutation(np.flatnonzero(~wrong))
    shown = np.concatenate([np.flatnonzero(wrong), right])[:rows * columns]
    figure = Figure(figsize=(columns * 1.25, rows * 1.6), layout="constrained")
    figure.suptitle(f"folder, and what the net says: right for {(~wrong).sum()} of {len(labels)}, wrong in red")
    for axes, index in zip(figure.subplots(rows, columns).flat, shown, strict=False):
        axes.imshow(data[index][0][0].numpy(), cmap="gray_r")
        axes.set_title(f"{data.classes[labels[index]]}, {data.classes[preds[index]]}", fontsize=9,
                       color="red" if wrong[index] else "black")
        axes.set(xticks=[], yticks=[])
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> float:
    """Write the folders, train on them, draw the grid; gives the accuracy on the test images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--samples", type=int, default=400, help="training images a class, at most 400")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder for images, weights and picture")
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    write_folders(options.output / "images", options.samples)
    # A digit seen in a mirror is another thing than on paper, but a four never becomes a nine by it.
    train = ImageFolder(options.output / "images" / "train", size=28, mode="L", flip=True, rotation=15)
    val = ImageFolder(options.output / "images" / "val", size=28, mode="L")

    net = make_net()
    model = KerasModel(net, loss_fn="cross_entropy", metrics_dict=["accuracy"],
                       optimizer=torch.optim.Adam(net.parameters(), lr=3e-3))
    model.fit(train, val, epochs=options.epochs, batch_size=32, patience=None, ckpt_path=options.output / "images.pt")
    accuracy = model.evaluate(val)["val_accuracy"]
    save_grid(options.output / "image_folder.png", val, model.predict(val, output="classes", as_numpy=True))
    print(f"accuracy on {len(val)} images of the folder val: {accuracy:.2%}")
    return accuracy


if __name__ == "__main__":
    main()
