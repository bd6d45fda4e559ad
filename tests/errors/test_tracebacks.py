"""A mistake is shown where the call is: few lines, the caller's own frames, and the whole of it within reach."""

import gc
import inspect
import os
import pickle
import subprocess
import sys
import textwrap
import traceback
import weakref
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

from torchkeras import KerasModel, Model, VLog, load_weights, train_model
from torchkeras.core import tracebacks

ROOT = Path(__file__).parents[2]
X, Y = torch.randn(32, 4), torch.arange(32) % 3
QUIET = {"epochs": 1, "ckpt_path": None, "quiet": True, "batch_size": 16}
LINES = 12  # of a traceback in a script

START = """
import numpy as np
import torch
from torch import nn
from torchkeras import KerasModel, Model, load_weights, train_model
X, Y = torch.randn(32, 4), torch.arange(32) % 3
model = KerasModel(nn.Linear(4, 3), "cross_entropy", ["accuracy"])
o = dict(epochs=1, ckpt_path=None, quiet=True, batch_size=16)
"""
MISTAKES = {  # a line, and what its last line says
    "a word of Keras": ("model.fit((X, Y), validation_data=(X, Y))", "Did you mean 'val_data'?"),
    "x and y apart": ("model.fit(X, Y, **o)", "one tuple"),
    "a wrong kind": ("model.fit((X, Y), epochs='3')", "epochs: received '3'"),
    "labels that do not fit": ("model.fit((X, Y.float()), **o)", "labels.long()"),
    "a monitor": ("model.fit((X, Y), monitor='val_acc', **o)", "Pass val_data"),
    "a part that is a class": ("KerasModel(nn.Linear, 'mse')", "the class Linear"),
    "a loss that is misspelt": ("KerasModel(nn.Linear(4, 3), 'cross_entropi')", "Did you mean"),
    "a file that is missing": ("model.load_ckpt('nowhere.pt')", "nowhere.pt"),
    "another net's weights": ("load_weights(nn.Linear(4, 3), {'a': X})", "weights of another net"),
    "a reading that is none": ("model.predict(X, output='class')", "Did you mean 'classes'?"),
    "a callback that is misspelt": (
        "model.fit((X, Y), callbacks=[type('A', (), {'on_epoch_end': print})()], **o)", "on_validation_epoch_end"),
    "a face over a face": ("train_model(nn.Linear(4, 3), 'adam', 'mse', None, (X, Y), monitor=3)", "monitor"),
    "Keras's face": ("Model(nn.Linear(4, 3)).fit(X, Y)", "compile"),
    "a report without a fit": ("model.report('a.html')", "fit"),
}


def script(folder, line, **variables):
    (folder / "script.py").write_text(START + line + "\n")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}", "OMP_NUM_THREADS": "1", **variables}
    return subprocess.run([sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, env=environment)


def shown(line):
    """What Python prints of a mistake in a module of its own, as it would for a script."""
    space = {}
    code = compile(START + line + "\n", "script.py", "exec")
    try:
        exec(code, space)
    except Exception as error:
        error.__traceback__ = error.__traceback__.tb_next  # this function's
        return "".join(traceback.format_exception(error)).splitlines()
    raise AssertionError("no mistake")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_shown_in_a_few_lines(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line, text = MISTAKES[name]
    lines = shown(line)
    assert len([one for one in lines if one.lstrip().startswith("File ")]) == 1, lines  # the call, and nothing below
    assert text in "\n".join(lines)
    assert all("torchkeras/" not in one for one in lines if one.lstrip().startswith("File "))


def test_a_script_prints_few_lines_and_all_of_them_when_asked(tmp_path):
    line = "model.fit((X, Y.float()), **o)"
    short, full = script(tmp_path, line), script(tmp_path, line, TORCHKERAS_FULL_TRACEBACK="1")
    assert len(short.stderr.splitlines()) <= LINES, short.stderr
    assert short.stderr.splitlines()[-1] == full.stderr.splitlines()[-1]
    assert "labels.long()" in short.stderr
    assert len(full.stderr.splitlines()) > 25  # control
    assert "checks/label_checks.py" in full.stderr


def test_a_notebook_shows_less_than_a_screen(tmp_path):
    client = pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient")
    cells = [START + "model.fit((X, Y.float()), **o)", START + "model.fit((X[:, :3], Y), **o)"]
    for cell in cells:
        book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
        client.NotebookClient(book, timeout=100, kernel_name="python3", allow_errors=True,
                              resources={"metadata": {"path": str(tmp_path)}}).execute(
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}"})
        (error,) = [one for one in book.cells[0].outputs if one.output_type == "error"]
        assert len("\n".join(error.traceback).splitlines()) <= 25, error.traceback


def test_the_users_own_frames_in_between_stay():
    class Calls:
        def on_step_end(self, model):
            self.inner(model)

        def inner(self, model):
            KerasModel(nn.Linear(4, 3), "mse").predict(X, output="class")

    with pytest.raises(ValueError, match="classes") as found:
        KerasModel(nn.Linear(4, 3), "cross_entropy").fit((X, Y), callbacks=[Calls()], **QUIET)
    names = [one.name for one in traceback.extract_tb(found.value.__traceback__)]
    assert names == ["test_the_users_own_frames_in_between_stay", "on_step_end", "inner"]
    whole = str(found.value.full_traceback)
    assert whole.count("in on_step_end") == 1
    for place in ("engine/epoch.py", "outputs.py", "in inner", "kerasmodel.py"):
        assert place in whole


def test_an_error_of_the_users_own_is_not_touched():
    class Fails:
        def on_step_end(self, model):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine") as found:
        KerasModel(nn.Linear(4, 3), "cross_entropy").fit((X, Y), callbacks=[Fails()], **QUIET)
    assert any("engine/loop.py" in one.filename for one in traceback.extract_tb(found.value.__traceback__))
    assert not hasattr(found.value, "full_traceback")


def test_causes_and_contexts_stay_whole():
    with pytest.raises(ValueError, match="lengths") as found:
        KerasModel(nn.Linear(4, 3), "mse").fit(([[1.0, 2.0], [3.0]], [1.0, 2.0]), **QUIET)
    cause = found.value.__cause__
    assert isinstance(cause, ValueError)
    assert any("data/arrays.py" in one.filename for one in traceback.extract_tb(cause.__traceback__))


def test_a_debugger_that_is_tracing_sees_everything():
    before = sys.gettrace()
    sys.settrace(lambda *args: None)
    try:
        with pytest.raises(TypeError) as found:
            KerasModel(nn.Linear(4, 3), "cross_entropy").fit((X, Y), epochs="3")
    finally:
        sys.settrace(before)
    assert any("engine/config.py" in one.filename for one in traceback.extract_tb(found.value.__traceback__))


def test_a_stream_that_fails_midway_ends_in_a_short_traceback_too():
    model = KerasModel(nn.Linear(4, 3), "cross_entropy")
    stream = model.predict([(X,), (X[:, :3],)], stream=True)
    assert next(stream).shape == (32, 3)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied") as found:
        next(stream)
    assert [one.name for one in traceback.extract_tb(found.value.__traceback__)] == [
        "test_a_stream_that_fails_midway_ends_in_a_short_traceback_too"]


def test_an_error_with_its_full_traceback_can_be_sent_to_another_process():
    with pytest.raises(TypeError) as found:
        KerasModel(nn.Linear(4, 3), "cross_entropy").fit((X, Y), epochs="3")
    again = pickle.loads(pickle.dumps(found.value))
    assert "engine/config.py" in again.full_traceback
    assert str(again) == str(found.value)
    assert found.value.full_traceback.tb is not None


def test_in_another_process_a_mistake_stays_short_too(tmp_path):
    found = script(tmp_path, "model.fit_ddp(2, (X, Y.float()), cpu=True, **o)")
    assert len(found.stderr.splitlines()) <= LINES + 1, found.stderr
    assert "labels.long()" in found.stderr


@pytest.mark.parametrize("function", [
    KerasModel.fit, KerasModel.fit_ddp, KerasModel.evaluate, KerasModel.predict, KerasModel.__init__, Model.fit,
    Model.compile, VLog.log_epoch, load_weights, train_model])
def test_signatures_and_names_are_as_they_were_written(function):
    assert inspect.signature(function) == inspect.signature(function.__wrapped__)
    assert function.__name__ == function.__wrapped__.__name__
    assert function.__module__ == function.__wrapped__.__module__


def test_no_global_hook_is_set():
    before = sys.excepthook
    with pytest.raises(TypeError):
        KerasModel(nn.Linear, "mse")
    assert sys.excepthook is before


@pytest.mark.parametrize(("file", "hidden"), [
    (tracebacks.__file__, True), (torch.__file__, True), (os.__file__, True), ("<frozen importlib>", True),
    ("/home/me/train.py", False), ("/lib/python3.11/site-packages/company/nets.py", False),
    ("/lib/python3.11/site-packages/torch/nn/modules/linear.py", True), ("<stdin>", False),
    ("/tmp/ipykernel_12/123.py", False), ("/home/me/torch/net.py", False)])
def test_what_lies_between_is_known_by_its_place(file, hidden):
    assert tracebacks.is_internal_file(file) is hidden


def test_the_whole_script_of_each_mistake_is_as_short(tmp_path):
    """All at once in one process, since starting one takes seconds."""
    code = "import traceback, sys\nfor line in %r:\n    try:\n        exec(compile(line, 'line.py', 'exec'))\n" \
           "    except Exception:\n        print(len(traceback.format_exc().splitlines()))\n" % [
               line for line, _ in MISTAKES.values()]
    found = script(tmp_path, textwrap.dedent(code))
    counts = [int(one) for one in found.stdout.split()]
    assert len(counts) == len(MISTAKES), found.stderr
    assert max(counts) <= LINES, counts


def test_an_error_that_is_raised_again_is_shortened_again():
    model, kept = KerasModel(nn.Linear(4, 3), "cross_entropy"), []
    with pytest.raises(TypeError) as found:
        model.fit((X, Y), epochs="3")
    kept.append(found.value.with_traceback(None))

    class Again:
        def on_fit_start(self, model):
            raise kept[0]

    with pytest.raises(TypeError) as found:
        model.fit((X, Y), callbacks=[Again()], **QUIET)
    assert [one.name for one in traceback.extract_tb(found.value.__traceback__)] == [
        "test_an_error_that_is_raised_again_is_shortened_again", "on_fit_start"]


def test_an_error_that_is_over_holds_nothing():
    class Net(nn.Module):
        def forward(self, x):
            held.append(weakref.ref(x))
            return torch.ones(2, 3) @ x

    held, found = [], ""
    gc.collect()
    gc.disable()
    try:
        model = KerasModel(Net(), "cross_entropy")
        try:
            model.evaluate((X, Y))
        except RuntimeError as error:
            found = error.__notes__[0]
        assert "the net, Net" in found
        assert held[0]() is None  # without the garbage collector
    finally:
        gc.enable()
