"""Logs of runs that are stopped and resumed hold the rows of the run without a break, in each real package."""

import csv
import json
import os
import signal
import struct
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from torchkeras import Callback, CheckpointCorruptError, KerasModel
from torchkeras.kerascallbacks import (
    CSVLogger,
    EpochCheckpoint,
    JSONLLogger,
    MLflowCallback,
    TensorBoardCallback,
    WandbCallback,
)

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
EPOCHS, BLOCK = 4, 32768
needs = {name: pytest.mark.skipif(find_spec(name) is None, reason=(
    f"{name} is not installed: pip install {package}")) for name, package in (
    ("tensorboard", "tensorboard"), ("mlflow", "torchkeras[mlflow]"), ("wandb", "wandb"))}


class Files:
    """CSV, JSONL, and the weights of the newest epochs."""

    def __init__(self, folder):
        self.folder = folder

    def callbacks(self):
        return [CSVLogger(self.folder / "a.csv"), JSONLLogger(self.folder / "a.jsonl"),
                EpochCheckpoint(self.folder / "weights", max_ckpt=2)]

    def rows(self):
        with (self.folder / "a.csv").open(encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        return table, (self.folder / "a.jsonl").read_text(), sorted(os.listdir(self.folder / "weights"))


class TensorBoard:
    def __init__(self, folder):
        self.folder = folder

    def callbacks(self):
        return [TensorBoardCallback(self.folder, "run")]

    def rows(self):
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(self.folder / "run"))
        events.Reload()
        return {name: [(one.step, one.value) for one in events.Scalars(name)] for name in events.Tags()["scalars"]}


class MLflow:
    def __init__(self, folder):
        import mlflow

        mlflow.set_tracking_uri((folder / "runs").as_uri())  # a file store: a database takes seconds to set up
        self.client = mlflow.MlflowClient()

    def callbacks(self):
        return [MLflowCallback("digits")]

    def rows(self):
        [run] = self.client.search_runs([self.client.get_experiment_by_name("digits").experiment_id])
        found = {name: [(one.step, one.value) for one in self.client.get_metric_history(run.info.run_id, name)]
                 for name in run.data.metrics}
        return found, run.info.status


class Wandb:
    def __init__(self, folder):
        self.folder = folder

    def callbacks(self):
        return [WandbCallback("p")]

    def rows(self):
        forget(type(self))  # which writes what it still has
        files = sorted(self.folder.glob("wandb/offline-run-*/*.wandb"))
        assert len({file.name for file in files}) == 1  # the same run, in all its parts
        return [row for file in files for row in logged_in(file)]


def logged_in(path):
    """The rows in a file of W&B: a log of LevelDB, of records that may lie in several blocks."""
    from wandb.proto import wandb_internal_pb2

    data, place, record, rows = path.read_bytes(), 7, b"", []
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK  # too little room for a header: padded
            continue
        length, kind = struct.unpack("<HB", data[place + 4: place + 7])
        record += data[place + 7: place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            items = wandb_internal_pb2.Record.FromString(record).history.item
            row = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in items}
            rows += [{name: value for name, value in row.items() if name[0] != "_"}] if row else []
            record = b""
    return rows


def forget(kind):
    """End the process that W&B keeps, which knows the folder it began in."""
    if kind is Wandb:
        import wandb

        wandb.teardown()


@pytest.fixture(params=[Files, pytest.param(TensorBoard, marks=needs["tensorboard"]),
                        pytest.param(MLflow, marks=needs["mlflow"]), pytest.param(Wandb, marks=needs["wandb"])])
def log(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_ID"):  # mlflow sets these itself, and leaves them
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)

    def make(name):
        forget(request.param)
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        return request.param(folder)

    yield make
    forget(request.param)


def fit(callbacks, path="best", epochs=EPOCHS, **options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    model = KerasModel(net, "mse", {"mae": "mae"}, torch.optim.Adam(net.parameters(), lr=0.01))
    data = DataLoader(TensorDataset(X, X[:, :1]), 8, shuffle=True)
    model.fit(data, data, epochs=epochs, ckpt_path=str(path), quiet=True, patience=None, callbacks=callbacks,
              validation_freq=2, **options)
    return model


class At(Callback):
    """Does something at a training step, or as an epoch is over, before its state is saved."""

    def __init__(self, act, trained=None, epoch=None):
        self.act, self.trained, self.epoch = act, trained, epoch

    def on_step_end(self, model):
        if model.run.stage == "train" and model.run.global_step == self.trained:
            self.act(model)

    def on_validation_epoch_end(self, model):
        if model.run.epoch == self.epoch:
            self.act(model)


def fail(model):
    raise RuntimeError("stopped by the test")


def stop(model):
    model.run.stop("by the test")


def send(number):
    return lambda model: os.kill(os.getpid(), number)


STOPS = {
    "in mid-epoch": [At(stop, trained=8)],
    "Ctrl-C": [At(send(signal.SIGINT), trained=12)],
    "SIGTERM": [At(send(signal.SIGTERM), trained=12)],
    "after an epoch": [At(stop, epoch=2)],
    "an error between the row and the state": [At(fail, epoch=2)],
    "an error between the first row and the state": [At(fail, epoch=1)],
    "three stops": [At(fail, trained=3), At(stop, trained=8), At(fail, epoch=3)],
    "none, and started again": [At(stop)],
}


def stopped_and_resumed(log, stops, **options):
    for one in stops:
        try:
            fit([*log.callbacks(), one], resume=True, save_every=2, **options)
        except (RuntimeError, SystemExit):
            continue
    return fit(log.callbacks(), resume=True, save_every=2, **options)


@pytest.mark.parametrize("stop", STOPS)
@pytest.mark.filterwarnings("ignore:.*filesystem tracking backend")
def test_a_resumed_run_leaves_the_log_of_the_run_without_a_break(log, stop):
    whole = log("whole")
    fit(whole.callbacks())
    expected = whole.rows()
    broken = log("broken")
    stopped_and_resumed(broken, STOPS[stop])
    assert broken.rows() == expected
    other = log("other")
    fit(other.callbacks(), epochs=EPOCHS - 1)
    assert other.rows() != expected


def rows_in(path):
    with path.open(encoding="utf-8", newline="") as file:
        return [row["epoch"] for row in csv.DictReader(file)]


def test_rows_of_earlier_runs_stay_where_a_resumed_run_appends(tmp_path):
    path = tmp_path / "a.csv"
    fit([CSVLogger(path)], tmp_path / "one", epochs=2)
    torn = path.read_text() + "1,0.2"  # as a write leaves it that was cut off
    path.write_text(torn)
    for stop in ([At(fail, epoch=2)], []):
        try:
            fit([CSVLogger(path, append=True), *stop], tmp_path / "two", resume=True, save_every=2)
        except RuntimeError:
            assert rows_in(path) == ["1", "2", "1", "2"]
    assert rows_in(path) == ["1", "2", "1", "2", "3", "4"]


def test_a_log_that_joins_a_run_later_gets_all_its_rows(tmp_path):
    fit([], tmp_path / "best", epochs=2, resume=True)
    fit([CSVLogger(tmp_path / "a.csv"), EpochCheckpoint(tmp_path / "w")], tmp_path / "best", resume=True)
    assert rows_in(tmp_path / "a.csv") == ["1", "2", "3", "4"]


class Hold(Callback):
    """Keeps a file from being written in some epochs, as another program can."""

    def __init__(self, path, epochs):
        self.path, self.epochs = path, epochs

    def on_epoch_start(self, model):
        if model.run.epoch in self.epochs:
            self.path.unlink(missing_ok=True) if not self.path.is_dir() else None
            self.path.mkdir(exist_ok=True)
        elif self.path.is_dir():
            self.path.rmdir()


@pytest.mark.parametrize(("held", "left"), [((1, 2), ["1", "2", "3", "4"]), ((2,), ["1", "2", "3", "4"])])
def test_a_file_that_cannot_be_written_for_a_while_loses_no_row_and_ends_no_run(held, left, tmp_path):
    path = tmp_path / "a.csv"
    with pytest.warns(UserWarning, match=f"the row of epoch {held[0]} could not be written to .*a.csv") as told:
        fit([Hold(path, held), CSVLogger(path)], tmp_path / "best")
    assert len(told) == 1
    assert rows_in(path) == left


def test_rows_that_could_not_be_written_at_all_are_told_of(tmp_path):
    path = tmp_path / "a.csv"
    with pytest.warns(UserWarning, match="could not be written") as told:
        model = fit([Hold(path, range(9)), CSVLogger(path)], tmp_path / "best")
    assert "4 rows could not be written" in str(told[1].message)
    assert model.history["epoch"] == [1, 2, 3, 4]


class Count(Callback):
    """A listener with a state."""

    def __init__(self):
        self.count = 0

    def on_validation_epoch_end(self, model):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_the_state_of_a_listener_is_found_when_others_have_come_or_gone(tmp_path):
    fit([Count()], tmp_path / "best", epochs=2, resume=True)
    later = Count()
    fit([CSVLogger(tmp_path / "a.csv"), later], tmp_path / "best", epochs=3, resume=True)
    assert later.count == 3
    last = Count()
    fit([last], tmp_path / "best", epochs=4, resume=True)
    assert last.count == 4


def test_a_state_of_somebody_elses_removes_no_file_that_no_run_wrote(tmp_path, monkeypatch):
    best, folder = tmp_path / "best.pt", tmp_path / "w"
    precious = [tmp_path / "thesis.txt", folder / "other.pt"]
    with monkeypatch.context() as forged:
        forged.setattr(EpochCheckpoint, "state_dict", lambda self: {"files": [str(precious[0]), "../w/other.pt"]})
        fit([EpochCheckpoint(folder, max_ckpt=1)], best, resume=True, epochs=1)
    for one in precious:
        one.write_text("precious")
    with pytest.raises(CheckpointCorruptError, match="EpochCheckpoint has .* as its 'files'"):
        fit([EpochCheckpoint(folder, max_ckpt=1)], best, resume=True, epochs=3)
    assert [one.read_text() for one in precious] == ["precious"] * 2
