"""Keep ``from torchkeras.plots import plot_metric`` working, as older notebooks write it."""

from torchkeras.display.figures import plot_confusion, plot_history, plot_metric

__all__ = ["plot_confusion", "plot_history", "plot_metric"]
