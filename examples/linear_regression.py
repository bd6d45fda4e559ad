"""A plane through noisy points, on three levels: gradients alone, layers and an optimizer, and fit (two faces)."""

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from plane_points import TRUE_B, TRUE_W, Plane, make_points, save_picture
from torchkeras import Model
from torchkeras.data import data_iter


def low_level(x: Tensor, y: Tensor, epochs: int) -> Plane:
    """Weights of one's own; autograd gives the gradients, and the update is written out."""
    w, b = torch.randn(2, 1, requires_grad=True), torch.zeros(1, requires_grad=True)
    for _ in range(epochs):
        for features, labels in data_iter(x, y, batch_size=10):
            loss = (features @ w + b - labels).square().mean()
            for parameter, gradient in zip((w, b), torch.autograd.grad(loss, (w, b)), strict=True):
                parameter.data -= 0.01 * gradient
    return (*w.flatten().tolist(), b.item())


def middle_level(x: Tensor, y: Tensor, epochs: int) -> Plane:
    """A layer, a loss and an optimizer of torch's; the loop is still one's own."""
    net, loss_fn = nn.Linear(2, 1), nn.MSELoss()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(epochs):
        for features, labels in data_iter(x, y, batch_size=10):
            loss_fn(net(features), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
    return (*net.weight.flatten().tolist(), net.bias.item())


def high_level(x: Tensor, y: Tensor, epochs: int) -> Plane:
    """The same in Keras's words: compile and fit, which also measures and shows how it goes."""
    net = nn.Linear(2, 1)
    model = Model(net)
    model.compile(optimizer=torch.optim.SGD(net.parameters(), lr=0.01), loss="mse", metrics=["mae"])
    model.fit(x, y, batch_size=10, epochs=epochs)
    return (*net.weight.flatten().tolist(), net.bias.item())


def lightning_level(x: Tensor, y: Tensor, epochs: int) -> Plane:
    """The same by the Trainer of Lightning."""
    from torchkeras import LightModel

    net = nn.Linear(2, 1)
    model = LightModel(net, "mse", ["mae"], torch.optim.SGD(net.parameters(), lr=0.01), quiet=True)
    trainer = LightModel.Trainer(gpus=0, max_epochs=epochs, logger=False, enable_checkpointing=False,
                                 enable_progress_bar=False, enable_model_summary=False)
    trainer.fit(model, DataLoader(TensorDataset(x, y), batch_size=10, shuffle=True))
    return (*net.weight.flatten().tolist(), net.bias.item())


def main(argv: list[str] | None = None) -> dict[str, Plane]:
    """Fit the plane on each level; gives w1, w2 and b of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder for the picture")
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    x, y = make_points()
    levels = {"low": low_level, "middle": middle_level, "high": high_level}
    if find_spec("pytorch_lightning"):
        levels["lightning"] = lightning_level
    found = {name: level(x, y, options.epochs) for name, level in levels.items()}

    print(f"\n{'level':10}{'w1':>8}{'w2':>8}{'b':>8}")
    for name, plane in {"true": (*TRUE_W, TRUE_B), **found}.items():
        print(f"{name:10}" + "".join(f"{number:8.3f}" for number in plane))
    options.output.mkdir(parents=True, exist_ok=True)
    save_picture(options.output / "linear_regression.png", x, y, found["high"])
    return found


if __name__ == "__main__":
    main()
