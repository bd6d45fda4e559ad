"""Pictures drawn by matplotlib: on figures of their own, written only when asked."""

import os

import pandas as pd
import pytest
import torch

from torchkeras.display.figures import plot_confusion, plot_history, plot_metric

FRAME = pd.DataFrame({"epoch": [1, 2, 3], "train_loss": [0.7, 0.5, 0.3], "val_loss": [0.6, 0.5, 0.55],
                      "train_acc": [0.1, 0.2, 0.3], "lr": [0.1] * 3})


@pytest.mark.parametrize("metric", ["loss", "val_loss", "train_loss"])
def test_a_metric_is_drawn_for_both_stages_by_any_of_its_names(metric):
    axes = plot_metric(FRAME, metric, best_epoch=2)
    assert [line.get_label() for line in axes.lines] == ["train_loss", "val_loss", "best epoch: 2"]
    assert axes.lines[1].get_ydata().tolist() == [0.6, 0.5, 0.55]
    assert len(plot_metric(FRAME, "acc").lines) == 1


def test_a_table_of_ones_own_needs_no_epochs():
    assert plot_metric({"val_loss": [3.0, 2.0]}, "loss").lines[0].get_xdata().tolist() == [1, 2]


def test_a_name_that_was_not_measured_is_told_with_those_that_were():
    with pytest.raises(ValueError, match=r"metric: received 'los'; expected one of loss, acc. Did you mean 'loss'\?"):
        plot_metric(FRAME, "los")


def test_no_figure_of_yours_is_opened_drawn_on_or_closed(tmp_path, monkeypatch):
    import matplotlib.pyplot as pyplot

    monkeypatch.chdir(tmp_path)
    mine = pyplot.figure()
    own = mine.add_subplot()
    plot_metric(FRAME, "loss")
    plot_history(FRAME)
    plot_confusion([[1, 0], [0, 1]])
    assert pyplot.get_fignums() == [mine.number]
    assert pyplot.gcf() is mine
    assert not own.lines
    assert os.listdir(tmp_path) == []
    assert plot_metric(FRAME, "loss", ax=own) is own
    assert len(own.lines) == 2
    pyplot.close(mine)


def test_a_picture_of_the_history_is_written_when_asked(tmp_path):
    figure = plot_history(FRAME, tmp_path / "new" / "history.png", best_epoch=2, figsize=(3, 2))
    assert (tmp_path / "new" / "history.png").read_bytes().startswith(b"\x89PNG")
    assert figure.get_size_inches().tolist() == [6, 2]
    with pytest.raises(ValueError, match="path: received"):
        plot_history(FRAME, tmp_path)


def test_a_confusion_matrix_shows_counts_or_shares_of_the_labels():
    axes = plot_confusion(torch.tensor([[3, 1], [0, 0]]), ["a", "b"])
    assert [text.get_text() for text in axes.texts] == ["3", "1", "0", "0"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]
    assert [text.get_text() for text in plot_confusion([[3, 1], [0, 0]], normalize=True).texts] == [
        "0.75", "0.25", "0.00", "0.00"]


def test_a_confusion_matrix_is_a_square_with_a_name_for_each_class():
    with pytest.raises(ValueError, match=r"confusion: received shape \(2, 3\)"):
        plot_confusion([[1, 2, 3], [1, 2, 3]])
    with pytest.raises(ValueError, match="class_names: received 1 names"):
        plot_confusion([[1, 2], [3, 4]], ["a"])
