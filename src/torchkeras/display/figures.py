"""Draw a run with matplotlib, for papers and notebooks, on figures of its own."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from torchkeras.core.errors import bad_value, did_you_mean
from torchkeras.core.screen import detect
from torchkeras.core.types import Data
from torchkeras.display import plot
from torchkeras.display.targets import target

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_metric(dfhistory: Data, metric: str, *, best_epoch: int | None = None,
                ax: Axes | None = None) -> Axes:
    """Draw one quantity over the epochs, in training and validation.

    In a notebook the picture is shown; elsewhere, save it with
    ``plot_metric(...).figure.savefig("loss.png")``. No window is opened, and your other figures
    do not change.

    Args:
        dfhistory: what ``fit`` returns, or ``model.history``.
        metric: a name with or without its stage: "loss", or "val_loss" for the same.
        best_epoch: the epoch to star.
        ax: where to draw. Default: a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: no such quantity was measured.

    Example:
        >>> plot_metric({"epoch": [1, 2], "train_loss": [2.0, 1.0]}, "loss").get_title()
        'loss'
    """
    columns = with_epochs(dfhistory)
    known = plot.quantities(columns)
    name = metric if metric in known else metric.removeprefix("train_").removeprefix("val_")
    if name not in known:
        raise bad_value("metric", received=repr(metric), expected="one of " + ", ".join(known),
                        fix=did_you_mean(name, known))
    axes = ax if ax is not None else new_axes(6.0, 4.0)
    plot.draw_axes(axes, columns, name, best_epoch)
    return shown(axes, ax is None)


def plot_history(dfhistory: Data, path: str | os.PathLike[str] | None = None, *,
                 best_epoch: int | None = None,
                 figsize: tuple[float, float] = (5.2, 3.8)) -> Figure:
    """Draw everything that was measured, one chart beside the other; a notebook shows it.

    Args:
        dfhistory: what ``fit`` returns, or ``model.history``.
        path: a picture file, such as "history.png"; None writes none.
        best_epoch: the epoch to star.
        figsize: width and height of each curve, in inches.

    Returns:
        The figure.

    Raises:
        TypeError: ``path`` is not a path.
        ValueError: it cannot be written.

    Example:
        >>> len(plot_history({"epoch": [1, 2], "train_loss": [2.0, 1.0]}).axes)
        1
    """
    file = None if path is None else target("path", path)
    drawn = plot.figure(with_epochs(dfhistory), best_epoch)
    drawn.set_size_inches(figsize[0] * max(len(drawn.axes), 1), figsize[1])
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn.savefig(file, dpi=130)
    elif drawn.axes:
        shown(drawn.axes[0], True)
    return drawn


def plot_confusion(confusion: Data, class_names: Sequence[str] | None = None, *,
                   normalize: bool = False, ax: Axes | None = None) -> Axes:
    """Draw a confusion matrix; a notebook shows it.

    Args:
        confusion: counts of shape (classes, classes), a row a label, a column a guess: a tensor,
            array or list.
        class_names: names of the classes. Default: their numbers.
        normalize: show each count as a share of its row.
        ax: where to draw. Default: a new figure.

    Returns:
        The axes.

    Raises:
        ValueError: the counts are not square, or there is not one name for each class.

    Example:
        >>> [text.get_text() for text in plot_confusion([[3, 1], [0, 4]], normalize=True).texts]
        ['0.75', '0.25', '0.00', '1.00']
    """
    import numpy as np

    counts = np.asarray(confusion.detach().cpu() if hasattr(confusion, "detach") else confusion)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise bad_value("confusion", received=f"shape {counts.shape}",
                        expected="(classes, classes)")
    size = len(counts)
    names = [str(name) for name in (range(size) if class_names is None else class_names)]
    if len(names) != size:
        raise bad_value("class_names", received=f"{len(names)} names",
                        expected=f"a name for each of {size} classes")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes = ax if ax is not None else new_axes(1.8 + 0.5 * size, 1.6 + 0.5 * size)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(counts.shape):
        word = f"{shares[row, column]:.2f}" if normalize else f"{counts[row, column]}"
        axes.text(column, row, word, ha="center", va="center",
                  color="white" if shares[row, column] > 0.5 else "black")
    axes.set(xticks=range(size), yticks=range(size), xticklabels=names, yticklabels=names,
             xlabel="guess", ylabel="label")
    return shown(axes, ax is None)


def with_epochs(history: Data) -> Mapping[str, Sequence[float]]:
    """Return the columns of a table; epochs are counted from 1 if it has none."""
    columns = {str(name): list(history[name]) for name in history}
    longest = max(map(len, columns.values()), default=0)
    return {"epoch": list(range(1, longest + 1)), **columns}


def new_axes(width: float, height: float) -> Axes:
    """Return axes on a new figure that no window shows."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def shown(axes: Axes, new: bool) -> Axes:
    """Return the axes; in a notebook, show them first if the figure is new."""
    figure = axes.get_figure(root=True)
    if new and figure is not None and detect() == "notebook":
        from IPython.display import Image, display

        show: Callable[..., object] = display
        image: Callable[..., object] = Image
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=100)
        show(image(picture.getvalue(), format="png"))
    return axes
