"""The plane of the examples: its points, and the picture of what was found."""

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

TRUE_W, TRUE_B, NOISE = (2.0, -3.0), 10.0, 1.0
Plane = tuple[float, float, float]


def make_points(samples: int = 400) -> tuple[Tensor, Tensor]:
    """Features of shape (samples, 2) from -5 to 5, and y = 2 x1 - 3 x2 + 10 with noise, of shape (samples, 1)."""
    x = 10 * torch.rand(samples, 2) - 5
    return x, x @ torch.tensor(TRUE_W)[:, None] + TRUE_B + NOISE * torch.randn(samples, 1)


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
