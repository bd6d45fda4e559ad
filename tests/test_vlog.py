"""VLog: the display for any other loop."""

import re

import pytest
import torch

from torchkeras.display.notebook import NotebookProgress
from torchkeras.vlog import VLog


def logged(vlog, epochs=3, steps=4):
    vlog.log_start()
    for epoch in range(1, epochs + 1):
        for _ in range(steps):
            vlog.log_step({"train_loss": torch.tensor(1.0 / epoch), "lr": 0.1})
        for _ in range(2):
            vlog.log_step({"val_loss": 0.5}, training=False)
        vlog.log_epoch({"train_loss": torch.tensor(1.0 / epoch), "val_loss": abs(epoch - 2) + 0.1})
    vlog.log_end()


def test_a_loop_of_ones_own_gets_the_lines_that_fit_writes():
    lines = []
    vlog = VLog(3, write=lines.append)
    logged(vlog)
    rows = [line for line in lines if "epoch=" in line]
    assert [re.search(r"epoch=(\S+) train_loss=(\S+) val_loss=(\S+)", row).groups() for row in rows] == [
        ("1/3", "1", "1.1000"), ("2/3", "0.5000", "0.1000"), ("3/3", "0.3333", "1.1000")]
    assert lines[-1].startswith("best val_loss 0.1000 in epoch 2")
    assert vlog.best_epoch == 2
    assert vlog.history["epoch"] == [1, 2, 3]
    assert not any(re.search(r"[\r\x1b]|is used", line) for line in lines)


def test_a_second_start_forgets_the_first_run():
    vlog = VLog(3, write=lambda line: None)
    logged(vlog)
    logged(vlog, epochs=2)
    assert vlog.history["epoch"] == [1, 2]
    assert vlog.run.stop_reason == "ended after 2 of 3 epochs"


def test_mode_and_metric_say_what_is_best():
    vlog = VLog(2, "val_acc", "max", write=lambda line: None)
    for value in (0.5, 0.4):
        vlog.log_epoch({"val_acc": value})
    assert vlog.best_epoch == 1


def test_a_notebook_gets_the_same_picture_and_knows_how_long_a_pass_is(monkeypatch):
    views = []
    monkeypatch.setattr("torchkeras.vlog.detect", lambda: "notebook")
    monkeypatch.setattr("torchkeras.display.notebook.in_place", lambda: views.append)
    monkeypatch.setattr("torchkeras.display.notebook.REDRAW_EVERY", 0.0)
    monkeypatch.setattr("torchkeras.display.notebook.IDLE", 0)
    monkeypatch.setattr("torchkeras.display.samples.EVERY", 0.0)
    vlog = VLog(3)
    logged(vlog)
    assert isinstance(vlog.shown, NotebookProgress)
    assert "✓ done" in views[-1]["text/html"]
    assert any("epoch 2/3 · train step 3/4" in view["text/html"] for view in views)
    assert any("epoch 2/3 · val step 1/2" in view["text/html"] for view in views)


def test_an_error_in_a_with_block_is_told_and_goes_on_its_way(monkeypatch):
    views = []
    monkeypatch.setattr("torchkeras.vlog.detect", lambda: "notebook")
    monkeypatch.setattr("torchkeras.display.notebook.in_place", lambda: views.append)

    def loop():
        with VLog(2) as vlog:
            vlog.log_epoch({"val_loss": 1.0})
            vlog.log_step({"train_loss": 1.0})
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        loop()
    assert "✗ failed" in views[-1]["text/html"]
    assert "boom" in views[-1]["text/html"]


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: VLog(0), ValueError, "epochs: received 0"), (lambda: VLog("3"), TypeError, "epochs: received '3'"),
    (lambda: VLog(3, monitor_mode="mni"), ValueError, "Did you mean 'min'"),
    (lambda: VLog(1, write=print).log_epoch({"val_los": 1.0}), ValueError, "Did you mean 'val_los'"),
    (lambda: VLog(1, write=print).log_epoch({"val_loss": "low"}), TypeError, r"info\['val_loss'\]: received 'low'")])
def test_what_cannot_be_is_refused(call, error, words, capsys):
    with pytest.raises(error, match=words):
        call()
