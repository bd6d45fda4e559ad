"""A plane through noisy points, on three levels: gradients alone, layers and an optimizer, and fit. All find it."""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from torchkeras import KerasModel
from torchkeras.data import data_iter

TRUE_W, TRUE_B, NOISE = (2.0, -3.0), 10.0, 1.0
Plane = tuple[float, float, float]


def make_points(samples: int = 400) -> tuple[Tensor, Tensor]:
    """Features of shape (samples, 2) from -5 to 5, and y = 2 x1 - 3 x2 + 10 with noise, of shape (samples, 1)."""
    x = 10 * torch.rand(samples, 2) - 5
    return x, x @ torch.tensor(TRUE_W)[:, None] + TRUE_B + NOISE * torch.randn(samples, 1)


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
    """The same by fit, which also measures and shows how it goes."""
    net = nn.Linear(2, 1)
    model = KerasModel(net, loss_fn="mse", metrics_dict=["mae"], optimizer=torch.optim.SGD(net.parameters(), lr=0.01))
    model.fit((x, y), epochs=epochs, batch_size=10, ckpt_path=None, patience=None)
    return (*net.weight.flatten().tolist(), net.bias.item())


def save_picture(path: Path, x: Tensor, y: Tensor, plane: Plane) -> None:
    """The plane among the points; beside it, each feature alone, what the other one explains taken off."""
    w1, w2, b = plane
    figure = Figure(figsize=(13, 4.4), layout="constrained")
    figure.suptitle(f"found: w = ({w1:.2f}, {w2:.2f}), b = {b:.2f}        true: w = (2, -3), b = 10")
    space = figure.add_subplot(1, 3, 1, projection="3d", xlabel="x1", ylabel="x2", title="y")
    space.view_init(elev=28, azim=150)  # a plane seen from the side is a line
    space.computed_zorder = False  # points over the plane
    grid1, grid2 = torch.meshgrid(torch.linspace(-5, 5, 11), torch.linspace(-5, 5, 11), indexing="ij")
    space.plot_surface(grid1.numpy(), grid2.numpy(), (w1 * grid1 + w2 * grid2 + b).numpy(), color="#F58518", alpha=0.35)
    space.scatter(x[:, 0], x[:, 1], y[:, 0], s=6, color="#4C78A8", alpha=0.8)
    ends = torch.tensor([-5.0, 5.0])
    for number, (own, other) in enumerate(((w1, w2), (w2, w1))):
        axes = figure.add_subplot(1, 3, 2 + number, xlabel=f"x{number + 1}", title=f"y without what x{2 - number} adds")
        axes.scatter(x[:, number], y[:, 0] - other * x[:, 1 - number], s=9, color="#4C78A8", alpha=0.6)
        axes.plot(ends, own * ends + b, color="#F58518", linewidth=2.5, label=f"slope {own:.2f}")
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


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
    found = {name: level(x, y, options.epochs) for name, level in levels.items()}

    print(f"\n{'level':8}{'w1':>8}{'w2':>8}{'b':>8}")
    for name, plane in {"true": (*TRUE_W, TRUE_B), **found}.items():
        print(f"{name:8}" + "".join(f"{number:8.3f}" for number in plane))
    options.output.mkdir(parents=True, exist_ok=True)
    save_picture(options.output / "linear_regression.png", x, y, found["high"])
    return found


if __name__ == "__main__":
    main()
