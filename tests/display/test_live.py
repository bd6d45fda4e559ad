"""A real run, seen in a log, in a terminal and in pictures."""

import functools
import io
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from torchkeras import KerasModel
from torchkeras.core.screen import detect
from torchkeras.display import plot
from torchkeras.display.live import LiveProgress
from torchkeras.engine.history import History

GOLDEN = Path(__file__).parents[1] / "golden"
HISTORY = {"epoch": [1, 2, 3], "train_loss": [0.7, 0.5, 0.3], "val_loss": [0.6, 0.5, 0.55], "lr": [0.1] * 3}


def fit(listener, **options):
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    model = KerasModel(nn.Linear(3, 1), "mse", {"mae": "mae"}, "sgd")
    options = {"epochs": 3, "ckpt_path": None, "quiet": True, "val_data": (x, x[:, :1])} | options
    model.fit((x, x[:, :1]), callbacks=[listener], **options)
    return model


def test_a_log_gets_one_line_an_epoch_and_no_control_codes():
    lines = []
    model = fit(LiveProgress(write=lines.append))
    assert not any(re.search(r"[\r\x1b]", line) for line in lines)
    rows = [line for line in lines if "epoch=" in line]
    assert len(rows) == 3
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d epoch=1/3 train_loss=\S+ train_mae=\S+ lr=\S+ val_loss=", rows[0])
    assert lines[0] == "<<<<<< 🐌 cpu is used >>>>>>"
    assert f"<<<<<< reach best val_loss : {model.run.monitor.best:.6g} >>>>>>" in lines
    assert lines[-1].startswith("best val_loss ")


def test_a_log_hears_a_heartbeat_each_minute():
    seconds = iter(range(0, 10_000, 25))
    lines = []
    fit(LiveProgress(write=lines.append, clock=lambda: float(next(seconds))), batch_size=2)
    beats = [line for line in lines if re.search(r" epoch=1/3 stage=\w+ step=\d+/20 ", line)]
    assert not any("━" in line for line in lines)
    assert 5 <= len(beats) <= 20  # 40 steps of 25 seconds, one line a minute or so


def test_why_a_run_ended_early_is_said():
    lines = []

    class Stop:
        def on_validation_epoch_end(self, model):
            model.run.stop("enough")

    listener = LiveProgress(write=lines.append)
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    KerasModel(nn.Linear(3, 1), "mse").fit((x, x[:, :1]), epochs=3, ckpt_path=None, quiet=True,
                                           callbacks=[Stop(), listener])
    assert "<<<<<< enough >>>>>>" in lines


def test_a_step_costs_a_look_at_the_clock():
    looks = []

    def clock():
        looks.append(1)
        return 0.0

    listener = LiveProgress(write=lambda line: None, clock=clock)
    model = fit(listener)
    before = len(looks)
    for _ in range(100):
        listener.on_step_end(model)
    assert len(looks) - before == 100
    assert model.run.current_metrics() is not None


@pytest.mark.parametrize("history", [HISTORY, {"epoch": [1, 2], "train_loss": [0.5, 0.4]},
                                     HISTORY | {"val_loss": [float("nan"), 0.5, float("nan")]}])
def test_curves_are_drawn_with_and_without_validation_and_around_nan(history):
    drawn = plot.curves(history, "loss", 60, 12, colour=False, best_epoch=2)
    assert "loss" in drawn
    assert "\x1b" not in drawn
    assert max(map(len, drawn.splitlines())) <= 60
    assert "\x1b" in plot.curves(history, "loss", 60, 12, colour=True, best_epoch=2)


@pytest.mark.parametrize("values", [[], [0.5], [float("nan"), float("nan")]])
def test_nothing_is_drawn_of_fewer_than_two_points(values):
    history = {"epoch": list(range(1, len(values) + 1)), "train_loss": values}
    assert plot.curves(history, "loss", 60) == ""


def test_nothing_is_drawn_of_a_run_that_ended_in_its_first_epoch():
    assert plot.curves(History(), "loss", 60) == ""


def test_curves_of_many_epochs_are_drawn_of_a_few_of_their_points(monkeypatch):
    import plotext

    drawn, signal = [], plotext.figure.signal
    monkeypatch.setattr(plotext.figure, "signal", lambda epochs, values, **options: (
        drawn.append(epochs), signal(epochs, values, **options))[1])
    epochs = list(range(1, 20_001))
    history = {"epoch": epochs, "val_loss": [1 / epoch for epoch in epochs]}
    assert "best: epoch 777" in plot.curves(history, "loss", 60, 12, best_epoch=777, colour=False)
    line, star = drawn
    assert (line[0], line[-1], star) == (1, 20_000, [777])
    assert 777 in line
    assert len(line) < 810


def test_a_picture_of_the_curves_touches_no_figure_of_yours(tmp_path):
    import matplotlib.pyplot as pyplot

    mine = pyplot.figure()
    plot.save_curves(HISTORY, tmp_path / "new" / "curves.png", best_epoch=2)
    assert pyplot.get_fignums() == [mine.number]
    assert (tmp_path / "new" / "curves.png").read_bytes().startswith(b"\x89PNG")
    axes = plot.figure(HISTORY, best_epoch=2).axes
    assert [line.get_label() for line in axes[0].lines] == ["train_loss", "val_loss", "best epoch: 2"]
    pyplot.close(mine)


def test_a_stream_that_is_no_terminal_gets_plain_lines(monkeypatch):
    class Stream:
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    assert detect(Stream()) == "terminal"
    with open(os.devnull) as log:
        assert detect(log) == "plain"
    monkeypatch.setenv("TERM", "dumb")
    assert detect(Stream()) == "plain"


def test_a_log_in_another_encoding_does_not_end_the_run(monkeypatch):
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding="gbk") as log:
        monkeypatch.setattr(sys, "stdout", log)
        with pytest.raises(UnicodeEncodeError):
            print("🐌")
        model = fit(LiveProgress())
        written = raw.getvalue().decode("gbk")
    assert written.startswith("<<<<<< * cpu is used >>>>>>")
    assert len(model.history["epoch"]) == 3


def test_an_error_leaves_the_live_line_as_it_was():
    received = in_terminal(80, SCRIPT.replace("time.sleep(0.01)", """
        time.sleep(0.03)
        if model.run.step == 20: raise RuntimeError("boom")"""), expected=1)
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", received)
    assert re.search(r"epoch 1/2 ━+─+ \d+%  [^\r]*\r\nTraceback", shown)
    assert received.count("\x1b[?25l") == received.count("\x1b[?25h") > 0


SCRIPT = """
import time, torch
from torch import nn
from torchkeras import KerasModel

class Slow:
    def on_step_end(self, model): time.sleep(0.01)
    def on_train_epoch_end(self, model): print("printed in between")

torch.manual_seed(0)
x = torch.randn(300, 3)
KerasModel(nn.Linear(3, 1), "mse", {"mae": "mae"}).fit((x, x[:, :1]), (x, x[:, :1]), epochs=2, batch_size=10,
                                                       ckpt_path=None, callbacks=[Slow()])
"""


@functools.cache
def in_terminal(columns: int, script: str = SCRIPT, expected: int = 0, **environment: str) -> str:
    """What a real terminal of that width receives."""
    main, side = pty.openpty()
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40"} | environment
    with subprocess.Popen([sys.executable, "-c", script], stdout=side, stderr=side, env=env) as process:
        os.close(side)
        received, end = b"", time.monotonic() + 60
        while time.monotonic() < end:
            if select.select([main], [], [], 0.2)[0]:
                try:
                    received += os.read(main, 65536)
                except OSError:  # Linux says so when the other side is closed
                    break
            elif process.poll() is not None:
                break
    os.close(main)
    assert process.returncode == expected, received.decode()
    return received.decode()


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_a_terminal_gets_a_live_line_a_table_and_curves(columns):
    received = in_terminal(columns)
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", received).replace("\r", "\n")
    assert re.search(r"epoch 1/2 ━+─+ \d+%  left 0:0\d  loss \d", plain)
    assert re.search(r"^ +epoch +train_loss +train_mae", plain, re.MULTILINE)
    assert re.search(r"^ +2 .* ★", plain, re.MULTILINE)
    assert plain.count("printed in between") == 2
    assert "··· train" in plain
    assert received.rstrip().endswith("in all")
    assert received.count("\x1b[?25l") == received.count("\x1b[?25h") > 0  # the cursor comes back
    assert all(len(line) <= columns for line in plain.splitlines())


def test_a_redirected_log_is_the_one_on_file(tmp_path):
    with (tmp_path / "log").open("w", encoding="utf-8") as log:
        subprocess.run([sys.executable, "-c", SCRIPT], stdout=log, stderr=log, check=True,
                       env=os.environ | {"PYTHONIOENCODING": "utf-8", "TERM": "xterm-256color", "FORCE_COLOR": "1"})
    raw = (tmp_path / "log").read_bytes()
    assert not re.search(rb"[\r\x1b\x08]", raw)
    told = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "<time>", raw.decode())
    told = re.sub(r"seconds=\S+", "seconds=<s>", re.sub(r"\d+:\d\d in all", "<s> in all", told))
    assert told == (GOLDEN / "log.txt").read_text(encoding="utf-8")


def test_no_color_is_respected():
    colours = re.compile(r"\x1b\[[0-9;]*[39][0-7]")
    assert not colours.search(in_terminal(160, NO_COLOR="1"))
    assert colours.search(in_terminal(160))
