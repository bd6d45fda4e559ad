"""The two rings of the examples: their points, and the picture of what a net makes of them."""

from collections.abc import Callable
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

Scores = Callable[[Tensor], Tensor]  # points (samples, 2) to logits (samples, 1)


def make_rings(inner: int = 2000, outer: int = 2000) -> tuple[Tensor, Tensor]:
    """Points of shape (samples, 2) and their rings (samples, 1): 1 at radius 5, 0 at radius 8, each give or take 1."""
    labels = torch.cat([torch.ones(inner, 1), torch.zeros(outer, 1)])[torch.randperm(inner + outer)]
    radius, angle = 8 - 3 * labels + torch.randn_like(labels), 2 * torch.pi * torch.rand_like(labels)
    return torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1), labels


def save_rings(path: Path, x: Tensor, y: Tensor, nets: dict[str, Scores]) -> None:
    """The true rings, and beside them what each net takes the same points for, with the border that it draws."""
    figure = Figure(figsize=(4.2 * (1 + len(nets)), 4.6), layout="constrained")
    panels = figure.subplots(1, 1 + len(nets), sharex=True, sharey=True)
    side = torch.linspace(-12, 12, 200)
    grid = torch.cartesian_prod(side, side)
    for axes, (name, net) in zip(panels, [("true", None), *nets.items()], strict=True):
        inner = y[:, 0] > 0.5 if net is None else net(x).detach()[:, 0] > 0
        for points, colour, label in ((x[~inner], "#4C78A8", "outer"), (x[inner], "#F58518", "inner")):
            axes.scatter(*points.T, s=4, color=colour, alpha=0.5, linewidths=0, label=label)
        right = "" if net is None else f": {(inner == (y[:, 0] > 0.5)).float().mean():.1%} right"
        axes.set(title=name + right, aspect="equal", xlim=(-12, 12), ylim=(-12, 12), xticks=[], yticks=[])
        if net is not None:
            axes.contour(side, side, net(grid).detach().reshape(200, 200).T, levels=[0.0], colors="black", linewidths=1)
    panels[0].legend(frameon=False, markerscale=3, loc="upper right")
    figure.savefig(path, dpi=120)
