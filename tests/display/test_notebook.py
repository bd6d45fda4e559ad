"""A real run, seen in a notebook: what is shown, how often, and how it ends."""

import itertools
import re
import time

import pytest
import torch
from torch import nn

from torchkeras import KerasModel
from torchkeras.core.screen import detect
from torchkeras.display.notebook import NotebookProgress
from torchkeras.display.progress import Progress
from torchkeras.display.samples import MOST, Samples
from torchkeras.engine.history import History
from torchkeras.training.run_view import whole

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))


def model():
    torch.manual_seed(0)
    return KerasModel(nn.Linear(3, 1), "mse", {"mae": "mae"}, "sgd")


def fit(listener, *others, made=None, **options):
    made = made or model()
    options = {"val_data": (X, X[:, :1]), "epochs": 3, "batch_size": 6, "ckpt_path": None, "quiet": True} | options
    made.fit((X, X[:, :1]), callbacks=[*others, listener], **options)
    return made


def shown_by(*others, plot=True, **options):
    views = []
    made = fit(NotebookProgress(plot, show=views.append), *others, **options)
    return views, made


def seconds(step):
    ticks = itertools.count()
    return lambda: step * next(ticks)


def test_the_last_view_holds_the_whole_run_as_the_history_does():
    views, made = shown_by()
    html = views[-1]["text/html"]
    assert "✓ done" in html
    assert "running" not in html
    for column in made.history.values():
        assert f"{column[-1]:.4f}" in html or f">{column[-1]:g}<" in html
    assert html.count("<svg") == 2
    assert f"best val_loss {made.run.monitor.best:.4f}" in html
    assert views[-1]["text/plain"].splitlines()[0].split()[:2] == ["epoch", "train_loss"]
    assert views[-1]["text/plain"].count("★") == 1


def test_without_plot_there_is_a_table_and_no_curve():
    views, _ = shown_by(plot=False)
    assert "<svg" not in views[-1]["text/html"]
    assert "<table" in views[-1]["text/html"]


class Time:
    """A clock that moves when a batch is done, and when a view is drawn."""

    def __init__(self, step, view=0.0):
        self.now, self.step, self.view, self.drawn = 0.0, step, view, []

    def __call__(self):
        return self.now

    def on_step_end(self, model):
        self.now += self.step

    def show(self, bundle):
        self.drawn.append(self.now)
        self.now += self.view


def test_views_are_a_quarter_of_a_second_apart_however_fast_the_steps():
    clock = Time(step=0.01)
    fit(NotebookProgress(show=clock.show, clock=clock), clock, epochs=40)
    between = [two - one for one, two in itertools.pairwise(clock.drawn[:-1])]  # the last view does not wait
    assert len(between) > 20
    assert 0.2499 <= min(between) <= max(between) < 0.28


def test_drawing_takes_half_a_percent_of_the_time_however_slow_it_is():
    clock = Time(step=0.01, view=0.005)
    fit(NotebookProgress(show=clock.show, clock=clock), clock, epochs=40)
    between = [two - one for one, two in itertools.pairwise(clock.drawn[1:-1])]
    assert between
    assert min(between) >= 1.0


@pytest.mark.parametrize(("view", "least", "most"), [(0.015, 2.0, 2.1), (0.1, 10.0, 10.5)])
def test_a_slow_view_waits_two_seconds_or_a_hundred_times_as_long_as_it_took(view, least, most):
    clock = Time(step=0.05, view=view)
    fit(NotebookProgress(show=clock.show, clock=clock), clock, epochs=40)
    between = [two - one - view for one, two in itertools.pairwise(clock.drawn[1:-1])]
    assert between
    assert least - 1e-9 <= min(between) <= max(between) < most


def long_run(epochs, best_epoch):
    """A run as it is in mid-epoch after so many."""
    from types import SimpleNamespace

    history = History(epoch=list(range(1, epochs + 1)))
    names = ("train_loss", "val_loss", "lr")
    history |= {name: [1 / epoch for epoch in history["epoch"]] for name in names}
    return SimpleNamespace(
        history=history, epoch=epochs + 1, stage="train", step=1, steps=10, global_step=1, notes=[],
        device="cpu", interrupted=False, stop_reason=None, current_metrics=lambda: {"train_loss": 1.0}, logs={},
        config=SimpleNamespace(epochs=2 * epochs, initial_epoch=0),
        monitor=SimpleNamespace(name="val_loss", best=0.1, best_epoch=best_epoch))


def views_of(run):
    from types import SimpleNamespace

    views = []
    listener, made = NotebookProgress(show=views.append), SimpleNamespace(run=run)
    listener.on_fit_start(made)
    listener.draw(run, 0.0)
    listener.on_fit_end(made)
    return views


def test_what_a_notebook_keeps_is_as_long_after_many_epochs_as_after_some():
    some, many = (views_of(long_run(epochs, 700))[-1] for epochs in (2_000, 100_000))
    assert {kind: len(text) // 3000 for kind, text in some.items()}["text/plain"] == 0
    assert len(many["text/plain"]) < 1.1 * len(some["text/plain"])
    assert len(many["text/html"]) < 1.3 * len(some["text/html"]) < 50_000


def test_the_text_of_a_long_run_has_its_first_best_and_last_rows_and_says_how_many_are_left_out():
    lines = views_of(long_run(100_000, 700))[-1]["text/plain"].splitlines()
    assert [line.split()[0] for line in lines[1:6]] == ["1", "...", "700", "...", "99983"]
    assert lines[2].split()[1:-1] == ["698", "epochs", "left", "out"]
    assert lines[4].split()[1:-1] == ["99,282", "epochs", "left", "out"]
    assert "★" in lines[3]
    assert lines[-2].split()[0] == "100000"
    short = views_of(long_run(20, 7))[-1]["text/plain"].splitlines()
    assert [line.split()[0] for line in short[1:-1]] == [str(epoch) for epoch in range(1, 21)]


class Once(list):
    """A column of which nobody reads more than a few numbers at a time."""

    def __init__(self, numbers):
        super().__init__(numbers)
        self.read = 0

    def __getitem__(self, place):
        self.read += len(range(len(self))[place]) if isinstance(place, slice) else 1
        return super().__getitem__(place)

    def __iter__(self):
        self.read += len(self)
        return super().__iter__()


def test_a_view_reads_each_row_once_however_many_there_are():
    run = long_run(3_000, 700)
    run.history = History({name: Once(column) for name, column in run.history.items()})
    views_of(run)  # three views
    read = [column.read for name, column in run.history.items() if name != "epoch"]
    assert all(3_000 <= one < 2 * 3_000 for one in read)


def test_a_running_view_has_the_epoch_so_far_and_the_batches():
    views, _ = shown_by(type("Slow", (), {"on_step_end": lambda self, model: time.sleep(0.006)})(), epochs=4)
    running = [view["text/html"] for view in views if "▶ running" in view["text/html"]]
    assert any("font-style:italic" in view for view in running)
    assert re.search(r'stroke-width="0.8"', views[-1]["text/html"])
    assert re.search(r"epoch \d/4 · (train|val) step \d+/10 · 0:0\d so far · 0:0\d left", "".join(running))


class At:
    """Does something at a step."""

    def __init__(self, step, what):
        self.step, self.what = step, what

    def on_step_end(self, model):
        if model.run.epoch == 2 and model.run.step == self.step and model.run.stage == "train":
            self.what(model)


def boom(model):
    raise RuntimeError("boom <loudly>")


def test_a_failed_run_leaves_its_last_view_and_says_what_came():
    views = []
    with pytest.raises(RuntimeError, match="boom"):
        fit(NotebookProgress(show=views.append), At(4, boom))
    html = views[-1]["text/html"]
    assert "✗ failed" in html
    assert "RuntimeError: boom &lt;loudly&gt;" in html
    assert "train step 4/10" in html
    assert html.count("<tr") >= 2
    assert "left" not in re.sub(r"<style>.*</style>", "", html, flags=re.DOTALL).replace("text-align:left", "")


def test_the_numbers_of_a_failed_epoch_are_its_own_or_none():
    told = []

    def fail(model):
        told.append(model.run.current_metrics()["train_loss"])
        if len(told) == 2:
            whole(model.run).running_metrics = unreadable
        raise RuntimeError("boom")

    def unreadable():
        raise RuntimeError("the device is gone")

    for _ in range(2):
        views = []
        with pytest.raises(RuntimeError, match="boom"):
            fit(NotebookProgress(show=views.append), At(4, fail))
        running = re.findall("font-style:italic.*?</tr>", views[-1]["text/html"])
        assert len(running) == 2 - len(told)
        assert all(f"{told[0]:.4f}" in row for row in running)


def test_a_second_ctrl_c_leaves_a_view_that_says_interrupted():
    def press(model):
        raise KeyboardInterrupt

    views = []
    with pytest.raises(KeyboardInterrupt):
        fit(NotebookProgress(show=views.append), At(4, press))
    assert "■ interrupted" in views[-1]["text/html"]
    assert "failed" not in views[-1]["text/html"]


def test_a_first_ctrl_c_and_an_early_stop_are_told_apart():
    import os
    import signal

    views, made = shown_by(At(4, lambda model: os.kill(os.getpid(), signal.SIGINT)))
    assert "■ interrupted" in views[-1]["text/html"]
    assert made.history["epoch"] == [1]
    views, _ = shown_by(At(4, lambda model: model.run.stop("enough")))
    assert "■ stopped" in views[-1]["text/html"]
    assert "enough" in views[-1]["text/html"]


def test_data_without_a_length_and_without_validation_is_shown_too():
    batches = [(X[:6], X[:6, :1])] * 5
    views = []
    model().fit(iter(batches * 3), epochs=3, steps_per_epoch=5, ckpt_path=None, quiet=True,
                callbacks=[NotebookProgress(show=views.append, clock=seconds(0.1))])
    assert "epoch 3/3" in views[-1]["text/html"]

    class Endless:
        def __iter__(self):
            return iter(batches)

    views = []
    model().fit(Endless(), epochs=2, ckpt_path=None, quiet=True,
                callbacks=[NotebookProgress(show=views.append, clock=seconds(0.1))])
    assert "epoch 2/2" in views[-1]["text/html"]
    assert any("left" not in view["text/html"].split("</style>")[1] for view in views)


def test_samples_stay_few_and_keep_their_places():
    class Run:
        stage, epoch, steps, step = "train", 1, 10_000, 0

    run, samples = Run(), Samples()
    for run.step in range(1, 10_001):
        run.logs = {"train_loss": torch.tensor(float(run.step)) if run.step % 2 else float(run.step)}
        samples.take(run)
    found = samples.read()
    assert MOST <= len(found) <= 2 * MOST
    assert all(abs(place * 10_000 - loss) < 1e-3 * 10_000 for place, loss in found)
    assert samples.every > 0.01
    run.stage = "val"
    samples.take(run)
    assert samples.unread == []


def test_the_display_is_chosen_when_the_run_begins_and_only_one_is_there(capsys):
    listener = Progress()
    model().fit((X, X[:, :1]), epochs=1, ckpt_path=None, callbacks=[listener])
    lines = capsys.readouterr().out.splitlines()
    assert sum("epoch=1/1" in line for line in lines) == 1
    assert detect() == "plain"


NOTEBOOK = """
import os, signal, torch
from torch import nn
from torchkeras import KerasModel

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))

class At:
    def __init__(self, what): self.what = what
    def on_step_end(self, model):
        if model.run.epoch == 2 and model.run.step == 4: self.what(model)

def fit(*callbacks, **options):
    options = dict(epochs=3, batch_size=6, ckpt_path=None) | options
    KerasModel(nn.Linear(3, 1), "mse", {"mae": "mae"}, "sgd").fit((X, X[:, :1]), (X, X[:, :1]), callbacks=callbacks,
                                                                  **options)

def boom(model): raise RuntimeError("boom")
""", "fit()", "fit(At(lambda model: model.run.stop('enough')))", "fit(At(boom))", "fit(); fit(plot=False)", (
    "fit(At(lambda model: os.kill(os.getpid(), signal.SIGINT)))"), (
    "import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()) as log: fit()\nprint(log.getvalue())")


def test_a_real_notebook_keeps_the_last_view_of_each_run(tmp_path):
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install nbclient")
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat: pip install nbformat")
    pytest.importorskip("ipykernel", reason="needs ipykernel: pip install ipykernel")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in NOTEBOOK])
    nbclient.NotebookClient(book, timeout=60, allow_errors=True, kernel_name="python3",
                            resources={"metadata": {"path": str(tmp_path)}}).execute()
    views = [[output["data"]["text/html"] for output in cell.outputs if "text/html" in output.get("data", {})]
             for cell in book.cells]
    assert [len(one) for one in views] == [0, 1, 1, 1, 2, 1, 0]
    assert ["done" in views[1][0], "enough" in views[2][0], "RuntimeError: boom" in views[3][0],
            "■ interrupted" in views[5][0]] == [True] * 4
    assert ["<svg" in one for one in views[4]] == [True, False]
    assert [output.ename for output in book.cells[3].outputs if output.output_type == "error"] == ["RuntimeError"]
    assert "epoch=3/3" in book.cells[6].outputs[0]["text"]
    assert not any("running" in one for cell in views for one in cell)
    assert list(tmp_path.iterdir()) == []
