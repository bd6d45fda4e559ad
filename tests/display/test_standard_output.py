"""Standard output that takes little or nothing ends no run."""

import errno
import io
import re
import sys

import pytest
import torch
from rich.console import Console
from torch import nn

import torchkeras
from torchkeras import KerasModel, printlog, summary
from torchkeras.core.screen import Terminal
from torchkeras.core.text import encodable
from torchkeras.display.live import LiveProgress

X = torch.zeros(16, 2)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.层 = nn.Linear(2, 1)

    def forward(self, x):
        return self.层(x)


Net.__name__ = "网络"


def fit(**options):
    model = KerasModel(Net(), "mse", {"误差🐌": "mae"})
    model.fit((X, X[:, :1]), (X, X[:, :1]), epochs=2, ckpt_path=None, quiet=False, **options)
    return model.history["epoch"]


SPEAKERS = {
    "fit": fit, "fit with lines": lambda: fit(callbacks=[LiveProgress()]),
    "summary": lambda: summary(Net(), input_shape=(2,)),
    "flop_summary": lambda: torchkeras.flop_summary(Net(), input_shape=(2,)),
    "printlog": lambda: printlog("第一轮 \udcff 🐌"),
    "Model.fit": lambda: compiled(1), "Model.fit, verbose=2": lambda: compiled(2),
    "VLog": lambda: logged(),
}


def compiled(verbose):
    model = torchkeras.Model(Net())
    model.compile(loss="mse", metrics={"误差": "mae"})
    model.fit((X, X[:, :1]), epochs=1, verbose=verbose)


def logged():
    with torchkeras.VLog(epochs=1, monitor_metric="损失") as vlog:
        vlog.log_step({"train_loss": 1.0})
        vlog.log_epoch({"损失": 1.0})


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "cp1252", "latin-1", "utf-16"])
@pytest.mark.parametrize("name", SPEAKERS)
def test_what_a_stream_cannot_spell_ends_nothing(name, encoding, monkeypatch):
    raw = io.BytesIO()
    with io.TextIOWrapper(raw, encoding=encoding) as log:
        monkeypatch.setattr(sys, "stdout", log)
        SPEAKERS[name]()
        log.flush()
        assert len(raw.getvalue().decode(encoding)) > 20


class Broken(io.TextIOBase):
    encoding = "utf-8"

    def __init__(self, error):
        self.error = error

    def write(self, text):
        raise self.error


ERRORS = [OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError(errno.EPIPE, "Broken pipe"),
          OSError(errno.EIO, "Input/output error"), ValueError("I/O operation on closed file.")]


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_a_log_that_takes_nothing_more_ends_no_run_and_is_told(error, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Broken(error))
    with pytest.warns(UserWarning, match=f"standard output.*{re.escape(str(error))}"):
        assert fit(callbacks=[LiveProgress()]) == [1, 2]


def test_a_terminal_that_is_gone_ends_no_run():
    screen = Terminal()
    screen.console = Console(file=Broken(ERRORS[2]), force_terminal=True)
    for say in (screen.line, screen.redraw):
        with pytest.warns(UserWarning, match="standard output"):
            say("text")
    screen.view = None


def test_a_stream_whose_encoding_nobody_knows_gets_plain_letters():
    assert encodable("★ é", "of my own") == "* ?"


def test_no_standard_output_at_all_ends_no_run(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert fit() == [1, 2]
