"""Draw the curves of a run in the terminal, or as a picture."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchkeras.display.digest import Digest, Points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Columns = Mapping[str, Sequence[float]]
LINES = {"train": ("·", "·"), "val": ("⠒", "braille")}  # in the title; plotext's marker
TRAIN, VAL, STAR = "#4C78A8", "#F58518", "#D62728"


def quantities(history: Columns) -> list[str]:
    """Return the names of what was measured, without the stage; the loss first."""
    names = [name.split("_", 1)[1] for name in history if name.startswith(("train_", "val_"))]
    return sorted(dict.fromkeys(names), key=lambda name: name != "loss")


def points(history: Columns, name: str) -> tuple[list[float], list[float]]:
    """Return the epochs and the finite numbers of a column."""
    rows = zip(history["epoch"], history.get(name, ()), strict=False)
    pairs = [(epoch, value) for epoch, value in rows if math.isfinite(value)]
    return [epoch for epoch, _ in pairs], [value for _, value in pairs]


def curves(history: Columns, quantity: str, width: int, height: int = 14, *, colour: bool = True,
           best_epoch: int | None = None) -> str:
    """Draw one quantity with characters; empty if fewer than two epochs have it."""
    import plotext

    canvas = plotext.figure  # plotext's only figure; it is cleared after use
    canvas.clear()
    names = ["epoch", *(f"{stage}_{quantity}" for stage in LINES)]
    columns = {name: history[name] for name in names if name in history}
    found = Digest().lines(columns, len(columns.get("epoch", ())), best_epoch)
    try:
        canvas.theme("simple" if colour else "colorless")
        for stage, (_, marker) in LINES.items():
            if line := found.get(f"{stage}_{quantity}"):
                epochs, values = map(list, zip(*line, strict=True))
                canvas.draw(canvas.signal(epochs, values, marker=marker).lines())
        if max(map(len, found.values()), default=0) < 2:
            return ""
        mark_best(canvas, found, quantity, best_epoch)
        canvas.plot_size(width, height)
        canvas.title(title(found, quantity, best_epoch)).label("epoch")
        canvas.ruler("x").ticks(ticks(history["epoch"]))
        canvas.legend(False)
        text = str(canvas.build())
        return text if colour else plotext.uncolorize(text)
    finally:
        canvas.clear()


def ticks(epochs: Sequence[float], most: int = 10) -> list[int]:
    """Return at most ``most`` epochs to label the axis with, evenly spaced."""
    return [int(epoch) for epoch in epochs[::math.ceil(len(epochs) / most)]]


def title(found: Mapping[str, Points], quantity: str, best_epoch: int | None) -> str:
    """Return the title with the legend; plotext's own legend would cover the curves."""
    shown = [f"{LINES[stage][0] * 3} {stage}" for stage in LINES if f"{stage}_{quantity}" in found]
    best = [] if not best_epoch else [f"★ best: epoch {best_epoch}"]
    return "   ".join([quantity, *shown, *best])


def mark_best(canvas: Any, found: Mapping[str, Points], quantity: str,
              best_epoch: int | None) -> None:
    """Mark the best epoch with a star, on the validation line if there is one."""
    line = found.get(f"val_{quantity}") or found.get(f"train_{quantity}", [])
    for epoch, value in line:
        if epoch == best_epoch:
            canvas.draw(canvas.signal([best_epoch], [value], marker="★"))


def figure(history: Columns, best_epoch: int | None = None) -> Figure:
    """Draw the curves on a new matplotlib figure; no window opens and no other figure changes.

    Args:
        history: what ``fit`` returns, or ``model.history``.
        best_epoch: the epoch to star, as ``model.run.monitor.best_epoch``.

    Returns:
        A ``matplotlib.figure.Figure`` with axes for each quantity.

    Example:
        >>> len(figure({"epoch": [1, 2], "train_loss": [2.0, 1.0], "lr": [0.1, 0.1]}).axes)
        1
    """
    from matplotlib.figure import Figure

    names = quantities(history)
    drawn = Figure(figsize=(5.2 * max(len(names), 1), 3.8), layout="constrained")
    for position, name in enumerate(names, start=1):
        axes = drawn.add_subplot(1, len(names), position)
        draw_axes(axes, history, name, best_epoch)
    return drawn


def draw_axes(axes: Axes, history: Columns, name: str, best_epoch: int | None) -> None:
    """Draw one quantity: training dashed, validation solid, a star at the best epoch."""
    for column, colour, style in ((f"train_{name}", TRAIN, "o--"), (f"val_{name}", VAL, "o-")):
        epochs, values = points(history, column)
        if epochs:
            axes.plot(epochs, values, style, color=colour, markersize=3.5, linewidth=1.6,
                      label=column)
        if best_epoch in epochs and (column.startswith("val_") or f"val_{name}" not in history):
            axes.plot([best_epoch], [values[epochs.index(best_epoch)]], "*", color=STAR,
                      markersize=14, label=f"best epoch: {best_epoch}")
    axes.set(title=name, xlabel="epoch")
    locator: Any = axes.xaxis.get_major_locator()
    locator.set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    if axes.lines:
        axes.legend(frameon=False)


def save_curves(history: Columns, path: str | os.PathLike[str],
                best_epoch: int | None = None) -> None:
    """Write the curves of a run to a picture file; its suffix gives the format.

    Args:
        history: what ``fit`` returns, or ``model.history``.
        path: the file.
        best_epoch: the epoch to star.

    Example:
        >>> save_curves(history, "curves.png")  # doctest: +SKIP
    """
    target = Path(path).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    figure(history, best_epoch).savefig(target, dpi=130)
